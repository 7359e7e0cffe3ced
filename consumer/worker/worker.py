"""Puts a worker together: settings in, a driver on real edges out, and everything that runs beside it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import structlog
from prometheus_client import CollectorRegistry

from darkroom.consumer.core.core import Core
from darkroom.consumer.core.lifecycle import Phase
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.kafka.broker import KafkaBroker
from darkroom.consumer.kafka.cancellations import CancellationFollower
from darkroom.consumer.provenance.signing import signing_of
from darkroom.consumer.safety.classifiers import load as load_classifier
from darkroom.consumer.safety.judging import Judging
from darkroom.consumer.weights.usage import CacheUsage
from darkroom.consumer.worker.adapter_watch import AdapterWatch
from darkroom.consumer.worker.boots import StoreBoots
from darkroom.consumer.worker.delivery import Delivery
from darkroom.consumer.worker.driver import Driver
from darkroom.consumer.worker.health import Health, HealthServer
from darkroom.consumer.worker.idle_time import DeviceWaits
from darkroom.consumer.worker.intake import Intake
from darkroom.consumer.worker.metrics import Metrics, WorkerGauges
from darkroom.consumer.worker.open_files import allow_open_files
from darkroom.consumer.worker.payload import Payloads
from darkroom.consumer.worker.pod_cost import PodApi, PodCost
from darkroom.consumer.worker.ports import Broker, BrokerUnavailable
from darkroom.consumer.worker.progress import ProgressFeed
from darkroom.consumer.worker.rendering import Rendering
from darkroom.consumer.worker.traces import WorkerTraces
from darkroom.inference.contract import Engine
from darkroom.inference.planning.request_costs import RequestCosts
from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.producer.kafka.refusals import log_in_trouble
from darkroom.producer.outages import KAFKA, STORE, watch_outages
from darkroom.producer.policy.policy_file import PolicyFile
from darkroom.producer.recipes_file import read_recipes
from darkroom.producer.store.objects import Objects
from darkroom.producer.tasks import TaskSupervisor
from darkroom.producer.tracing import is_recording
from darkroom.schemas.events.progress import Cancellation
from darkroom.schemas.names import Topic
from darkroom.schemas.settings import Settings

log = structlog.get_logger(__name__)

PREPARE_AHEAD_ROWS = 8
"""Images prepared before there is a place for them: a full batch, or so many."""
LOOP_CHECK_S = 0.5
"""How often the event loop's delay is measured."""
LOOP_STUCK_S = 30.0
"""A loop that has not turned for so long will not turn again: the process is to be restarted."""


