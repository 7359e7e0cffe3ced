"""The cheapest fleet that keeps a latency target: bracketed, and the same for the same seed.

First a fleet of constant size: from what the load needs at the least upwards until the target is kept, then bisected
between the last that failed and the first that did not. Then, where the load changes over time, the same peak with an
autoscaler that may go lower, from the lowest minimum upwards. What was found on a sample is simulated at length at the
end, and enlarged where the sample had been too kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from darkroom.consumer.core.limits import Limits
from darkroom.consumer.planner.autoscaler import Autoscaling
from darkroom.consumer.planner.figures import Figures, figures_of
from darkroom.consumer.planner.fleet import Spec
from darkroom.consumer.planner.gpus import Machine
from darkroom.consumer.planner.load import LATENT_FACTOR, Mix, request_of
from darkroom.consumer.planner.scenario import Scenario
from darkroom.consumer.planner.topic import Delays
from darkroom.consumer.planner.virtual import step_worth
from darkroom.inference.planning.profile import DeviceProfile

SEARCH_REQUESTS: Final = 1_500
"""Simulated for each fleet that is tried."""
FINAL_REQUESTS: Final = 40_000
"""Simulated of the fleet that is recommended: 100 workers' hour, and less than a minute."""
REPLICAS_MAX: Final = 1_000
PARTITIONS_PER_WORKER: Final = 8
"""At the least: then no share is more than an eighth above the mean. With fewer, the worker with the largest share is
the one that misses the target for all."""
PARTITIONS_STEP: Final = 12
"""Partitions come in dozens: they divide evenly among 2, 3, 4 and 6 workers, and the topic's default is one dozen."""
HEADROOM: Final = 0.95
"""A fleet is not tried where its devices would be busier than so."""
LAG_SHARES: Final = (0.75, 0.5, 0.25)
"""Of what a worker renders in the time that a request may wait: lag thresholds that are tried, the laziest first."""


@dataclass(frozen=True, slots=True)
class Target:
    """This share of requests within so many seconds, from the request in Kafka to its completion."""

    share: float
    seconds: float

    def of(self, figures: Figures) -> float:
        """The latency that is to be within."""
        return {0.5: figures.p50_s, 0.95: figures.p95_s, 0.99: figures.p99_s}[self.share]

    def is_met(self, figures: Figures) -> bool:
        """Return whether the figures meet the target."""
        return self.of(figures) <= self.seconds

    @property
    def name(self) -> str:
        """As in `p95 60 s`."""
        return f"p{round(100 * self.share)} {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Question:
    """Inputs that are the same for every machine: the load, the target, and how workers and the autoscaler behave."""

    scenario: Scenario
    target: Target
    limits: Limits = field(default_factory=Limits)
    delays: Delays = field(default_factory=lambda: Delays(0.01, 0.03, 0.05, 0.1))
    """Kafka, the store and the prepare lane, as one worker sees them in one data centre."""
    start_s: float = 90.0
    """From a pod that is asked for to a worker that serves: image and model at hand on the node, loaded and warm."""
    scale_to_zero: bool = False
    autoscaling: Autoscaling = field(default_factory=lambda: Autoscaling(0, 1, 1))
    """All but its first three, which are searched."""
    partitions: int | None = None
    """None: as many as the fleet needs."""
    replicas_max: int = REPLICAS_MAX
    search_requests: int = SEARCH_REQUESTS
    final_requests: int = FINAL_REQUESTS


