"""Description of a server that the stack can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

Ports = Mapping[str, int]
"""A server's ports by what they are for."""
Report = Callable[[str], None]
"""Takes one line of progress."""


class Server(Protocol):
    """One of the stack's servers, and how it is started. Whether it runs, and as which process, others keep."""

    @property
    def title(self) -> str:
        """Its name for people."""

    @property
    def version(self) -> str:
        """The version that would be started."""

    @property
    def folder(self) -> Path:
        """Where its data is."""

    @property
    def marker(self) -> str:
        """An argument of its command line that only this folder's server has."""

    @property
    def stop_limit_s(self) -> float:
        """Return the seconds for which it is worth waiting for the server to stop by itself."""

    def choose_ports(self) -> dict[str, int]:
        """Free ports, all that it needs. Raises `StackError` where there are none."""

    def address(self, ports: Ports) -> str:
        """`host:port` for clients."""

    def prepare(self, report: Report) -> None:
        """Get what it takes to run. Slow the first time. Raises `StackError`."""

    def command(self, ports: Ports) -> list[str]:
        """Write its configuration, and say how to start it. Only after `prepare`."""

    def environment(self) -> dict[str, str]:
        """The whole environment of its process."""

    def is_ready(self, ports: Ports) -> bool:
        """Ask it, in its own protocol, whether it does its work. Takes 5 s at most."""

    def tidy(self, ports: Ports) -> None:
        """Remove what it leaves outside of its folder. Only when it does not run."""
