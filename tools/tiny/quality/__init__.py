"""Measures how well darkroom-tiny follows prompts and poses, with the same device that a worker uses.

`looking` analyses one picture, `painting` renders pictures, `table` measures the quality table, and `sheet` lays out
pictures for inspection.
"""
