"""The built-in model, which paints for real, for everybody, so that nobody has to believe a simulation alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.bench.peers.contenders import BATCH, DARKROOM, ENDPOINT, PLAIN, RAY, NotStarted, installed
from tests.bench.peers.loads import backlog, mixed
from tests.bench.peers.measuring import measured, running

REQUESTS = 32


async def tiny(
    environment: Mapping[str, str], folder: Path, seed: int, *, quick: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """A backlog, one contender after the other: they would share the cores."""
    load = backlog(mixed(REQUESTS // (8 if quick else 1), seed))
    figures: dict[str, Any] = {}
    for kind in (ENDPOINT, PLAIN, BATCH, RAY, DARKROOM):
        if installed(kind):
            say(f"the tiny model, {kind.label}")
            try:
                async with running(environment, folder, kind, None) as started:
                    figures[kind.name] = await measured(started, load, None)
            except NotStarted as error:
                say(f"left out, {str(error)[:200]}")
    return figures
