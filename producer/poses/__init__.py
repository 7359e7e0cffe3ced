"""Poses as people have them: documents of other tools, skeleton pictures and photos, read into a request's pose."""
