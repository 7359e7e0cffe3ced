"""Poses as people have them: documents of the field's tools, skeleton pictures and photos, read into a request's pose."""
