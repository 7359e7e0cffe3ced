"""What the denoise lane does besides running the networks: its share of a step, and where it goes.

Two runs over the same rows. The first is only timed: from the start of a step to the start of the next, and inside of
it the networks' forwards. The second runs a profiler on everything else, and is used for the breakdown alone,
because a profiler makes small calls look dear.
"""

from __future__ import annotations

import cProfile
import pstats
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from diffusers import ControlNetModel, UNet2DConditionModel

from darkroom.inference.contract import Device, PreparedRows
from darkroom.inference.types import (
    CacheCounts,
    ModelInfo,
    Part,
    Preview,
    RenderedImage,
    RenderFault,
    RenderJob,
    Series,
)
from tests.bench.contenders import OurEngine
from tests.bench.offline import BATCH, requests

OURS = Path(__file__).resolve().parents[2] / "inference"
LISTED = 12
"""Functions in the breakdown."""


class WatchedDevice(Device[Any]):
    """Passes everything on, and calls back around each step, on the denoise lane's thread."""

    def __init__(self, device: Device[Any], before: Callable[[], None], after: Callable[[], None]) -> None:
        self._device = device
        self._before = before
        self._after = after

    @property
    def info(self) -> ModelInfo:
        return self._device.info

    @property
    def series(self) -> Series:
        return self._device.series

    def rows_ceiling(self, latent_height: int, latent_width: int) -> int | None:
        return self._device.rows_ceiling(latent_height, latent_width)

    def load(self) -> None:
        self._device.load()

    def prepare(self, job: RenderJob) -> PreparedRows[Any]:
        return self._device.prepare(job)

    def step(self, rows: Sequence[Any]) -> None:
        self._before()
        self._device.step(rows)
        self._after()

    def finish(self, rows: Sequence[Any]) -> tuple[RenderedImage | RenderFault, ...]:
        return self._device.finish(rows)

    def preview(self, row: Any) -> Preview | None:
        return self._device.preview(row)

    def measured_on(self) -> Mapping[str, str]:
        return self._device.measured_on()

    def buckets(self, latent_height: int, latent_width: int) -> tuple[int, ...]:
        return self._device.buckets(latent_height, latent_width)

    def measure(self, part: Part, latent_height: int, latent_width: int, count: int) -> float:
        return self._device.measure(part, latent_height, latent_width, count)

    def cache_counts(self) -> Mapping[str, CacheCounts]:
        return self._device.cache_counts()

    def memory_bytes(self) -> Mapping[str, int]:
        return self._device.memory_bytes()

    def close(self) -> None:
        self._device.close()


def overhead(make_device: Callable[[], Device[Any]], side: int, steps: int) -> dict[str, Any]:
    """The share of a step that is spent outside of UNet and ControlNet, with `BATCH` rows of `side` pixels.

    Rows leave at the last step only, so the VAE has no part in what is looked at.
    """
    starts, ends, inside = [0.0], [0.0], [0.0]
    networks_s = 0.0

    def start() -> None:
        nonlocal networks_s
        inside.append(networks_s)
        starts.append(time.perf_counter())

    def forward_ended(began: float) -> None:
        nonlocal networks_s
        networks_s += time.perf_counter() - began

    ours = OurEngine(WatchedDevice(make_device(), start, lambda: ends.append(time.perf_counter())), rows_max=BATCH)
    try:
        ours.paint(requests([2] * BATCH, side), BATCH)
        with around_networks(time.perf_counter, forward_ended):
            for marks in (starts, ends, inside):
                marks.clear()
            ours.paint(requests([steps] * BATCH, side), BATCH)
    finally:
        ours.close()
    whole, networks = _gaps(starts), _gaps(inside)
    shares = [1 - network / step for network, step in zip(networks, whole, strict=True)]
    return {
        "side": side,
        "rows": BATCH,
        "step_ms": statistics.median(whole) * 1000,
        "networks_ms": statistics.median(networks) * 1000,
        "between_steps_ms": statistics.median(b - a for a, b in zip(ends, starts[1:], strict=False)) * 1000,
        "share": statistics.median(shares),
        "breakdown": _breakdown(make_device, side, steps),
    }


def _gaps(marks: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(marks)]


@contextmanager
def around_networks(before: Callable[[], Any], after: Callable[[Any], None]) -> Iterator[None]:
    """Call `before` and `after` around every forward of UNet and ControlNet; `after` takes what `before` gave."""
    kinds: list[Any] = [UNet2DConditionModel, ControlNetModel]
    originals = [kind.forward for kind in kinds]

    def watched(original: Any) -> Any:
        def forward(*arguments: Any, **options: Any) -> Any:
            token = before()
            try:
                return original(*arguments, **options)
            finally:
                after(token)

        return forward

    for kind, original in zip(kinds, originals, strict=True):
        kind.forward = watched(original)
    try:
        yield
    finally:
        for kind, original in zip(kinds, originals, strict=True):
            kind.forward = original


def _breakdown(make_device: Callable[[], Device[Any]], side: int, steps: int) -> list[dict[str, Any]]:
    """Our own functions on the denoise lane by cumulative time a step, the networks' left out, the dearest first."""
    profile = cProfile.Profile(builtins=False)
    done = -2

    def stepped() -> None:
        nonlocal done
        done += 1
        # From the end of the first step on, so that the lanes' time between steps is in it; and before rows
        # are handed to the finish lane, whose time is not.
        if done == 1:
            profile.enable()
        elif done == steps:
            profile.disable()

    ours = OurEngine(WatchedDevice(make_device(), lambda: None, stepped), rows_max=BATCH)
    try:
        ours.paint(requests([2] * BATCH, side), BATCH)
        with around_networks(profile.disable, lambda _: profile.enable() if 1 <= done < steps else None):
            ours.paint(requests([steps] * BATCH, side), BATCH)
    finally:
        ours.close()
    found = []
    for (file, line, name), (_, calls, own, cumulative, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if Path(file).is_relative_to(OURS):
            found.append(
                {
                    "function": f"{Path(file).relative_to(OURS)}:{line} {name}",
                    "ms": cumulative / (steps - 1) * 1000,
                    "own_ms": own / (steps - 1) * 1000,
                    "calls": calls / (steps - 1),
                }
            )
    return sorted(found, key=lambda one: -one["ms"])[:LISTED]
