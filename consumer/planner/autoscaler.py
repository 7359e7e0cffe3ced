"""KEDA and the HPA that it makes, as far as lag decides: how many replicas there are to be.

Read in KEDA 2.21 (kafka scaler) and Kubernetes 1.36 (HPA controller):

- KEDA reports the group's total lag, high watermark less committed offset over all partitions, as an external metric
  of type AverageValue: `lag_threshold` is the target for the total lag *per replica*.
- Where `lag // lag_threshold` is above the partitions (with `limitToPartitionsWithLag`: those with lag), KEDA reports
  `partitions * lag_threshold`. The division is of whole numbers, so a rest still asks for one replica more than there
  are partitions: the maximum has to forbid that.
- The HPA leaves the replicas alone while `lag / (lag_threshold * replicas)` is within `tolerance` of 1, else it asks
  for `ceil(lag / lag_threshold)`.
- Scaling up takes the least, scaling down the most that was asked for in its stabilisation window; then each is held
  to its rate, and all to minimum and maximum.
- Between 0 and 1 KEDA decides by itself, at its polls: up when the lag is above `activation_lag`, down when it was not
  for `cooldown_s`. The HPA never goes below 1.

Pure: time is an argument.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass


class AutoscalingError(ValueError):
    """Settings that do not fit together: which, and what to do."""


@dataclass(frozen=True, slots=True)
class Autoscaling:
    """The settings of a ScaledObject that matter here, under the chart's names, units last."""

    min_replicas: int
    max_replicas: int
    lag_threshold: int
    activation_lag: int = 0
    polling_s: float = 15.0
    """Between two looks of KEDA at a fleet of zero."""
    cooldown_s: float = 300.0
    """Without lag, before the last replica goes."""
    sync_s: float = 15.0
    """Between two looks of the HPA: `--horizontal-pod-autoscaler-sync-period`."""
    tolerance: float = 0.1
    scale_up_window_s: float = 30.0
    """Long enough to see whether lag is a moment's."""
    scale_up_pods: int = 4
    scale_up_period_s: float = 60.0
    scale_down_window_s: float = 300.0
    """Longer than a model takes to load, so that loading is not thrashed."""
    scale_down_pods: int = 1
    """At most so many a `scale_down_period_s`, since every change pauses the group."""
    scale_down_period_s: float = 120.0

    def check(self, partitions: int) -> None:
        """Raises `AutoscalingError` for what would leave workers idle or cannot be."""
        if not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            raise AutoscalingError(
                f"{self.min_replicas} to {self.max_replicas} replicas cannot be: give 0 <= minimum <= maximum, and at "
                "least one as the maximum."
            )
        if self.max_replicas > partitions:
            raise AutoscalingError(
                f"{self.max_replicas} replicas for {partitions} partitions would leave "
                f"{self.max_replicas - partitions} idle, since a partition is one worker's: more partitions or fewer "
                "replicas."
            )
        if self.lag_threshold < 1:
            raise AutoscalingError(f"A lag threshold of {self.lag_threshold} is none: give 1 record or more.")


def reported_lag(lag: int, lag_threshold: int, partitions: int) -> int:
    """Return what KEDA reports to the HPA for a total lag."""
    return partitions * lag_threshold if lag // lag_threshold > partitions else lag


def asked_for(metric: int, lag_threshold: int, replicas: int, tolerance: float) -> int:
    """The replicas that the HPA asks for by one reading, bounds and windows aside."""
    if replicas > 0 and abs(metric / (lag_threshold * replicas) - 1.0) <= tolerance:
        return replicas
    return math.ceil(metric / lag_threshold)


class Autoscaler:
    """The two of them over time. `look` is to be called every `sync_s`."""

    def __init__(self, settings: Autoscaling) -> None:
        self.settings = settings
        self._asked: deque[tuple[float, int]] = deque()
        """What was asked for within the longer window, oldest first."""
        self._added: deque[tuple[float, int]] = deque()
        self._taken: deque[tuple[float, int]] = deque()
        """Replicas added and taken away within the periods of their rates."""
        self._active_at = -math.inf
        self._polled_at = -math.inf

    def look(self, now: float, lag: int, replicas: int, partitions: int) -> int:
        """The replicas that there are to be, by the lag at this moment and the replicas that there are.

        `partitions`: those with lag, which bound what KEDA reports.
        """
        settings = self.settings
        if now - self._polled_at >= settings.polling_s:
            self._polled_at = now
            if lag > settings.activation_lag:
                self._active_at = now
        if replicas == 0:
            awake = self._active_at == self._polled_at and lag > settings.activation_lag
            return max(1, settings.min_replicas) if awake else 0
        if settings.min_replicas == 0 and now - self._active_at >= settings.cooldown_s:
            self._asked.clear()
            return 0
        metric = reported_lag(lag, settings.lag_threshold, partitions)
        asked = asked_for(metric, settings.lag_threshold, replicas, settings.tolerance)
        wanted = self._rated(now, self._steadied(now, asked, replicas), replicas)
        wanted = min(settings.max_replicas, max(1, settings.min_replicas, wanted))
        if wanted < replicas:
            self._taken.append((now, replicas - wanted))
        elif wanted > replicas:
            self._added.append((now, wanted - replicas))
        return wanted

    def _steadied(self, now: float, asked: int, replicas: int) -> int:
        """Upwards the least, downwards the most that was asked for in the window."""
        settings = self.settings
        self._asked.append((now, asked))
        while self._asked[0][0] < now - max(settings.scale_up_window_s, settings.scale_down_window_s):
            self._asked.popleft()
        up = min(one for at, one in self._asked if at >= now - settings.scale_up_window_s)
        down = max(one for at, one in self._asked if at >= now - settings.scale_down_window_s)
        return min(max(replicas, up), down)

    def _rated(self, now: float, wanted: int, replicas: int) -> int:
        """Held to so many pods a period, counted from the replicas at its beginning."""
        settings = self.settings
        added = _within(self._added, now - settings.scale_up_period_s)
        taken = _within(self._taken, now - settings.scale_down_period_s)
        if wanted > replicas:
            return min(wanted, max(replicas, replicas - added + settings.scale_up_pods))
        return max(wanted, min(replicas, replicas + taken - settings.scale_down_pods))


def _within(changes: deque[tuple[float, int]], since: float) -> int:
    while changes and changes[0][0] <= since:
        changes.popleft()
    return sum(pods for _, pods in changes)
