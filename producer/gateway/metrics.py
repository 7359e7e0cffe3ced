"""The gateway's Prometheus metrics. Labels are bounded: route templates, not paths.

Their names start with `darkroom_gateway_`, except for those of access control and those that a worker has, too.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

if TYPE_CHECKING:
    from darkroom.producer.gateway.jobs.hub import Hub

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The metrics of one process, in a registry of its own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.calls = Counter(
            "darkroom_gateway_calls", "Responses, by route and status.", ["method", "route", "status"],
            registry=registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "darkroom_gateway_call_seconds", "Seconds from a call to the start of its response, by route.",
            ["method", "route"], registry=registry, buckets=_SECONDS,
        )  # fmt: skip
        self.accepted = Counter("darkroom_gateway_accepted", "Jobs accepted and sent.", registry=registry)
        self.repeated = Counter(
            "darkroom_gateway_repeated", "Requests that repeated an accepted one.", registry=registry
        )
        self.repaired = Counter(
            "darkroom_gateway_repaired", "Claims without an event whose event was sent later.", registry=registry
        )
        self.abandoned = Counter(
            "darkroom_gateway_abandoned", "Jobs cancelled because their callers hung up.", registry=registry
        )
        self.refused = Counter("darkroom_gateway_refused", "Problems returned, by code.", ["code"], registry=registry)
        self.task_restarts = Counter(
            "darkroom_task_restarts", "Background tasks that ended unexpectedly and were restarted.", ["task"],
            registry=registry,
        )  # fmt: skip
        self.streams = Gauge("darkroom_gateway_event_streams", "Open event streams.", registry=registry)
        self.waiting = Gauge("darkroom_gateway_waiting", "Calls and streams that wait for a job.", registry=registry)
        build = Gauge("darkroom_build_info", "The running version.", ["version", "python"], registry=registry)
        build.labels(version("darkroom"), platform.python_version()).set(1)

    def watch(self, hub: Hub, streams: Callable[[], int]) -> None:
        """Read the gauges from the hub, and from `streams`, at each scrape."""
        self.waiting.set_function(lambda: hub.watches)
        self.streams.set_function(streams)


class AccessMetrics:
    """The metrics of access control, in the registry that is exported, or in one of their own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self.file_failures = Counter(
            "darkroom_access_file_failures", "Changed files of keys or of the prompt policy that could not be used.",
            ["file"], registry=registry,
        )  # fmt: skip
        self.provider_failures = Counter(
            "darkroom_access_provider_failures", "Failed fetches of the identity provider's keys.", registry=registry
        )
        self.redis_failures = Counter(
            "darkroom_access_redis_failures", "Failures of Redis after which this process counted alone.",
            registry=registry,
        )  # fmt: skip
        self.quota_refusals = Counter(
            "darkroom_access_quota_refusals", "Calls and jobs above a quota, by code.", ["code"], registry=registry
        )
        self.policy_rejections = Counter(
            "darkroom_policy_rejections", "Prompts that the policy rejected, by category.", ["category"],
            registry=registry,
        )  # fmt: skip
