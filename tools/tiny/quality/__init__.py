"""Measures whether darkroom-tiny paints what it is asked for, through the same device that a worker uses.

`looking` reads one picture, `painting` has pictures painted, `table` asks for the pictures that the questions need and
answers them, `sheet` lays them out for the eye.
"""
