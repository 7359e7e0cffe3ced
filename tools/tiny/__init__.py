"""Trains and judges the built-in tiny model."""
