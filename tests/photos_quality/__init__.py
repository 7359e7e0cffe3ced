"""Measures how people are found in photos: `python -m tests.photos_quality`. No test; docs/photos.md has the table."""
