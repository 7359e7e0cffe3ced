"""Turns requests into pixels: the engine, its devices, poses, and the tiny model. Knows neither Kafka nor S3."""
