"""A real Apache Kafka and a real S3 server from packages alone, for demos, tests and trying things out.

Two processes in one data folder, on loopback only. Nothing here knows what Darkroom sends through them.
"""

from darkroom.consumer.stack.errors import StackError
from darkroom.consumer.stack.settings import DEFAULT_DIRECTORY, DIRECTORY_VARIABLE, StackSettings
from darkroom.consumer.stack.stack import ServerStatus, Stack, StackStatus
from darkroom.consumer.stack.state import StackState
from darkroom.consumer.stack.tls import TlsListeners

__all__ = [
    "DEFAULT_DIRECTORY",
    "DIRECTORY_VARIABLE",
    "ServerStatus",
    "Stack",
    "StackError",
    "StackSettings",
    "StackState",
    "StackStatus",
    "TlsListeners",
]
