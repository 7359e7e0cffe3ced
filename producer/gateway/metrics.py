"""What a gateway tells Prometheus. Labels are bounded: routes, not paths.

Its names start with `darkroom_gateway_`, except for those that a worker has as well.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from darkroom.producer.gateway.jobs.hub import Hub

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one process, in a registry of its own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.calls = Counter(
            "darkroom_gateway_calls", "Answers, by route and status.", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "darkroom_gateway_call_seconds",
            "From a call to the first of its answer, by route.",
            ["method", "route"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.accepted = Counter("darkroom_gateway_accepted", "Jobs accepted and sent.", registry=registry)
        self.repeated = Counter(
            "darkroom_gateway_repeated", "Requests that repeated an accepted one.", registry=registry
        )
        self.repaired = Counter(
            "darkroom_gateway_repaired", "Claims without an event that were sent later.", registry=registry
        )
        self.refused = Counter("darkroom_gateway_refused", "Problems answered, by code.", ["code"], registry=registry)
        self.task_restarts = Counter(
            "darkroom_task_restarts",
            "Background tasks that ended unexpectedly and were started again.",
            ["task"],
            registry=registry,
        )
        self.streams = Gauge("darkroom_gateway_event_streams", "Event streams open.", registry=registry)
        self.waiting = Gauge("darkroom_gateway_waiting", "Calls and streams that wait for a job.", registry=registry)
        build = Gauge("darkroom_build_info", "The running version.", ["version", "python"], registry=registry)
        build.labels(version("darkroom"), platform.python_version()).set(1)

    def watch(self, hub: Hub, streams: Callable[[], int]) -> None:
        """Read what others know when it is scraped."""
        self.waiting.set_function(lambda: hub.watches)
        self.streams.set_function(streams)
