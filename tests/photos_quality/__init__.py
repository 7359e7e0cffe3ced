"""Measures how people are found in photos: `python -m tests.photos_quality`. No test; docs/how-to/photos.md has the table."""
