"""The gateway's jobs: how a request is accepted, followed through Kafka's events, and repaired from the store."""
