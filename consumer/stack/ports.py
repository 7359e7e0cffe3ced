"""Free ports on the loopback interface, below the range that outgoing connections take theirs from.

A client that keeps dialling a local port on which nothing listens is, now and then, given that very port as its own
and connects to itself; a server that comes back then finds its port taken. Below the range that cannot happen.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Collection
from pathlib import Path
from typing import Final

from darkroom.consumer.stack.errors import StackError

LOOPBACK: Final = "127.0.0.1"
_FIRST: Final = 10_240
_END: Final = 32_768
"""Linux gives ports to outgoing connections from here on, macOS from 49,152 on."""
_WIDTH_MIN: Final = 1_000
_TRIES: Final = 2_000
_RANGE_FILE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


def is_free(port: int) -> bool:
    """Return whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as candidate:
        # As the servers do: connections of an earlier run that are still being closed are no obstacle.
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((LOOPBACK, port))
            candidate.listen(1)
        except OSError:
            return False
    return True


def free_ports(count: int, *, avoid: Collection[int] = (), twin_offset: int = 0) -> tuple[int, ...]:
    """So many different free ports, at random, none of `avoid`.

    With a `twin_offset`, the port that lies so much above each is free as well. Raises `StackError`.
    """
    end = _end(twin_offset)
    chosen: list[int] = []
    for _ in range(_TRIES):
        if len(chosen) == count:
            break
        port = _FIRST + secrets.randbelow(end - _FIRST)
        pair = {port, port + twin_offset}
        if pair.isdisjoint(chosen) and pair.isdisjoint(avoid) and all(is_free(each) for each in pair):
            chosen.append(port)
    if len(chosen) < count:
        raise StackError(
            f"No {count} free ports between {_FIRST} and {end} on {LOOPBACK}. Stop programs that listen there, or "
            "check that this user may listen on loopback at all."
        )
    return tuple(chosen)


def _end(twin_offset: int) -> int:
    """Where to stop, so that twins too lie below the ports of outgoing connections, where that leaves room."""
    end = _END
    with contextlib.suppress(OSError, ValueError, IndexError):
        end = min(end, int(_RANGE_FILE.read_text().split()[0]))
    if end - twin_offset < _FIRST + _WIDTH_MIN:
        end = _END
    return end - twin_offset
