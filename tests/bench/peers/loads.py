"""The loads that everybody gets: requests and their times, from a seed."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from darkroom.inference.planning.profile import GUIDED_SLOTS, DeviceProfile
from darkroom.inference.planning.profile_store import read_profile
from darkroom.schemas.events.pose import SkeletonPose
from darkroom.schemas.events.request import GenerationRequest
from tests.bench.offline import skeleton
from tests.bench.throughput import mixed_load

SIDE = 64
POSES = 64
"""Different pose pictures; drawing one takes longer than all else of a request."""
CURVES_FOLDER = Path(__file__).parent / "curves"
CURVES = ("tiny", "gpu-512", "gpu-1024", "flat")


@dataclass(frozen=True, slots=True)
class Load:
    """Requests in the order of their times, in seconds from the beginning."""

    requests: tuple[GenerationRequest, ...]
    at_s: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.requests)


def curve_file(name: str) -> Path:
    """The profile of one of `CURVES`."""
    return CURVES_FOLDER / f"{name}.json"


def curve(name: str) -> DeviceProfile:
    """What a step takes on it."""
    return read_profile(curve_file(name))


def mixed(count: int, seed: int, side: int = SIDE) -> tuple[GenerationRequest, ...]:
    """Steps 20 to 40, guidance 1, 5 and 7.5, a third without a pose, each its own prompt, `side` pixels square."""
    rng = random.Random(seed + 1_000_000)
    return tuple(
        one.model_copy(
            update={
                "prompt": f"dancer number {number} on a stage",
                "seed": seed * 1_000_000 + number,
                "width": side,
                "height": side,
                "pose": None if rng.random() < 1 / 3 else _pose(rng.randrange(POSES), side),
            }
        )
        for number, one in enumerate(mixed_load(count, seed))
    )


def uniform(count: int, seed: int) -> tuple[GenerationRequest, ...]:
    """What batches like best: 25 steps, guidance 5 and a pose, all of them."""
    return tuple(
        one.model_copy(update={"steps": 25, "guidance_scale": 5.0, "pose": one.pose or _pose(number % POSES, SIDE)})
        for number, one in enumerate(mixed(count, seed))
    )


def backlog(requests: Sequence[GenerationRequest]) -> Load:
    """All at once."""
    return Load(tuple(requests), (0.0,) * len(requests))


def poisson(requests: Sequence[GenerationRequest], per_second: float, seed: int) -> Load:
    """Arrivals of a Poisson process."""
    rng, at_s, times = random.Random(seed + 2_000_000), 0.0, []
    for _ in requests:
        at_s += rng.expovariate(per_second)
        times.append(at_s)
    return Load(tuple(requests), tuple(times))


def alone_s(request: GenerationRequest, profile: DeviceProfile) -> float:
    """What the device takes for the request by itself."""
    slots = GUIDED_SLOTS if request.guidance_scale > 1 else 1
    control_slots = 0 if request.pose is None else slots
    assert request.steps is not None
    step_ms = profile.step_ms(SIDE // 8, SIDE // 8, unet_slots=slots, control_slots=control_slots)
    return request.steps * step_ms / 1000


@functools.cache
def _pose(number: int, side: int) -> SkeletonPose:
    return skeleton(number, side)
