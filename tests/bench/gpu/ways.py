"""Exact pictures beside cheaper ones, the same requests on one engine: seconds an image, and how far they differ."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from darkroom.inference.types import RenderRequest
from darkroom.tools.tiny.quality.economy import psnr
from tests.bench.contenders import OurEngine
from tests.bench.gpu.timing import timed
from tests.bench.offline import requests

STEPS = 25
"""Of an exact picture."""


@dataclass(frozen=True)
class Way:
    """One way to paint a request, and the exact way that its pictures are held against."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    exact: str = "exact"


WAYS = (
    Way("exact"),
    Way("economy", {"fidelity": "economy"}),
    Way("exact, euler", {"sampler": "euler"}, "exact, euler"),
    Way("economy, euler", {"sampler": "euler", "fidelity": "economy"}, "exact, euler"),
    Way("guidance in the first 70%", {"guidance_end": 0.7}),
    Way("4 steps without guidance, lcm", {"steps": 4, "sampler": "lcm", "guidance_scale": 1.0}),
)


def ways(engine: OurEngine, device: Any, *, rows: int, side: int) -> list[dict[str, Any]]:
    """Paint the same requests in each way, `rows` of them together: a first time for kernels and caches, then timed."""
    load = requests([STEPS] * rows, side)
    pictures: dict[str, list[bytes]] = {}
    found: list[dict[str, Any]] = []
    for way in WAYS:
        asked = [replace(one, **way.changes) for one in load]
        pictures[way.name] = engine.paint(asked, rows)
        taken = timed(device, partial(engine.paint, asked, rows))
        found.append({"way": way.name, "exact": way.exact, "batch": rows, **taken, **_of(asked)})
        noises = _noises(pictures[way.exact], pictures[way.name])
        found[-1] |= {"psnr": sum(noises) / len(noises), "psnr_min": min(noises)}
    return found


def _of(asked: Sequence[RenderRequest]) -> dict[str, Any]:
    return {"sampler": asked[0].sampler, "steps": asked[0].steps}


def _noises(exact: Sequence[bytes], others: Sequence[bytes]) -> list[float]:
    return [psnr(_pixels(one), _pixels(other)) for one, other in zip(exact, others, strict=True)]


def _pixels(content: bytes) -> Any:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))
