"""Measures how people are found in photos, for the table in docs/how-to/photos.md: `python -m tests.photos_quality`."""
