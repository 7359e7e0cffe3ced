"""Which calls of an economy picture run the whole networks: the rules, without the networks.

`darkroom.inference.sdxl.denoise.reuse` carries them out; estimates of how long a request takes follow them, too. Noise
that a sampler adds between calls changes the deep features at once, so they are reused for one call. Without noise they
change steadily and last longer. A sampler that extrapolates from the call before also extrapolates what a shallow call
got wrong. The numbers were chosen by measuring
(`docs/explain/economy.md`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from darkroom.inference.types import RenderRequest
from darkroom.schemas.events.samplers import DRAWS_NOISE


@dataclass(frozen=True, slots=True)
class ReuseRule:
    """The calls for which a kind of sampler may reuse, as measured with `MEASURED_CALLS` calls."""

    gaps: tuple[int, ...]
    """Calls from each full call to the next; the last `repeated` numbers repeat."""
    ahead: float
    """The share of the last change of guidance's difference that is expected again."""
    repeated: int = 1

    def gap(self, full_calls: int, calls: int) -> int:
        """Return the calls from full call number `full_calls` to the next, where a picture takes `calls` calls.

        With fewer calls each goes further, so the gap shrinks in proportion.
        """
        once = len(self.gaps) - self.repeated
        place = full_calls - 1
        gap = self.gaps[place if place < once else once + (place - once) % self.repeated]
        return max(1, min(gap, round(gap * calls / MEASURED_CALLS)))

    def full_calls(self, calls: int, is_forced: Callable[[int, int], bool] | None = None) -> tuple[bool, ...]:
        """Return by call whether it is full. `is_forced(call, last)` is true where a call must be, `last` being the
        last full one before it."""
        full, last, count = [True], 0, 1
        for call in range(1, calls):
            full.append(call - last >= self.gap(count, calls) or (is_forced is not None and is_forced(call, last)))
            if full[-1]:
                last, count = call, count + 1
        return tuple(full)


MEASURED_CALLS: Final = 22
NOISY: Final = ReuseRule(gaps=(2,), ahead=0.0)
"""For samplers that draw noise between calls."""
STEADY: Final = ReuseRule(gaps=(1, 3), ahead=0.5)
"""For samplers that draw none and look at one call alone."""
MULTISTEP: Final = ReuseRule(gaps=(2,), ahead=0.25)
"""For samplers that extrapolate from the call before, and so what a shallow one got wrong, too: every third call alone
full gave 35.6 dB and wrong colours in an eighth of the pictures."""
NOISY_MULTISTEP: Final = ReuseRule(gaps=(1, 2), ahead=0.0, repeated=2)
"""For a sampler that does both: every second call alone full gave 26.0 dB and wrong colours in half of the pictures."""
_LOOKS_BACK: Final = frozenset({"dpmpp_2m", "unipc", "dpmpp_2m_sde"})


def rule_of(sampler: str) -> ReuseRule:
    """Return the rule for a sampler of this name."""
    looks_back = sampler in _LOOKS_BACK
    if sampler in DRAWS_NOISE:
        return NOISY_MULTISTEP if looks_back else NOISY
    return MULTISTEP if looks_back else STEADY


def full_calls_of(request: RenderRequest) -> int:
    """Return how many calls of one image are full: all, or fewer for an economy picture, whose others are shallow.

    Windows of the pose and of guidance are left out: each can make one more call full.
    """
    if request.fidelity == "exact":
        return request.calls
    return sum(rule_of(request.sampler).full_calls(request.calls))
