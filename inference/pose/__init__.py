"""From a pose, however it was given, to the picture that conditions the ControlNet.

Pillow alone: whatever takes pictures from strangers is shared by every device, the simulated one included.
"""
