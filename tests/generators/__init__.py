"""Proves that clients generated from the published documents compile, and that what they write is painted alike."""
