"""A load: when requests arrive, and what they ask for.

Arrivals are a Poisson process whose rate may change over time (bursts, a daily profile), or recorded times. A mix says
which steps, sizes, guidance, poses and counts there are, each with its share. The same seed, the same load.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from darkroom.consumer.planner.topic import Arrival
from darkroom.inference.types import BatchKey, RenderRequest
from darkroom.schemas.events.pose import PeoplePose

ARRIVALS_MAX: Final = 2_000_000
LATENT_FACTOR: Final = 8
REVISION: Final = "planned"
HOUR_S: Final = 3600.0
DAY_S: Final = 24 * HOUR_S
# fmt: off
OFFICE_DAY: Final = (
    0.2, 0.1, 0.1, 0.1, 0.1, 0.2, 0.4, 0.7, 1.0, 1.4, 1.7, 1.8,
    1.7, 1.7, 1.8, 1.8, 1.7, 1.6, 1.5, 1.4, 1.2, 0.9, 0.6, 0.3,
)
# fmt: on
"""A day's rate by the hour, in proportion: an example of people at work, not a measurement."""
_PERSON: Final = PeoplePose(people=(tuple((0.3 + 0.02 * point, 0.05 * point) for point in range(18)),))

Choice = TypeVar("Choice")
Fidelity = Literal["exact", "economy"]


class LoadError(ValueError):
    """A load that cannot be used: what is wrong with it, and how one looks."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of what requests ask for. Weights need not add up to 1."""

    steps: Mapping[int, float]
    sizes: Mapping[tuple[int, int], float]
    """By (width, height) in pixels."""
    guided: float
    """The share with guidance above 1: two slots of the UNet instead of one."""
    posed: float
    """The share with a pose, for which the ControlNet runs too."""
    counts: Mapping[int, float]
    """By images of a request."""
    fidelity: Fidelity = "exact"
    """Of all requests: a plan has a column for each."""

    @property
    def images_mean(self) -> float:
        """Images of a request, on the average."""
        return sum(one * weight for one, weight in self.counts.items()) / sum(self.counts.values())

    def document(self) -> dict[str, Any]:
        """For machines, and as a mix file looks."""
        return {
            "steps": {str(one): weight for one, weight in self.steps.items()},
            "sizes": {f"{width}x{height}": weight for (width, height), weight in self.sizes.items()},
            "guided": self.guided,
            "posed": self.posed,
            "count": {str(one): weight for one, weight in self.counts.items()},
        }


DEFAULT_MIX: Final = Mix(
    steps={20: 1, 25: 1, 30: 1, 40: 1}, sizes={(1024, 1024): 1}, guided=1.0, posed=0.7, counts={1: 1}
)
"""The deployment guide's steps (20-25 fast, 30-40 quality) at SDXL's native size, most of it with a pose."""


# --- Rates -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests a second over time, constant between `bounds`; it repeats after the last one."""

    per_second: tuple[float, ...]
    piece_s: float

    @property
    def mean(self) -> float:
        """Over a whole turn."""
        return sum(self.per_second) / len(self.per_second)

    @property
    def peak(self) -> float:
        """Return the rate of the busiest piece."""
        return max(self.per_second)

    def at(self, seconds: float) -> float:
        """At a time."""
        return self.per_second[int(seconds / self.piece_s) % len(self.per_second)]


def steady(per_second: float) -> Rate:
    """Always the same."""
    return Rate((per_second,), HOUR_S)


def bursts(per_second: float, factor: float, length_s: float, every_s: float) -> Rate:
    """`factor` times the rate for `length_s` in every `every_s`, and less in between, so that the mean is the rate."""
    pieces = max(2, round(every_s / length_s))
    rest = (pieces - factor) / (pieces - 1)
    if rest < 0:
        raise LoadError(
            f"Bursts of {factor:g} times the rate for {length_s:g} s every {every_s:g} s are more than the "
            "rate itself: make them rarer, shorter or smaller."
        )
    # In the middle, so that a run begins and ends quietly.
    return Rate(tuple(per_second * (factor if one == pieces // 2 else rest) for one in range(pieces)), length_s)


def daily(per_second: float, by_hour: Sequence[float] = OFFICE_DAY) -> Rate:
    """A day whose mean is the rate."""
    mean = sum(by_hour) / len(by_hour)
    return Rate(tuple(per_second * one / mean for one in by_hour), DAY_S / len(by_hour))


def times_of(rate: Rate, begin_s: float, end_s: float, seed: int) -> list[float]:
    """Times of a Poisson process of that rate, by thinning one of its peak's."""
    rng = random.Random(f"times {seed} {begin_s:.3f}")  # noqa: S311 - a load, not a secret
    times: list[float] = []
    at = begin_s
    while rate.peak > 0:
        at += rng.expovariate(rate.peak)
        if at >= end_s:
            break
        if rng.random() * rate.peak < rate.at(at):
            times.append(at)
            if len(times) > ARRIVALS_MAX:
                raise LoadError(f"More than {ARRIVALS_MAX} requests in one run: plan a shorter time or a lower rate.")
    return times


# --- Requests ----------------------------------------------------------------------------------------------


def arrivals_at(times: Sequence[float], mix: Mix, seed: int) -> list[Arrival]:
    """A request of the mix at each of these times."""
    rng = random.Random(f"requests {seed}")  # noqa: S311 - a load, not a secret
    steps, sizes, counts = _chooser(mix.steps), _chooser(mix.sizes), _chooser(mix.counts)
    made: dict[tuple[Any, ...], tuple[RenderRequest, BatchKey]] = {}
    arrivals = []
    for at in times:
        kind = (steps(rng), sizes(rng), rng.random() < mix.guided, rng.random() < mix.posed, counts(rng))
        if kind not in made:
            made[kind] = request_of(*kind, fidelity=mix.fidelity)
        arrivals.append(Arrival(at, *made[kind]))
    return arrivals


def partitions_of(number: int, partitions: int, seed: int) -> list[int]:
    """The partition of each of so many requests: by the hash of a request id, so evenly and without memory."""
    rng = random.Random(f"partitions {seed} {partitions}")  # noqa: S311 - a load, not a secret
    return [rng.randrange(partitions) for _ in range(number)]


def request_of(
    steps: int, size: tuple[int, int], guided: bool, posed: bool, count: int, *, fidelity: Fidelity
) -> tuple[RenderRequest, BatchKey]:
    """A request of a mix, with the default sampler."""
    width, height = size
    request = RenderRequest(
        prompt="planned",
        negative_prompt=None,
        width=width,
        height=height,
        steps=steps,
        guidance_scale=5.0 if guided else 1.0,
        sampler="euler_ancestral",
        seed=0,
        count=count,
        pose=_PERSON if posed else None,
        fidelity=fidelity,
    )
    return request, BatchKey(height // LATENT_FACTOR, width // LATENT_FACTOR, REVISION)


def _chooser(weights: Mapping[Choice, float]) -> Callable[[random.Random], Choice]:
    choices = list(weights)
    bounds, total = [], 0.0
    for choice in choices:
        total += weights[choice]
        bounds.append(total)
    return lambda rng: choices[min(len(choices) - 1, bisect_left(bounds, rng.random() * total))]
