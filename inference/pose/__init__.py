"""Turns a pose, in any of its forms, into the picture that conditions the ControlNet.

Needs only Pillow, except for the detectors of people in photos, which are imported by devices that use them. Every
device, the simulated one included, reads strangers' pictures with the same code.
"""
