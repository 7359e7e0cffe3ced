"""`python -m inference.tiny` is `darkroom train-tiny`."""

from inference.tiny.training.command import train_tiny

if __name__ == "__main__":
    train_tiny()
