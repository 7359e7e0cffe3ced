"""Reaches Kafka and the store for everybody: connections, outcomes, pictures, the client, the gateway."""
