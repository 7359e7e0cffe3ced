"""Runs `darkroom train-tiny` as `python -m darkroom.tools.tiny`."""

from darkroom.tools.tiny.training.command import train_tiny

if __name__ == "__main__":
    train_tiny()
