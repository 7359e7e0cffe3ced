"""The parity contract: how far a request's picture may be from itself, by who shared its steps and how it was computed.

One table for the tests, for docs/explain/pictures.md and for `python -m tests.bench.parity` on another device.
Distances are of 8-bit values, over all channels of all pixels of all requests: the largest, and the mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.types import RenderRequest
from tests.inference.painting import PLAIN, POSED, SITTING, Oracle, Pixels, paint, paint_together

COMPARISONS: Final = (
    "solo against pipeline",
    "batch against solo",
    "joined mid-way against solo",
    "replay against first",
)

REQUESTS: Final[Sequence[RenderRequest]] = (
    replace(POSED, steps=6, seed=1),
    replace(PLAIN, steps=4, seed=2, guidance_scale=1.0),
    replace(POSED, steps=5, seed=3, pose=SITTING, control_scale=0.6, control_end=0.7, negative_prompt="dark"),
    replace(POSED, steps=3, seed=5, sampler="euler", guidance_scale=9.0),
)
"""Of unequal steps, guidance, sampler, pose and window, so that a batch of them mixes all that may be mixed."""


@dataclass(frozen=True, slots=True)
class Distance:
    """Of 255, as measured or as promised."""

    largest: int
    mean: float

    def within(self, promised: Distance) -> bool:
        """Whether it is no more than what was promised."""
        return self.largest <= promised.largest and self.mean <= promised.mean


TOLERANCES: Final = {"float32": Distance(1, 0.02), "float16": Distance(12, 0.6), "bfloat16": Distance(48, 2.0)}
"""By dtype. In half precision every step rounds, and the order of sums differs between a batch and a row alone."""


def promised(dtype: str, comparison: str, *, device_kind: str) -> Distance:
    """What a distance may be. On a CPU a replay is the same to the last bit; a GPU may choose other kernels."""
    if comparison == COMPARISONS[3] and device_kind == "cpu":
        return Distance(0, 0.0)
    return TOLERANCES[dtype]


def distances(device: SdxlDevice, oracle: Oracle) -> Iterator[tuple[str, Distance]]:
    """Every comparison of `COMPARISONS`, in its order, with what it measured on this device."""
    alone = [paint(device, request) for request in REQUESTS]
    yield COMPARISONS[0], _distance(alone, [oracle.paint(request) for request in REQUESTS])
    yield COMPARISONS[1], _distance(paint_together(device, [(0, request) for request in REQUESTS]), alone)
    yield COMPARISONS[2], _distance(paint_together(device, [(2 * n, one) for n, one in enumerate(REQUESTS)]), alone)
    yield COMPARISONS[3], _distance([paint(device, request) for request in REQUESTS], alone)


def _distance(painted: Sequence[Pixels], others: Sequence[Pixels]) -> Distance:
    differences = [np.abs(one - other) for one, other in zip(painted, others, strict=True)]
    return Distance(
        largest=max(int(one.max()) for one in differences), mean=float(np.mean([one.mean() for one in differences]))
    )
