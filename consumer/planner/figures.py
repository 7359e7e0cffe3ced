"""Figures that a plan is judged by: latency, cost and how busy devices are, with the error of sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import stdev
from typing import Any, Final

from darkroom.consumer.planner.fleet import Fleet, FleetRun, Moment, Spec
from darkroom.consumer.planner.scenario import Scenario, Window

AUTOSCALED_S_MIN: Final = 600.0
"""Of a window, where replicas come and go: some of the minutes that an autoscaler and a loading model take."""
SLICES: Final = 6
"""Of a run that is simulated whole, whose spread tells its error."""
_T95: Final = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
"""Student's t for a two-sided 95% interval, by degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one fleet under one load.

    `..._error`: half of the 95% confidence interval, NaN where there is nothing to tell it by.
    """

    requests: int
    images: float
    p50_s: float
    p95_s: float
    p99_s: float
    p95_s_error: float
    busy_ratio: float
    replicas_mean: float
    replica_hours_per_1000: float
    replica_hours_per_1000_error: float
    windows: int
    """1: the whole time was simulated."""
    history: tuple[Moment, ...]
    """Of the first window, or of the whole time."""

    def usd_per_1000(self, usd_per_hour: float) -> float:
        """Return the price of a thousand images, from that of a worker's hour."""
        return self.replica_hours_per_1000 * usd_per_hour

    def document(self) -> dict[str, Any]:
        """For machines, without the history."""
        return {name: _plain(value) for name, value in asdict(self).items() if name != "history"}


def quantile(latencies_s: Sequence[float], share: float) -> float:
    """The latency that this share keeps within, by nearest rank. NaN without any."""
    if not latencies_s:
        return math.nan
    ordered = sorted(latencies_s)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def figures_of(spec: Spec, scenario: Scenario, *, requests_max: float, alone_s: float) -> Figures:
    """Simulate a fleet under a load: the whole of it, or windows with at most `requests_max` requests in all.

    `alone_s`: device seconds of a request, for the replicas that an autoscaled fleet has as a window begins. Raises
    `UnansweredError` where nobody serves.
    """
    windows = scenario.windows(requests_max, 0.0 if spec.autoscaling is None else AUTOSCALED_S_MIN)
    runs = [_run(spec, scenario, window, alone_s, is_whole=len(windows) == 1) for window in windows]
    counted = [_counted(run, window) for run, window in zip(runs, windows, strict=True)]
    parts = counted if len(windows) > 1 else _sliced(runs[0], windows[0])
    latencies = [latency for part in counted for latency in part]
    # The warm-up is paid for and paints, too: both sides of the ratio have it.
    images = sum(len(run.latencies_s) for run in runs) * scenario.mix.images_mean
    hours = [run.replica_s / 3600 for run in runs]
    per_1000 = [
        1000 * hour / (len(run.latencies_s) * scenario.mix.images_mean)
        for hour, run in zip(hours, runs, strict=True)
        if run.latencies_s
    ]
    spans = sum(window.end_s - window.warm_s for window in windows)
    serving = sum(run.serving_s for run in runs)
    return Figures(
        requests=len(latencies),
        images=images,
        p50_s=quantile(latencies, 0.5),
        p95_s=quantile(latencies, 0.95),
        p99_s=quantile(latencies, 0.99),
        p95_s_error=_error([quantile(part, 0.95) for part in parts if part]),
        busy_ratio=sum(run.busy_s for run in runs) / serving if serving else 0.0,
        replicas_mean=3600 * sum(hours) / spans,
        replica_hours_per_1000=1000 * sum(hours) / images if images else math.nan,
        replica_hours_per_1000_error=_error(per_1000),
        windows=len(windows),
        history=tuple(runs[0].history),
    )


def _run(spec: Spec, scenario: Scenario, window: Window, alone_s: float, *, is_whole: bool) -> FleetRun:
    arrivals = scenario.arrivals(window)
    if spec.autoscaling is not None:
        bounds = spec.autoscaling
        begin_s, end_s = window.warm_s, max(window.begin_s, window.warm_s + (window.end_s - window.warm_s) / 10)
        load = scenario.per_second(begin_s, end_s) * alone_s
        first = bounds.min_replicas if is_whole else min(bounds.max_replicas, max(bounds.min_replicas, math.ceil(load)))
        spec = replace(spec, replicas=first)
    where = scenario.partitions(len(arrivals), spec.partitions)
    return Fleet(spec, arrivals, where, until_s=window.end_s - window.warm_s).run()


def _counted(run: FleetRun, window: Window) -> list[float]:
    """Latencies of what arrived after the warm-up."""
    warm_s = window.begin_s - window.warm_s
    return [latency for latency, at in zip(run.latencies_s, run.arrived_at_s, strict=True) if at >= warm_s]


def _sliced(run: FleetRun, window: Window) -> list[list[float]]:
    length = (window.end_s - window.begin_s) / SLICES
    slices: list[list[float]] = [[] for _ in range(SLICES)]
    for latency, at in zip(run.latencies_s, run.arrived_at_s, strict=True):
        slices[min(SLICES - 1, int(at / length))].append(latency)
    return slices


def _error(values: Sequence[float]) -> float:
    """Half of the 95% interval of the mean of independent values."""
    if len(values) < 2:
        return math.nan
    return _T95.get(len(values) - 1, 1.96) * stdev(values) / math.sqrt(len(values))


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
