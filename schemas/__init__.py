"""Defines events, digests, error codes, names and settings. The only package that turns bytes into types."""
