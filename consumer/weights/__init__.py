"""Models from the object store: fetched whole into a bounded folder of this machine, and shared by its workers."""

from darkroom.consumer.weights.store import ModelStore

__all__ = ["ModelStore"]
