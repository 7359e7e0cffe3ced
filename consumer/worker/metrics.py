"""Metrics of a worker for Prometheus. Their names, `darkroom_...`, are a contract with dashboards and alerts.

Counts follow from the core's events and effects and from the engine's events; gauges are read when they are
scraped.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from darkroom.consumer.core import effects as do
from darkroom.consumer.core import events as on
from darkroom.consumer.core.partition_key import JobKey, PartitionKey
from darkroom.consumer.core.snapshot import Snapshot
from darkroom.consumer.worker.backlog import MeanSeconds, backlog_seconds
from darkroom.consumer.worker.payload import Payload
from darkroom.consumer.worker.ports import Delivery
from darkroom.inference import types as engine_says
from darkroom.inference.contract import Engine
from darkroom.inference.types import EngineEvent
from darkroom.inference.utilization import gpu_utilization
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import Completion

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_WAIT_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
BUSY_WINDOW_S = 30.0
"""The span over which the device's busy ratio and the worker's rate are measured."""


class Metrics:
    """The counters and histograms of one worker, and the observers that move them."""

    def __init__(self, registry: CollectorRegistry, *, usd_per_device_hour: float = 0.0) -> None:
        self.registry = registry
        self.requests = Counter("darkroom_requests", "Outcomes published, by status.", ["status"], registry=registry)
        self.images = Counter("darkroom_images", "Images of requests that succeeded, each once.", registry=registry)
        self.full_steps = Counter("darkroom_full_steps", "Steps of images that ran the whole model.", registry=registry)
        self.shallow_steps = Counter(
            "darkroom_shallow_steps", "Steps of economy images that reused a part of an earlier one.", registry=registry
        )
        self.device_time = Counter("darkroom_device_seconds", "Device seconds of rendered requests.", registry=registry)
        self.replayed = Counter(
            "darkroom_replayed", "Outcomes repeated for a further record of their request.", registry=registry
        )
        self.faults = Counter("darkroom_faults", "Failures, by kind and code.", ["kind", "code"], registry=registry)
        self.dead_letters = Counter("darkroom_dead_letters", "Records published as dead letters.", registry=registry)
        self.commits = Counter("darkroom_commits", "Transactions committed.", registry=registry)
        self.rebalances = Counter("darkroom_rebalances", "Assignments received.", registry=registry)
        self.fenced = Counter("darkroom_fenced", "Times a partition's writer was fenced.", registry=registry)
        self.refused = Counter(
            "darkroom_publications_refused",
            "Transactions that the broker refused for a reason that stays, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in on.Refusal:
            self.refused.labels(reason.value)
        self.last_poll = Gauge(
            "darkroom_last_poll_timestamp_seconds",
            "When a poll of Kafka last succeeded, beginning with the joining of the group; 0 before that.",
            registry=registry,
        )
        self.last_publication = Gauge(
            "darkroom_last_publication_timestamp_seconds",
            "When a transaction was last committed; 0 before the first.",
            registry=registry,
        )
        self.model_loads = Counter("darkroom_model_loads", "Models loaded by this process.", registry=registry)
        self.task_restarts = Counter(
            "darkroom_task_restarts",
            "Background tasks that ended unexpectedly and were started again.",
            ["task"],
            registry=registry,
        )
        self.policy_rejections = Counter(
            "darkroom_policy_rejections", "Prompts that the policy rejected.", ["category"], registry=registry
        )
        self.policy_reload_failures = Counter(
            "darkroom_policy_reload_failures", "Changed policy files that could not be used.", registry=registry
        )
        self.pictures_flagged = Counter(
            "darkroom_pictures_flagged",
            "Categories that the classifier saw in pictures, and what became of those: stored or rejected.",
            ["category", "verdict"],
            registry=registry,
        )
        self.transaction_seconds = self._histogram("transaction_seconds", "A publication, from decision to commit.")
        self.step_seconds = self._histogram("step_seconds", "One denoising step of a batch.")
        self.device_wait_seconds = Histogram(
            "darkroom_device_wait_seconds",
            "Between two steps, while the worker had rows to render.",
            registry=registry,
            buckets=_WAIT_SECONDS,
        )
        self.batch_rows = Histogram("darkroom_batch_rows", "Rows that shared a step.", registry=registry, buckets=_ROWS)
        self.stage_seconds = Histogram(
            "darkroom_stage_seconds", "Where a request's time went.", ["stage"], registry=registry, buckets=_SECONDS
        )
        self.render_seconds = self._histogram("render_seconds", "Denoising and decoding of one request.")
        self.end_to_end_seconds = self._histogram("end_to_end_seconds", "From a request's event to its outcome.")
        self.loop_delay = Gauge(
            "darkroom_event_loop_delay_seconds", "How late the event loop ran its last timer.", registry=registry
        )
        price = Gauge(
            "darkroom_device_usd_per_hour", "The price of an hour of the device, as it is set.", registry=registry
        )
        price.set(usd_per_device_hour)
        build = Gauge("darkroom_build_info", "The running version.", ["version", "python"], registry=registry)
        build.labels(version("darkroom"), platform.python_version()).set(1)
        self.busy = BusyWindow(time.monotonic)
        self.device_seconds = MeanSeconds()
        self._publishing: dict[tuple[PartitionKey, int], float] = {}

    def on_flagged(self, category: str, verdict: str) -> None:
        """Count a category that was seen in a picture."""
        self.pictures_flagged.labels(category, verdict).inc()

    def on_core(self, event: on.Event, effects: tuple[do.Effect, ...]) -> None:
        """An observer of the driver."""
        match event:
            case on.PartitionsAssigned():
                self.rebalances.inc()
            case on.PublishFailed(fenced=True):
                self.fenced.inc()
            case on.PublishFailed(refusal=on.Refusal() as refusal):
                self.refused.labels(refusal.value).inc()
            case on.Published(partition, epoch):
                self.commits.inc()
                self.last_publication.set_to_current_time()
                if started := self._publishing.pop((partition, epoch), None):
                    self.transaction_seconds.observe(time.monotonic() - started)
            case on.StoreFailed():
                self.faults.labels("infrastructure", "store_unavailable").inc()
            case on.JobFaulted(_, party, code, _) | on.StepFaulted(_, party, code, _):
                self.faults.labels(party.value, code).inc()
        for effect in effects:
            if isinstance(effect, do.Publish):
                self._publishing[effect.partition, effect.epoch] = time.monotonic()

    def on_engine(self, event: EngineEvent) -> None:
        """An observer of the engine's events."""
        match event:
            case engine_says.StepDone():
                self.step_seconds.observe(event.seconds)
                self.full_steps.inc(len(event.rows) - event.shallow)
                self.shallow_steps.inc(event.shallow)
                self.batch_rows.observe(len(event.rows))
                self.busy.worked(event.seconds)
            case engine_says.JobRendered():
                self.render_seconds.observe((event.denoise_ms + event.decode_ms) / 1000)
                self.device_seconds.add(event.device_seconds)
                self.device_time.inc(event.device_seconds)
            case engine_says.JobPrepared():
                self.stage_seconds.labels("prepare").observe(event.prepare_ms / 1000)

    def on_published(self, completion: Completion | None) -> None:
        """A completion was committed, or, where it is None, a dead letter without one."""
        if completion is None or (
            completion.error and completion.error.code is ErrorCode.WORKER_CRASH and not completion.replayed
        ):
            self.dead_letters.inc()
        if completion is None:
            return
        self.requests.labels(completion.status.value).inc()
        self.busy.finished(max(1, len(completion.images)))
        if completion.replayed:
            self.replayed.inc()
            return
        self.images.inc(len(completion.images))
        timings = completion.timings_ms
        for stage in ("queued", "waited", "denoise", "decode", "store"):
            if (spent := getattr(timings, stage)) is not None:
                self.stage_seconds.labels(stage).observe(spent / 1000)
        if timings.total is not None:
            self.end_to_end_seconds.observe(timings.total / 1000)

    def _histogram(self, name: str, documentation: str) -> Histogram:
        return Histogram(f"darkroom_{name}", documentation, registry=self.registry, buckets=_SECONDS)


