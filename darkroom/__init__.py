"""Darkroom's front door: the public names, and `main` of the command line.

Nothing here imports what it does not need: a command's module is imported when the command is called, and the
public names when they are asked for, so that `darkroom --help` and a client start at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from darkroom.command_line import main
    from darkroom.producer.client.client import Client, KafkaUnavailable, SendInterrupted
    from darkroom.producer.poses.files import frames_of, photo_of, pose_of
    from darkroom.schemas.errors import RequestRejected
    from darkroom.schemas.events.completion import Completion
    from darkroom.schemas.events.progress import Progress
    from darkroom.schemas.events.request import GenerationRequest
    from darkroom.schemas.settings import Settings, load_settings

_PUBLIC = {
    "main": "darkroom.command_line",
    "Client": "darkroom.producer.client.client",
    "Completion": "darkroom.schemas.events.completion",
    "GenerationRequest": "darkroom.schemas.events.request",
    "KafkaUnavailable": "darkroom.producer.kafka.connection",
    "Progress": "darkroom.schemas.events.progress",
    "RequestRejected": "darkroom.schemas.errors",
    "SendInterrupted": "darkroom.producer.client.client",
    "Settings": "darkroom.schemas.settings",
    "frames_of": "darkroom.producer.poses.files",
    "load_settings": "darkroom.schemas.settings",
    "photo_of": "darkroom.producer.poses.files",
    "pose_of": "darkroom.producer.poses.files",
}

__all__ = [
    "Client",
    "Completion",
    "GenerationRequest",
    "KafkaUnavailable",
    "Progress",
    "RequestRejected",
    "SendInterrupted",
    "Settings",
    "frames_of",
    "load_settings",
    "main",
    "photo_of",
    "pose_of",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for (PEP 562)."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'darkroom' has no attribute {name!r}")
