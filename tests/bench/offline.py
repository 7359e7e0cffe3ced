"""Requests for the offline comparisons, and the rules by which the pipeline may group them."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Sequence
from itertools import count

from darkroom.inference.pose.skeleton import draw_people
from darkroom.inference.types import RenderRequest
from darkroom.schemas.events.pose import InlinePicture, SkeletonPose

BATCH = 8
"""Rows that may share a step, and requests in one call of the pipeline."""
WINDOW = 2 * BATCH
"""How many requests the pipeline may look at together in arrival order: twice what the engine holds on the device."""
STEPS = (20, 25, 30, 40)

_serial = count(1)
_FIGURE = (
    (0.50, 0.12), (0.50, 0.26), (0.36, 0.26), (0.28, 0.42), (0.26, 0.58), (0.64, 0.26), (0.76, 0.18), (0.84, 0.06),
    (0.42, 0.56), (0.40, 0.76), (0.38, 0.96), (0.58, 0.56), (0.60, 0.76), (0.62, 0.96), (0.47, 0.09), (0.53, 0.09),
    (0.43, 0.11), (0.57, 0.11),
)  # fmt: skip


def requests(steps: Sequence[int], side: int, *, posed: bool = True) -> list[RenderRequest]:
    """One request for each number of steps, `side` pixels square.

    No two of a process have the same prompt, pose or seed, so that no cache helps whoever is measured second.
    """
    return [_request(next(_serial), number, side, posed) for number in steps]


def _request(serial: int, steps: int, side: int, posed: bool) -> RenderRequest:
    return RenderRequest(
        prompt=f"dancer number {serial} on a stage",
        negative_prompt=None,
        width=side,
        height=side,
        steps=steps,
        guidance_scale=5.0,
        sampler="euler_ancestral",
        seed=serial,
        pose=skeleton(serial, side) if posed else None,
    )


def skeleton(serial: int, side: int) -> SkeletonPose:
    """A pose picture of `side` pixels square, another one for each serial."""
    rng = random.Random(serial)
    person = [(x + rng.uniform(-0.05, 0.05), y + rng.uniform(-0.05, 0.05)) for x, y in _FIGURE]
    png = io.BytesIO()
    draw_people([person], width=side, height=side).save(png, "PNG")
    return SkeletonPose(image=InlinePicture(inline=base64.b64encode(png.getvalue()).decode()))


def mixed_steps(number: int, seed: int) -> list[int]:
    """As many of each of `STEPS`, shuffled. Sorted, no batch of them is short."""
    assert number % (BATCH * len(STEPS)) == 0
    steps = [*STEPS] * (number // len(STEPS))
    random.Random(seed).shuffle(steps)
    return steps


def in_batches(load: Sequence[RenderRequest], size: int = BATCH) -> list[list[RenderRequest]]:
    """As they come, `size` at a time."""
    return [list(load[at : at + size]) for at in range(0, len(load), size)]


def by_steps(load: Sequence[RenderRequest]) -> list[list[RenderRequest]]:
    """Batches of equal steps out of the whole load: what sorting everything beforehand allows."""
    groups: dict[int, list[RenderRequest]] = {}
    for request in load:
        groups.setdefault(request.steps, []).append(request)
    return [batch for group in groups.values() for batch in in_batches(group)]


def in_windows(load: Sequence[RenderRequest], window: int = WINDOW) -> list[list[RenderRequest]]:
    """Batches of equal steps out of each `window` requests in order of arrival."""
    return [batch for taken in in_batches(load, window) for batch in by_steps(taken)]