class BusyWindow:
    """The share of recent time in which the device worked, and how many images a second left it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._busy_s = [0.0, 0.0]
        self._images = [0, 0]

    def worked(self, seconds: float) -> None:
        """The device took a step."""
        self._turn()
        self._busy_s[1] += seconds

    def finished(self, images: int) -> None:
        """Images were published."""
        self._turn()
        self._images[1] += images

    def ratio(self) -> float:
        """Busy seconds a second, 0 to 1."""
        return min(1.0, sum(self._busy_s) / self._span())

    def images_per_second(self) -> float:
        """The measured rate."""
        return sum(self._images) / self._span()

    def _span(self) -> float:
        self._turn()
        earlier = BUSY_WINDOW_S if self._turned else 0.0
        return max(1.0, earlier + self._clock() - self._since)

    _turned = False

    def _turn(self) -> None:
        """Two halves: the earlier one is dropped when the later one is full."""
        elapsed = self._clock() - self._since
        if elapsed < BUSY_WINDOW_S:
            return
        quiet = elapsed >= 2 * BUSY_WINDOW_S
        self._busy_s = [0.0 if quiet else self._busy_s[1], 0.0]
        self._images = [0 if quiet else self._images[1], 0]
        self._since = self._clock() if quiet else self._since + BUSY_WINDOW_S
        self._turned = True


class WorkerGauges(Collector):
    """Reads the worker's state when it is scraped, on the scraping thread: counts may be a moment apart."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        engine: Engine,
        delivered: Mapping[PartitionKey, Delivery],
        payloads: Mapping[JobKey, Payload],
        metrics: Metrics,
        *,
        rows_max: int,
    ) -> None:
        """`rows_max`: rows that may share a step."""
        self._snapshot = snapshot
        self._rows_max = rows_max
        self._engine = engine
        self._delivered = delivered
        self._payloads = payloads
        self._busy = metrics.busy
        self._device_seconds = metrics.device_seconds

    def collect(self) -> list[Metric]:
        """All gauges."""
        now = self._snapshot()
        return [*self._lag(now), *_rows(now), *self._device()]

    def unread_records(self, now: Snapshot | None = None) -> dict[PartitionKey, int]:
        """Return, for each held partition, the records that this worker has not received yet."""
        unread = {}
        for one in (now or self._snapshot()).partitions:
            delivery = self._delivered.get(one.key)
            if delivery is not None and one.position is not None:
                unread[one.key] = max(0, max(delivery.end or 0, delivery.position) - one.position)
        return unread

    def lag_records(self, now: Snapshot | None = None) -> dict[PartitionKey, int]:
        """Return, for each held partition, the records that have no outcome yet."""
        now = now or self._snapshot()
        unfinished = {one.key: one.unfinished for one in now.partitions}
        return {key: unread + unfinished[key] for key, unread in self.unread_records(now).items()}

    def lag_seconds(self, now: Snapshot | None = None) -> float:
        """Estimate the seconds that this worker needs for all of them.

        The estimate follows the device's profile where there is one (`darkroom.consumer.worker.backlog`), else the rate
        of the last half minute; where nothing was finished in it, the estimate is infinite.
        """
        now = now or self._snapshot()
        profile = self._engine.profile
        if profile is not None:
            payloads = list(self._payloads.items())
            known = [
                render
                for key, one in payloads
                if (render := one.received.render) is not None and key in now.jobs_to_render
            ]
            seconds = backlog_seconds(
                profile,
                self._engine.info,
                known,
                sum(self.unread_records(now).values()),
                rows_max=self._rows_max,
                mean_s=self._device_seconds.value,
            )
            if seconds is not None:
                return seconds
        rate, records = self._busy.images_per_second(), sum(self.lag_records(now).values())
        return records / rate if rate > 0 else float("inf") if records else 0.0

    def _lag(self, now: Snapshot) -> list[Metric]:
        place = ["topic", "partition"]
        records = GaugeMetricFamily("darkroom_lag_records", "Unfinished records by partition.", labels=place)
        for key, count in self.lag_records(now).items():
            records.add_metric([key.topic, str(key.partition)], count)
        committed = GaugeMetricFamily("darkroom_committed_offset", "The group's offset by partition.", labels=place)
        window = 0
        for one in now.partitions:
            if one.base is not None and one.position is not None:
                committed.add_metric([one.key.topic, str(one.key.partition)], one.base)
                window = max(window, one.position - one.base)
        begun = (one.received.requested_at or one.taken_at for one in list(self._payloads.values()))
        oldest = min((moment.timestamp() for moment in begun if moment is not None), default=None)
        return [
            records,
            committed,
            _gauge("lag_seconds", "Estimated time to clear the lag.", self.lag_seconds(now)),
            _gauge("offset_window", "The widest distance from a committed offset to the position.", window),
            _gauge(
                "oldest_request_age_seconds",
                "Age of the oldest request that is held and unfinished.",
                0.0 if oldest is None else max(0.0, time.time() - oldest),
            ),
        ]

    def _device(self) -> list[Metric]:
        memory = GaugeMetricFamily("darkroom_device_memory_bytes", "The device's memory.", labels=["kind"])
        for kind, size in self._engine.memory_bytes().items():
            memory.add_metric([kind], size)
        hits = CounterMetricFamily("darkroom_cache_hits", "Cache hits.", labels=["cache"])
        misses = CounterMetricFamily("darkroom_cache_misses", "Cache misses.", labels=["cache"])
        held = GaugeMetricFamily("darkroom_cache_bytes", "What a cache holds.", labels=["cache"])
        for cache, counts in self._engine.cache_counts().items():
            hits.add_metric([cache], counts.hits)
            misses.add_metric([cache], counts.misses)
            held.add_metric([cache], counts.bytes_held)
        adapters = _gauge(
            "adapters",
            "Files of LoRAs and textual inversions that requests may name.",
            len(self._engine.info.adapters) + len(self._engine.info.embeddings),
        )
        refused = _gauge(
            "adapters_refused",
            "Adapter files that cannot be used; requests for them fail.",
            len(self._engine.info.adapters_refused),
        )
        busy = _gauge("device_busy_ratio", "Share of recent time in which the device worked.", self._busy.ratio())
        return [memory, hits, misses, held, adapters, refused, busy, *self._utilization()]

    def _utilization(self) -> list[Metric]:
        """Absent where nobody knows it: a zero would say that the device is idle."""
        share = gpu_utilization(self._engine.info.device)
        if share is None:
            return []
        return [_gauge("device_utilization_ratio", "Share of the last moment in which the GPU ran kernels.", share)]


def _rows(now: Snapshot) -> list[Metric]:
    return [
        _gauge("waiting_rows", "Images that wait for the device.", now.rows_waiting),
        _gauge("active_rows", "Images on the device.", now.rows_on_device),
        _gauge("unsettled_bytes", "Finished pictures that wait for the store.", now.unsettled_bytes),
        _gauge("store_breaker_open", "1 while the store is taken to be away.", float(now.store_is_away)),
    ]


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"darkroom_{name}", documentation, value=value)