@dataclass(frozen=True, slots=True)
class Answer:
    """Recommendation for one machine, or why there is none."""

    machine: Machine
    refusal: str | None = None
    min_replicas: int = 0
    max_replicas: int = 0
    peak_replicas: int = 0
    """A fleet of constant size that keeps the target."""
    partitions: int = 0
    lag_threshold: int = 0
    linger_ms: int = 0
    batch_rows: int = 0
    """The cap of the commonest size."""
    start_s: float = 0.0
    autoscaling: Autoscaling | None = None
    figures: Figures | None = None
    economy: Answer | None = None
    """The same question, every picture with fidelity economy; None where it was not asked."""

    @property
    def usd_per_1000(self) -> float:
        """Images, at the machine's price."""
        return math.inf if self.figures is None else self.figures.usd_per_1000(self.machine.price.usd_per_hour)

    def summary(self) -> dict[str, Any]:
        """For machines, in short."""
        if self.figures is None:
            return {"refusal": self.refusal}
        return {
            "min_replicas": self.min_replicas,
            "max_replicas": self.max_replicas,
            "usd_per_1000_images": self.usd_per_1000,
            "figures": self.figures.document(),
        }

    def document(self) -> dict[str, Any]:
        """For machines."""
        machine = self.machine
        known: dict[str, Any] = {
            "instance": machine.name,
            "gpu": machine.gpu,
            "term": machine.term,
            "usd_per_hour": machine.price.usd_per_hour,
            "price": {"status": machine.price.status, "source": machine.price.source, "as_of": machine.price.as_of},
            "speed": {"status": machine.speed_status, "source": machine.speed_source},
        }
        if self.economy is not None:
            known["economy"] = self.economy.summary()
        if self.figures is None or self.autoscaling is None:
            return known | {"refusal": self.refusal}
        return known | {
            "min_replicas": self.min_replicas,
            "max_replicas": self.max_replicas,
            "constant_replicas": self.peak_replicas,
            "partitions": self.partitions,
            "lag_threshold": self.lag_threshold,
            "linger_ms": self.linger_ms,
            "batch_rows": self.batch_rows,
            "usd_per_1000_images": self.usd_per_1000,
            "figures": self.figures.document(),
            "history": [[one.at_s, one.lag, one.replicas, one.serving] for one in self.figures.history],
        }


Told = Callable[[str], None]


def answer(question: Question, machine: Machine, tell: Told = lambda _: None) -> Answer:
    """The cheapest fleet of this machine, and beside it the cheapest for economy pictures.

    Never raises for a target that cannot be kept: the answer says so.
    """
    found = _Search(question, machine, tell).run()
    scenario = question.scenario
    if scenario.mix.fidelity == "economy":
        return found
    cheaper = replace(question, scenario=replace(scenario, mix=replace(scenario.mix, fidelity="economy")))
    return replace(found, economy=_Search(cheaper, machine, tell).run())


def at_price(found: Answer, machine: Machine) -> Answer:
    """The same fleet of the same machines, paid for in another way."""
    economy = None if found.economy is None else replace(found.economy, machine=machine)
    return replace(found, machine=machine, economy=economy)


