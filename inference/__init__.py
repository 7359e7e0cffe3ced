"""Requests become pixels: devices, the lanes that drive them, poses, and the tiny model. No Kafka, no S3."""
