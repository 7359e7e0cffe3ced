"""The commands that talk to Kafka, the store or the gateway. Nothing imports them but the command line."""