def limits_of(settings: Settings) -> Limits:
    """Return the core's bounds: those that are settings, and the core's own for the rest."""
    batch, worker = settings.batch, settings.worker
    return Limits(
        attempts_max=worker.max_attempts,
        batch_rows_max=batch.max_rows,
        ahead_rows_max=max(1, batch.max_rows // 2),
        begin_ahead_rows_max=max(64, batch.max_rows),
        prepare_ahead_rows_max=max(PREPARE_AHEAD_ROWS, batch.max_rows),
        linger_s=batch.linger_ms / 1000,
        backlog_s=batch.backlog_s,
        unsettled_bytes_max=settings.limits.finished_bytes_max,
        drain_s=worker.drain_s,
        backoff_s_max=worker.backoff_ms_max / 1000,
    )


KAFKA_CHECK_S = 2.0
"""How often Kafka is asked for the group's members, only to know that it answers: an idle worker has no other need."""
POLL_SILENT_S_MAX = 10.0
"""Without a poll that succeeded for so long, the worker is not ready: polls take tenths of a second."""
KAFKA_ANSWER_S_MAX = 5.0
"""Kafka that takes longer is taken to be away, as far as readiness goes."""


class Worker:
    """One worker process: the driver, its health and metrics, and the small readers and writers beside it."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        objects: Objects,
        *,
        make_broker: Callable[..., Broker] = KafkaBroker,
        make_tasks: Callable[..., TaskSupervisor] = TaskSupervisor,
    ) -> None:
        """On a running event loop. `make_broker` takes what `KafkaBroker` takes, `make_tasks` what its default takes.

        Raises `SettingsError` for a file of the policy, of recipes or of a certificate that cannot be used.
        """
        self.settings = settings
        self.engine = engine
        prefix = settings.topics.prefix
        self._arguments = kafka_arguments(settings.kafka)
        self._topics = {topic: prefix + topic.value for topic in Topic}
        price = settings.worker.usd_per_device_hour
        self.metrics = Metrics(CollectorRegistry(), usd_per_device_hour=price)
        self.metrics.registry.register(CacheUsage(settings.model))
        self.payloads: Payloads = {}
        policy = PolicyFile(
            settings.policy,
            on_rejected=lambda category: self.metrics.policy_rejections.labels(category).inc(),
            on_reload_failed=self.metrics.policy_reload_failures.inc,
            load_pictures=load_classifier,
        )
        self._judging = Judging(policy, settings.policy, self.metrics.on_flagged)
        signing = signing_of(settings.provenance)
        traces = None
        if is_recording():
            traces = WorkerTraces(
                requests=self._topics[Topic.REQUESTS],
                completions=self._topics[Topic.COMPLETIONS],
                group=settings.kafka.group_id,
            )
        delivery = Delivery(
            settings, objects, self.metrics.on_published, policy, signing, traces=traces, judging=self._judging
        )
        self._delivery = delivery
        deployment = f"{settings.s3.endpoint}/{settings.s3.bucket}/{settings.kafka.group_id}"
        self._boots = StoreBoots(objects, deployment=deployment)
        # The group's members are told apart by their boots: ownership and fates are read from the client ids.
        client_id = f"{settings.worker.name}.{self._boots.boot}"
        jitter = (hash(settings.worker.name) % 1000) / 1000
        core = Core(limits_of(settings), boot=self._boots.boot, jitter=jitter)
        waits = DeviceWaits(lambda: core.rows_to_join > 0, self.metrics.device_wait_seconds.observe)
        self._broker: Broker = make_broker(settings, topic=self._topics[Topic.REQUESTS], client_id=client_id)
        self._kafka_answers = True
        self._recipes = read_recipes(settings.model.recipes_file)
        self._adapters = None if settings.model.adapters_path is None else AdapterWatch(engine, settings.model)
        self._tasks = make_tasks(
            on_kept=self.metrics.task_restarts.labels,
            on_restart=lambda name: self.metrics.task_restarts.labels(name).inc(),
        )
        self.driver = Driver(
            core=core,
            broker=self._broker,
            boots=self._boots,
            rendering=lambda post, stopped: Rendering(
                engine, post, stopped, asyncio.get_running_loop().time, on_lane=waits.on_engine
            ),
            delivery=delivery,
            intake=lambda: self._intake(delivery),
            payloads=self.payloads,
        )
        self.driver.on_polled = None if traces is None else traces.polled
        self.driver.observers.append(self.metrics.on_core)
        self.driver.rendering.observers.append(self.metrics.on_engine)
        self.gauges = WorkerGauges(
            core.snapshot,
            engine,
            self.driver.delivered,
            self.payloads,
            self.metrics,
            rows_max=settings.batch.max_rows,
        )
        self.metrics.last_poll.set_function(lambda: self.driver.polled_at_time)
        self._loop_turned_at = asyncio.get_running_loop().time()

    def _intake(self, delivery: Delivery) -> Intake:
        info = self.engine.info
        delivery.loaded(info)
        self.metrics.model_loads.inc()
        self.metrics.registry.register(self.gauges)
        log.info("ready", model=info.name, revision=info.revision, device=info.device, dtype=info.dtype)
        if self._adapters is not None:
            self._adapters.loaded.set()
        limits = self.settings.limits
        return Intake(
            lambda: self.engine.info,
            limits,
            request_bytes_max=limits.request_bytes_max,
            recipes=self._recipes,
            names_parameters=self.settings.provenance.parameters,
            fidelity_default=self.settings.batch.fidelity_default,
            costs=RequestCosts(
                self.engine.profile, self.engine.info.latent_factor, rows_max=self.settings.batch.max_rows
            ),
            watermark=self.settings.provenance.watermark,
        )

    async def run(self) -> bool:
        """Serve until `drain`. Returns whether all begun work was finished. Raises as `Driver.run` does."""
        allow_open_files()
        try:
            async with self._beside():
                return await self.driver.run()
        finally:
            self._boots.release()

    def _cancel(self, cancellation: Cancellation) -> None:
        self._delivery.cancelled(cancellation)
        self.driver.cancel((cancellation.tenant, cancellation.request_id))

    def drain(self) -> None:
        """Finish what is on the device and leave."""
        self.driver.drain()

    def serve_health(self) -> HealthServer:
        """Start answering probes and scrapes. Raises `OSError` where the port is taken."""
        worker = self.settings.worker
        server = HealthServer(
            worker.metrics_host,
            worker.metrics_port,
            self.metrics.registry,
            self._live,
            self._ready,
            on_restart=self.metrics.task_restarts.labels("health").inc,
        )
        server.start()
        return server

    def _live(self) -> Health:
        late_s = self._loop.time() - self._loop_turned_at
        if late_s > LOOP_STUCK_S:
            return Health(False, (f"The event loop has not turned for {late_s:.0f} s: restart the process.",))
        return Health(True)

    def _ready(self) -> Health:
        core = self.driver.snapshot()
        reasons = []
        if core.phase is not Phase.RUNNING:
            reasons.append(f"The worker is {core.phase.value}.")
        elif not self.driver.joined:
            reasons.append("Kafka was not reached yet.")
        if core.store_is_away:
            reasons.append(f"The object store does not answer; work goes on when it does. {STORE.error}".rstrip())
        if not self._kafka_answers:
            reasons.append("Kafka does not answer; work goes on when it does.")
        elif self.driver.poll_error is not None:
            reasons.append(f"No records come from Kafka; work goes on when they do. {self.driver.poll_error}")
        elif (silent_s := self._silent_s()) > POLL_SILENT_S_MAX:
            reasons.append(f"No poll of Kafka has succeeded for {silent_s:.0f} s; work goes on when one does.")
        if (trouble := log_in_trouble(self.settings.kafka)) is not None:
            reasons.append(trouble)
        reasons += [str(refused) for refused in list(self.driver.refusals.values())]
        closed = [one.key.partition for one in core.partitions if not one.is_open]
        if closed:
            reasons.append(f"Partitions {closed} are being opened.")
        reasons += list(self.driver.open_errors.values())
        reasons += self._tasks.unready()
        return Health(not reasons, tuple(reasons))

    def _silent_s(self) -> float:
        """Return for how long no poll has succeeded; 0 before the group was joined."""
        polled_at = self.driver.polled_at
        return 0.0 if polled_at is None else self._loop.time() - polled_at

    @contextlib.asynccontextmanager
    async def _beside(self) -> AsyncIterator[None]:
        """What runs beside the driver, and is started again when it fails."""
        self._loop = asyncio.get_running_loop()
        worker = self.settings.worker
        feed = ProgressFeed(
            self._topics[Topic.PROGRESS],
            self._arguments,
            worker.name,
            self.driver.rendering.payload_of,
            shows_previews=self._judging.shows_previews,
        )
        self.driver.rendering.observers.append(feed.on_engine)
        cancellations = CancellationFollower(self._topics[Topic.CANCELLATIONS], self._arguments, self._cancel)
        api = None if worker.pod_name is None else PodApi(worker.pod_name, worker.pod_credentials_dir)
        async with self._tasks as tasks:
            tasks.keep("outages", watch_outages)
            tasks.keep("loop_watch", self._watch_loop)
            tasks.keep("kafka_watch", self._watch_kafka, matters="it is not known whether Kafka answers")
            tasks.keep("progress", feed.run)
            tasks.keep("cancellations", cancellations.run, matters="cancellations are read late")
            if self._adapters is not None:
                tasks.keep("adapters", self._adapters.run)
            if api is not None:
                tasks.keep("pod_cost", PodCost(api.set_cost, lambda: bool(self.payloads)).run)
            yield

    async def _watch_loop(self) -> None:
        while True:
            due = self._loop.time() + LOOP_CHECK_S
            await asyncio.sleep(LOOP_CHECK_S)
            self._loop_turned_at = self._loop.time()
            self.metrics.loop_delay.set(max(0.0, self._loop_turned_at - due))

    async def _watch_kafka(self) -> None:
        while True:
            await asyncio.sleep(KAFKA_CHECK_S)
            if self.driver.joined:
                try:
                    async with asyncio.timeout(KAFKA_ANSWER_S_MAX):
                        await self._broker.members()
                    self._kafka_answers = True
                    KAFKA.answered("kafka_watch")
                except (BrokerUnavailable, TimeoutError) as error:
                    self._kafka_answers = False
                    KAFKA.failed("kafka_watch", error)
