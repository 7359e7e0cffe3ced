"""Everybody's edge to Apache Kafka: connections, topics, rights, groups, and readers without a group."""
