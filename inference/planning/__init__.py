"""Estimates what a device can hold and how long its work takes: memory plans, measured profiles, calibration."""
