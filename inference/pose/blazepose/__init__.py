"""BlazePose: finds people in photos on one core of the CPU, with weights that anybody may use (Apache-2.0).

`decode` turns the two networks' outputs into people by numpy alone, `detector` runs them. SOURCE.md says where the
weights come from. Numpy, Pillow and LiteRT (the extra `photos`), no torch: `darkroom pose` uses it too.
"""