class _Search:
    def __init__(self, question: Question, machine: Machine, tell: Told) -> None:
        self._question = question
        self._machine = machine
        self._tell = tell
        mix, profile, rows_max = question.scenario.mix, machine.profile, question.limits.batch_rows_max
        size = max(mix.sizes, key=lambda one: mix.sizes[one])
        self._latent = (size[1] // LATENT_FACTOR, size[0] // LATENT_FACTOR)
        self._cap = profile.cap(*self._latent, rows_max=rows_max)
        self._device_s = device_seconds(profile, mix, rows_max)
        linger_s = 0.0 if self._cap == 1 else min(question.limits.linger_s, self._step_s() / 4)
        self._limits = replace(question.limits, linger_s=linger_s)

    def run(self) -> Answer:
        if self._machine.unserved is not None:
            return self._refused(self._machine.unserved)
        target = self._question.target
        alone = self._alone_s(target.share)
        if alone > target.seconds:
            return self._refused(
                f"{target.name} cannot be kept by any number of workers: a request alone takes {alone:.1f} s at that "
                "share of the mix."
            )
        peak = self._peak()
        if peak is None:
            most = self._replicas_max()
            return self._refused(
                f"{target.name} is not kept by {most} workers, the most that are tried: allow more (--max-replicas, "
                "--partitions), a longer latency or a smaller load."
            )
        best = self._autoscaled(peak)
        return self._at_length(*best)

    # --- Fleets of constant size -----------------------------------------------------------------------------

    def _peak(self) -> int | None:
        needed = self._question.scenario.per_second(0, self._question.scenario.horizon_s)
        if self._question.scenario.rate is not None:
            needed = self._question.scenario.rate.mean
        most = self._replicas_max()
        failed, tried = 0, max(1, math.ceil(needed * self._device_s / HEADROOM))
        while tried <= most and not self._keeps(tried):
            failed, tried = tried, max(tried + 1, math.ceil(tried * 1.25))
        if tried > most:
            if failed >= most or not self._keeps(most):
                return None
            tried = most
        while tried - failed > 1 and failed:
            middle = (failed + tried) // 2
            failed, tried = (failed, middle) if self._keeps(middle) else (middle, tried)
        return tried

    def _keeps(self, replicas: int) -> bool:
        figures = self._figures(self._spec(replicas), self._question.search_requests)
        self._tell(f"{self._machine.name}: {replicas} workers, {self._said(figures)}")
        return self._question.target.is_met(figures)

    # --- Autoscaled ones -------------------------------------------------------------------------------------

    def _autoscaled(self, peak: int) -> tuple[int, int, int, int]:
        """Minimum, maximum, lag threshold and the peak."""
        constant = (peak, self._maximum(peak), self._thresholds()[-1], peak)
        if self._question.scenario.is_steady and not self._question.scale_to_zero:
            return constant
        for minimum in self._minimums(peak):
            for threshold in self._thresholds():
                bounds = (minimum, self._maximum(peak), threshold, peak)
                figures = self._figures(self._scaled_spec(*bounds), self._question.search_requests)
                self._tell(
                    f"{self._machine.name}: {minimum} to {bounds[1]} workers, lag threshold {threshold}, "
                    f"{self._said(figures)}"
                )
                if self._question.target.is_met(figures):
                    return bounds
        return constant

    def _minimums(self, peak: int) -> Iterator[int]:
        least = 0 if self._question.scale_to_zero else 1
        yield from sorted({least, *(max(least, peak * quarter // 4) for quarter in (1, 2, 3))} - {peak})

    def _maximum(self, peak: int) -> int:
        """Half as many again as the peak needs, to catch up with what waited while models were loaded."""
        return min(self._partitions(peak), self._question.replicas_max, peak + math.ceil(peak / 2))

    def _thresholds(self) -> list[int]:
        """Records that one worker is for. Never fewer than it holds uncommitted while it is busy: such a threshold
        would keep the fleet at its maximum.
        """
        waits_s = max(0.0, self._question.target.seconds - self._alone_s(0.5))
        in_hand = self._cap + max(1, self._cap // 2) + 1
        return sorted(
            {max(in_hand, math.floor(share * waits_s / self._device_s)) for share in LAG_SHARES}, reverse=True
        )

    # --- The recommended one -----------------------------------------------------------------------------------

    def _at_length(self, minimum: int, maximum: int, threshold: int, peak: int) -> Answer:
        question = self._question
        step = max(1, peak // 20)
        while True:
            spec = self._scaled_spec(minimum, maximum, threshold, peak)
            figures = self._figures(spec, question.final_requests)
            self._tell(f"{self._machine.name}: {minimum} to {maximum} workers at length, {self._said(figures)}")
            if question.target.is_met(figures) or minimum + step > self._replicas_max():
                break
            minimum = minimum + step
            peak = max(peak, minimum)
            maximum = max(maximum, self._maximum(peak))
        if not question.target.is_met(figures):
            return self._refused(f"{question.target.name} is not kept at length: {self._said(figures)}.")
        assert spec.autoscaling is not None
        return Answer(
            machine=self._machine,
            min_replicas=minimum,
            max_replicas=maximum,
            peak_replicas=peak,
            partitions=spec.partitions,
            lag_threshold=threshold,
            linger_ms=round(1000 * self._limits.linger_s),
            batch_rows=self._cap,
            start_s=question.start_s,
            autoscaling=spec.autoscaling,
            figures=figures,
        )

    def _refused(self, refusal: str) -> Answer:
        return Answer(self._machine, refusal)

    # --- Specs -------------------------------------------------------------------------------------------------

    def _spec(self, replicas: int) -> Spec:
        return Spec(
            profile=self._machine.profile,
            partitions=self._partitions(replicas),
            replicas=replicas,
            limits=self._limits,
            delays=self._question.delays,
            start_s=self._question.start_s,
        )

    def _scaled_spec(self, minimum: int, maximum: int, threshold: int, peak: int) -> Spec:
        question = self._question
        # What loads for longer than the windows is called for again while it loads, and sent away as it comes.
        window_s = max(question.autoscaling.scale_down_window_s, question.start_s)
        autoscaling = replace(
            question.autoscaling,
            min_replicas=minimum,
            max_replicas=maximum,
            lag_threshold=threshold,
            scale_down_window_s=window_s,
            cooldown_s=max(question.autoscaling.cooldown_s, question.start_s),
            scale_up_pods=max(question.autoscaling.scale_up_pods, math.ceil(maximum / 4)),
        )
        spec = self._spec(peak)
        return replace(spec, replicas=minimum, partitions=self._partitions(peak), autoscaling=autoscaling)

    def _figures(self, spec: Spec, requests: int) -> Figures:
        return figures_of(spec, self._question.scenario, requests_max=requests, alone_s=self._device_s)

    def _partitions(self, replicas: int) -> int:
        if self._question.partitions is not None:
            return self._question.partitions
        return PARTITIONS_STEP * max(1, math.ceil(PARTITIONS_PER_WORKER * replicas / PARTITIONS_STEP))

    def _replicas_max(self) -> int:
        most = self._question.replicas_max
        return most if self._question.partitions is None else min(most, self._question.partitions)

    def _alone_s(self, share: float) -> float:
        """Seconds that a request takes with a worker to itself, at that share of the mix's steps."""
        mix, delays = self._question.scenario.mix, self._question.delays
        weights, total, steps = sorted(mix.steps.items()), sum(mix.steps.values()), 0
        reached = 0.0
        for steps, weight in weights:  # noqa: B007 - the last one that is needed
            reached += weight / total
            if reached >= share - 1e-9:
                break
        profile = self._machine.profile
        step_ms = profile.step_ms(*self._latent, unet_slots=2 if mix.guided else 1, control_slots=0)
        size = max(mix.sizes, key=lambda one: mix.sizes[one])
        request, key = request_of(steps, size, bool(mix.guided), False, 1, fidelity=mix.fidelity)
        step_ms *= step_worth(profile, request, key, cap=1)
        waits_s = delays.look_up_s + 2 * delays.commit_s + delays.prepare_s + delays.settle_s
        return (steps * step_ms + profile.decode_ms(*self._latent)) / 1000 + waits_s

    def _step_s(self) -> float:
        return self._machine.profile.step_ms(*self._latent, unet_slots=2, control_slots=0) / 1000

    def _said(self, figures: Figures) -> str:
        target = self._question.target
        return f"p{round(100 * target.share)} {target.of(figures):.1f} s"


def device_seconds(profile: DeviceProfile, mix: Mix, rows_max: int) -> float:
    """A request's share of a busy device, over the mix: steps at the cap, decoding beside them."""
    total = 0.0
    weight_of_all = sum(mix.steps.values()) * sum(mix.sizes.values())
    for (width, height), size_weight in mix.sizes.items():
        latent = height // LATENT_FACTOR, width // LATENT_FACTOR
        cap = profile.cap(*latent, rows_max=rows_max)
        for guided, guided_weight in ((2, mix.guided), (1, 1 - mix.guided)):
            for posed, posed_weight in ((1, mix.posed), (0, 1 - mix.posed)):
                slots = cap * guided
                step_ms = profile.step_ms(*latent, unet_slots=slots, control_slots=slots * posed)
                weight = size_weight * guided_weight * posed_weight / weight_of_all
                for steps, steps_weight in mix.steps.items():
                    kind = (steps, (width, height), guided == 2, bool(posed), 1)
                    request, key = request_of(*kind, fidelity=mix.fidelity)
                    worth = step_worth(profile, request, key, cap=cap)
                    total += weight * steps_weight * steps * worth * step_ms / cap / 1000
    return total * mix.images_mean
