"""Estimates the device time of a request from a device's profile, before anything is rendered."""

from __future__ import annotations

from typing import Final, NamedTuple

from darkroom.inference.contract import CostProfile
from darkroom.inference.planning.reuse import full_calls_of
from darkroom.inference.types import RenderRequest

KINDS_MAX: Final = 1024
"""Kinds of rows whose time is remembered: an estimate takes some ten microseconds, and a load has a few kinds."""


class RowKind(NamedTuple):
    """The properties of a request that decide the device time of one of its images."""

    latent_height: int
    latent_width: int
    steps: int
    """Full ones."""
    shallow_steps: int
    guided: bool
    posed: bool

    def seconds(self, profile: CostProfile, rows: int) -> float:
        """Return one image's share of the device, where `rows` such images share each step."""
        size = self.latent_height, self.latent_width
        return profile.device_seconds(
            *size,
            steps=self.steps,
            shallow_steps=self.shallow_steps,
            guided=self.guided,
            posed=self.posed,
            rows=rows,
        )


def kind_of(request: RenderRequest, latent_factor: int) -> RowKind:
    """Return the kind of a request's images; `latent_factor` is the model's pixels for one latent pixel."""
    full = full_calls_of(request)
    return RowKind(
        request.height // latent_factor,
        request.width // latent_factor,
        full,
        request.calls - full,
        guided=request.guidance_scale > 1,
        posed=request.pose is not None or bool(request.controls),
    )


class RequestCosts:
    """The device time of requests in batches of their size's cap."""

    def __init__(self, profile: CostProfile | None, latent_factor: int, *, rows_max: int) -> None:
        """Without a profile every request takes no time. `rows_max`: rows that may share a step."""
        self._profile = profile
        self._latent_factor = latent_factor
        self._rows_max = rows_max
        self._known: dict[RowKind, float] = {}

    def microseconds(self, request: RenderRequest) -> int:
        """Return the device time of all images of a request."""
        if self._profile is None:
            return 0
        kind = kind_of(request, self._latent_factor)
        seconds = self._known.get(kind)
        if seconds is None:
            if len(self._known) >= KINDS_MAX:
                self._known.clear()
            rows = self._profile.cap(kind.latent_height, kind.latent_width, rows_max=self._rows_max)
            seconds = self._known[kind] = kind.seconds(self._profile, rows)
        return round(request.count * seconds * 1e6)


NOTHING_MEASURED: Final = RequestCosts(None, 1, rows_max=1)
"""The costs on a device without a profile: none are known."""
