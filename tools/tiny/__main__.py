"""`python -m darkroom.inference.tiny` is `darkroom train-tiny`."""

from darkroom.tools.tiny.training.command import train_tiny

if __name__ == "__main__":
    train_tiny()
