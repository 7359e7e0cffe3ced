"""Jobs: accepting a request, following it through Kafka events, and repairing it from the object store."""
