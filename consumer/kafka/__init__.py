"""The worker's edge to Apache Kafka, on aiokafka. Translates its records, callbacks and errors once."""
