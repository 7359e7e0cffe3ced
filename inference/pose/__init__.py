"""From a pose, however it was given, to the picture that conditions the ControlNet.

Pillow alone, but for the detector of people in photos (`openpose`), which only a device that was given its weights
imports: whatever takes pictures from strangers is shared by every device, the simulated one included.
"""
