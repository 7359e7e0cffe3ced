"""Holds topics, offsets and bucket against each other: each record has exactly one outcome."""
