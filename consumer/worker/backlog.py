"""Estimates how long this worker's device needs for what waits: from the profile, for `darkroom_lag_seconds`.

What is in the worker's hands is known: each row's size, steps, guidance, pose and fidelity give its device seconds,
shared with as many rows of its size as wait, at most the cap. A row that is on the device counts as if it had not
begun. What is not read yet counts with the mean of what is known, or, with nothing in hand, of what was rendered last.
Preparing and storing overlap and are left out, and so is a change of size between batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from darkroom.inference.contract import CostProfile
from darkroom.inference.planning.reuse import calls_worth
from darkroom.inference.types import ModelInfo, RenderRequest

MEAN_WEIGHT: Final = 0.05
"""Of the newest request in the running mean: it follows a change of load within some twenty requests."""


class MeanSeconds:
    """A running mean that forgets."""

    def __init__(self) -> None:
        self.value: float | None = None
        """None before the first."""

    def add(self, seconds: float) -> None:
        """One more."""
        self.value = seconds if self.value is None else self.value + MEAN_WEIGHT * (seconds - self.value)


class _Kind(NamedTuple):
    """What decides a row's device seconds."""

    latent_height: int
    latent_width: int
    steps: float
    """In full steps' worth."""
    guided: bool
    posed: bool


def backlog_seconds(
    profile: CostProfile,
    info: ModelInfo,
    known: Iterable[RenderRequest],
    unread: int,
    *,
    rows_max: int,
    mean_s: float | None,
) -> float | None:
    """Device seconds of the `known` requests and of `unread` more records.

    `rows_max`: rows that may share a step. `mean_s`: device seconds of the last rendered requests. None where there is
    something to clear and nothing to tell by.
    """
    kinds: Counter[_Kind] = Counter()
    requests = 0
    for request in known:
        requests += 1
        kinds[_kind_of(request, info)] += request.count
    rows_of: Counter[tuple[int, int]] = Counter()
    for kind, rows in kinds.items():
        rows_of[kind.latent_height, kind.latent_width] += rows
    total = 0.0
    for kind, rows in kinds.items():
        size = (kind.latent_height, kind.latent_width)
        shared_by = min(profile.cap(*size, rows_max=rows_max), rows_of[size])
        total += rows * profile.device_seconds(
            *size, steps=kind.steps, guided=kind.guided, posed=kind.posed, rows=shared_by
        )
    if not unread:
        return total
    mean = total / requests if requests else mean_s
    return None if mean is None else total + unread * mean


def _kind_of(request: RenderRequest, info: ModelInfo) -> _Kind:
    return _Kind(
        request.height // info.latent_factor,
        request.width // info.latent_factor,
        calls_worth(request),
        guided=request.guidance_scale > 1,
        posed=request.pose is not None or bool(request.controls),
    )
