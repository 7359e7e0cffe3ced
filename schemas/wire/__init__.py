"""Bytes to events and back: JSON, CloudEvents, headers and digests."""
