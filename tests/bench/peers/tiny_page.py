"""The built-in model, which paints for real, for everybody, so that nobody has to believe a simulation alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.bench.peers.contenders import BATCH, DARKROOM, ENDPOINT, PLAIN, RAY, NotStarted, installed
from tests.bench.peers.kept import Kept
from tests.bench.peers.loads import backlog, mixed
from tests.bench.peers.measuring import measured, running

REQUESTS = 32
SIDE = 128
"""Pixels: the size that it was trained for."""


async def tiny(
    kept: Kept, environment: Mapping[str, str], folder: Path, seed: int, *, quick: bool, say: Callable[[str], None]
) -> None:
    """A backlog, one contender after the other: they would share the cores.

    Darkroom measures the model at its start, as it would on a new machine: a profile in the user's folder may be of a
    busier hour.
    """
    profiles = str(folder / "tiny-profiles")
    load = backlog(mixed(REQUESTS // (8 if quick else 1), seed, SIDE))
    for kind in (ENDPOINT, PLAIN, BATCH, RAY, DARKROOM):
        if installed(kind):
            say(f"the tiny model, {kind.label}")
            try:
                async with running(environment, folder, kind, None, DARKROOM_MODEL__PROFILE_DIR=profiles) as started:
                    kept.keep(await measured(started, load, None), kind.name)
            except NotStarted as error:
                say(f"left out, {str(error)[:200]}")
