"""From the start of a process to its first picture: Darkroom with the tiny model, and a bare diffusers script.

The request waits on its topic when the worker is started. The worker's profile was measured by an earlier start, as it
is wherever the profile's folder is kept; what the very first start takes for that stands beside it.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.peers.client import reading, send
from tests.bench.peers.contenders import DARKROOM, ROOT, Contender, Place
from tests.bench.peers.loads import backlog, uniform
from tests.bench.peers.measuring import LIMIT_S, prepare

RUNS = 3
"""They take turns. The fastest of each counts: noise only adds."""


async def cold(environment: Mapping[str, str], folder: Path, seed: int, *, quick: bool) -> dict[str, Any]:
    """Seconds of each part, of the fastest run of each."""
    profiles = folder / "profiles"
    first = await _darkroom(environment, folder, seed, profiles)
    ours, bare = [], []
    for _ in range(1 if quick else RUNS):
        ours.append(await _darkroom(environment, folder, seed, profiles))
        bare.append(await asyncio.to_thread(_bare, folder))
    best, best_bare = (min(runs, key=lambda run: run["total"]) for runs in (ours, bare))
    return {
        "runs": len(ours),
        "darkroom": best,
        "darkroom_first_start": first,
        "bare": best_bare,
        "ratio": best["total"] / best_bare["total"],
        "ratio_of_medians": statistics.median(run["total"] for run in ours)
        / statistics.median(run["total"] for run in bare),
    }


async def _darkroom(environment: Mapping[str, str], folder: Path, seed: int, profiles: Path) -> dict[str, float]:
    place = Place(environment, folder, DARKROOM, DARKROOM_MODEL__PROFILE_DIR=str(profiles))
    await prepare(place)
    contender = Contender(DARKROOM, place, None)
    try:
        async with reading(place) as answers:
            await send(contender, backlog(uniform(1, seed)), answers)
            began = time.time()
            await asyncio.to_thread(contender.start)
            await answers.wait_for(1, LIMIT_S)
            [answered] = answers.at_s.values()
        at = {event: contender.logged_at(event) for event in ("health and metrics", "calibrated", "ready")}
        calibrated_s = contender.logged("calibrated")[0]["seconds"]
        taken = contender.logged_at("partitions assigned")
    finally:
        await asyncio.to_thread(contender.kill)
    loaded = at["calibrated"] - calibrated_s
    return {
        "imports, Kafka and the store asked": at["health and metrics"] - began,
        "model": loaded - at["health and metrics"],
        "measured profile": calibrated_s,
        "group joined": taken - at["calibrated"],
        "first picture": answered - taken,
        "total": answered - began,
    }


def _bare(folder: Path) -> dict[str, float]:
    began = time.time()
    command = [sys.executable, "-m", "tests.bench.peers.bare_script", str(folder / "bare.png")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    at = json.loads(done.stdout.splitlines()[-1])
    return {
        "interpreter": at["began"] - began,
        "imports": at["imported"] - at["began"],
        "model": at["loaded"] - at["imported"],
        "first picture": at["painted"] - at["loaded"],
        "total": at["painted"] - began,
    }
