"""Delivers callbacks: reads completions in a consumer group of its own, posts them, and commits what is settled.

A completion is settled once its receiver has answered with 2xx, or once it stands as a dead letter in the store, or if
nobody wants it. A partition's position never passes one that is not settled, so a process that is killed anywhere
begins again with it: every callback is delivered at least once, and its id tells repetitions.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from aiokafka import ConsumerRebalanceListener
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from prometheus_client import CollectorRegistry, Counter, Gauge

from darkroom.consumer.hooks.schedule import Delivery, Schedule, Window
from darkroom.consumer.hooks.sending import Message, Refused, Sender
from darkroom.consumer.worker.health import Health, HealthServer
from darkroom.producer.callbacks.addresses import Addressees
from darkroom.producer.callbacks.receivers import Receiver
from darkroom.producer.gateway.jobs.answers import Addresses
from darkroom.producer.gateway.jobs.claims import CLAIM_BYTES_MAX, callback_in
from darkroom.producer.kafka.closing import close
from darkroom.producer.kafka.connection import KafkaDenied, KafkaUnavailable, kafka_arguments, reaching_kafka
from darkroom.producer.kafka.consuming import FETCH_BYTES_MAX, RecordConsumer
from darkroom.producer.kafka.passed_over import PassedOver
from darkroom.producer.kafka.reader import TopicPartition
from darkroom.producer.kafka.rights_check import check_rights
from darkroom.producer.kafka.topics import TopicRefused, ensure_topics
from darkroom.producer.outages import KAFKA, STORE
from darkroom.producer.store.objects import Objects, ObjectTooLarge, StoreUnavailable
from darkroom.producer.tasks import TaskSupervisor
from darkroom.schemas.errors import ErrorCode, EventUnreadable
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.names import callback_key, request_key
from darkroom.schemas.rights import Role, hooks_group
from darkroom.schemas.settings import Settings
from darkroom.schemas.wire.codec import decode_completion

log = structlog.get_logger(__name__)

EVENT_TYPE: Final = "darkroom.generation.completed.v1"
READ_MS: Final = 250
"""Milliseconds that one read waits for records."""
READ_RECORDS: Final = 100
OPEN_MAX: Final = 10_000
"""Completions that are read and not settled, at about 5 KB each."""
SENDING_MAX: Final = 32
"""Callbacks on their way at a time, to all receivers."""
COMMIT_S: Final = 1.0
"""How often positions are committed: so much is delivered again after a crash."""
TRIES_MIN: Final = 3
"""Tries before a callback becomes a dead letter, however old it is: this process may have been away for days."""
AGAIN_S: Final = 1.0
"""Seconds between two tries to reach Kafka or the store."""
DRAIN_S: Final = 5.0
"""How long the end waits for callbacks on their way."""


class Metrics:
    """The metrics of one process, in a registry of its own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.results = Counter(
            "darkroom_hooks", "Tries of callbacks: delivered, failed (tried again later), dead_lettered.", ["result"],
            registry=registry,
        )  # fmt: skip
        for result in ("delivered", "failed", "dead_lettered"):
            self.results.labels(result)
        self.waiting = Gauge("darkroom_hooks_waiting", "Callbacks that are not settled.", registry=registry)
        self.task_restarts = Counter(
            "darkroom_task_restarts", "Background tasks that ended unexpectedly and were restarted.", ["task"],
            registry=registry,
        )  # fmt: skip
        self.task_restarts.labels("dispatch")


class Hooks(ConsumerRebalanceListener):  # type: ignore[misc]
    """One process's deliveries. `run` delivers until `stop`."""

    def __init__(self, settings: Settings, receivers: Mapping[str, Receiver], objects: Objects) -> None:
        self._settings = settings
        self._receivers = receivers
        self._objects = objects
        self._addresses = Addresses(settings.gateway.public_url)
        self._sender = Sender(Addressees(settings.hooks.allowed_networks), timeout_s=settings.hooks.timeout_s)
        self._schedule = Schedule(random.random)
        self._windows: dict[TopicPartition, Window] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._unread: deque[Any] = deque()
        """Records that wait for the store, to learn whether anybody wants them."""
        self._sending: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._stopping = asyncio.Event()
        self._passed_over = PassedOver()
        self._consumer: Any = None
        self._reasons: tuple[str, ...] = ("Kafka was not reached yet.",)
        self._tasks: TaskSupervisor | None = None
        self.metrics = Metrics()
        self.metrics.waiting.set_function(self._open_records)

    # --- Running -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Deliver until `stop`. Outages of Kafka and of the store are outlasted."""
        async with TaskSupervisor(
            on_restart=lambda name: self.metrics.task_restarts.labels(name).inc(),
        ) as tasks:
            self._tasks = tasks
            tasks.keep("dispatch", self._dispatch, matters="no callback is sent")
            while not self._stopping.is_set():
                try:
                    await self._follow()
                except (KafkaUnavailable, TopicRefused) as error:
                    self._reasons = (str(error),) if isinstance(error, KafkaDenied) else ("Kafka does not answer.",)
                    KAFKA.failed("hooks", error)
                    await self._pause(AGAIN_S)

    def stop(self) -> None:
        """End soon: read nothing more, and commit what is settled."""
        self._stopping.set()
        self._news.set()

    def serve_health(self) -> HealthServer:
        """Start answering probes and scrapes. Raises `OSError` where the port is taken."""
        hooks = self._settings.hooks
        server = HealthServer(
            hooks.metrics_host, hooks.metrics_port, self.metrics.registry, lambda: Health(True), self._ready
        )
        server.start()
        return server

    def _ready(self) -> Health:
        reasons = (*self._reasons, *(() if self._tasks is None else self._tasks.unready()))
        return Health(not reasons, reasons)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    # --- Reading -----------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        settings = self._settings
        await check_rights(settings, Role.HOOKS)
        await ensure_topics(settings)
        consumer = RecordConsumer(
            **kafka_arguments(settings.kafka),
            group_id=hooks_group(settings.kafka.group_id),
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_bytes=FETCH_BYTES_MAX,
        )
        try:
            with reaching_kafka(settings.kafka, "reading completions for callbacks", operation="Read"):
                consumer.subscribe([settings.topics.completions], listener=self)
                self._consumer = consumer
                await consumer.start()
                KAFKA.answered("hooks")
                self._reasons = ()
                await self._read_on(consumer)
        finally:
            self._forget()
            self._consumer = None
            await close(consumer)

    async def _read_on(self, consumer: RecordConsumer) -> None:
        committed_at = time.monotonic()
        while not self._stopping.is_set():
            has_room = not self._unread and self._has_room()
            with contextlib.suppress(IllegalStateError):  # it was taken away in this moment
                turn = consumer.resume if has_room else consumer.pause
                turn(*consumer.assignment())
            batches = await consumer.getmany(timeout_ms=READ_MS, max_records=READ_RECORDS)
            for record in (record for batch in batches.values() for record in batch):
                place = TopicPartition(record.topic, record.partition)
                self._windows.setdefault(place, Window(record.offset)).read(record.offset)
                self._unread.append(record)
            await self._look_at_records()
            if time.monotonic() - committed_at >= COMMIT_S:
                await self._commit()
                committed_at = time.monotonic()
        if self._sending:
            await asyncio.wait(self._sending, timeout=DRAIN_S)
        await self._commit()

    def _open_records(self) -> int:
        return sum(len(window) for window in list(self._windows.values()))

    def _has_room(self) -> bool:
        if self._open_records() < OPEN_MAX:
            return True
        # A receiver that is away for long must not keep the others waiting.
        while len(self._sending) < SENDING_MAX and (gone := self._schedule.give_up_one()) is not None:
            gone.error = f"{gone.error}; more callbacks wait than are kept ({OPEN_MAX})"
            self._spawn(self._bury(gone))
        return False

    async def _look_at_records(self) -> None:
        while self._unread:
            record = self._unread[0]
            try:
                delivery = await self._delivery_of(record)
            except StoreUnavailable as error:
                self._reasons = ("The object store does not answer.",)
                STORE.failed("hooks", error)
                return
            if not self._unread or self._unread[0] is not record:
                return  # the partitions were reassigned meanwhile
            self._unread.popleft()
            self._reasons = ()
            STORE.answered("hooks")
            if delivery is None:
                self._windows[TopicPartition(record.topic, record.partition)].settle(record.offset)
            else:
                self._schedule.add(delivery)
                self._news.set()

    async def _delivery_of(self, record: Any) -> Delivery | None:
        """Return the callback for a record, or None where nobody wants one. Raises `StoreUnavailable`."""
        try:
            completion = decode_completion(record.value, record.headers)
        except EventUnreadable as error:
            if told := self._passed_over.add(record, error.message):
                log.warning(told)
            return None
        receiver = self._receivers.get(completion.tenant)
        # A repetition and a conflict answer other records of the job, and are no end of it.
        is_other = completion.error is not None and completion.error.code is ErrorCode.REQUEST_ID_CONFLICT
        if receiver is None or completion.replayed or is_other:
            return None
        url = await self._asked_for(completion) or receiver.url
        if url is None:
            return None
        place = TopicPartition(record.topic, record.partition)
        return Delivery(
            place,
            record.offset,
            self._windows.get(place),
            completion.tenant,
            completion.request_id,
            Message(_id_of(completion, record), url, self._body(completion)),
            completion.completed_at.timestamp(),
        )

    async def _asked_for(self, completion: Completion) -> str | None:
        key = request_key(completion.tenant, completion.request_id, prefix=self._objects.prefix)
        try:
            content = await self._objects.get(key, bytes_max=CLAIM_BYTES_MAX)
        except ObjectTooLarge:
            return None
        return None if content is None else callback_in(content)

    def _body(self, completion: Completion) -> bytes:
        told = {
            "type": EVENT_TYPE,
            "timestamp": completion.completed_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "data": self._addresses.completion(completion),
        }
        return json.dumps(told, separators=(",", ":")).encode()

    # --- Positions ---------------------------------------------------------------------------------------

    async def _commit(self) -> None:
        positions = {place: window.position for place, window in self._windows.items()}
        news = {place: at for place, at in positions.items() if self._committed.get(place) != at}
        if not news or self._consumer is None:
            return
        try:
            await self._consumer.commit(news)
        except (CommitFailedError, IllegalStateError):  # the partitions have another owner, who delivers again
            return
        self._committed |= news

    async def on_partitions_revoked(self, revoked: list[TopicPartition]) -> None:  # noqa: ARG002 - all are, always
        """Commit what is settled and forget the rest: whoever gets the partitions reads it again."""
        with contextlib.suppress(KafkaError):
            await self._commit()
        self._forget()

    async def on_partitions_assigned(self, assigned: list[TopicPartition]) -> None:
        """Begin at the committed positions, where the consumer stands."""

    def _forget(self) -> None:
        self._windows = {}
        self._committed = {}
        self._unread.clear()
        self._schedule.clear()

    # --- Sending -----------------------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        while True:
            self._news.clear()
            while len(self._sending) < SENDING_MAX and not self._stopping.is_set():
                delivery = self._schedule.take(time.monotonic())
                if delivery is None:
                    break
                self._spawn(self._try(delivery))
            due_at = self._schedule.due_at()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due_at is None else max(0.0, due_at - time.monotonic())):
                    await self._news.wait()

    def _spawn(self, work: Any) -> None:
        assert self._tasks is not None
        task = self._tasks.spawn("callback", work)
        self._sending.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._news.set()

    async def _try(self, delivery: Delivery) -> None:
        delivery.attempts += 1
        try:
            await self._sender.send(delivery.message, self._receivers[delivery.tenant].secrets)
        except Refused as refused:
            delivery.error = str(refused)
            is_old = time.time() - delivery.ended_at > self._settings.hooks.give_up_s
            is_over = refused.is_final or (is_old and delivery.attempts >= TRIES_MIN)
            self.metrics.results.labels("failed").inc()
            log.info("a callback failed", **_about(delivery))
            is_mine = self._window_of(delivery) is not None
            self._schedule.failed(delivery, time.monotonic(), again=is_mine and not is_over)
            if is_mine and is_over:
                await self._bury(delivery)
            return
        self.metrics.results.labels("delivered").inc()
        self._schedule.delivered(delivery)
        self._settle(delivery)

    async def _bury(self, delivery: Delivery) -> None:
        """Put a dead letter beside the job's outcome, however long the store takes to come back."""
        key = callback_key(delivery.tenant, delivery.request_id, prefix=self._objects.prefix)
        letter = {
            "url": delivery.message.url,
            "webhook_id": delivery.message.id,
            "attempts": delivery.attempts,
            "error": delivery.error,
            "given_up_at": datetime.now(UTC).isoformat(),
            "body": json.loads(delivery.message.body),
        }
        while self._window_of(delivery) is not None:
            try:
                await self._objects.put(key, json.dumps(letter).encode(), "application/json")
            except StoreUnavailable as error:
                STORE.failed("hooks", error)
                await asyncio.sleep(AGAIN_S)
                continue
            self.metrics.results.labels("dead_lettered").inc()
            log.warning("a callback became a dead letter", key=key, **_about(delivery))
            self._settle(delivery)
            return

    def _window_of(self, delivery: Delivery) -> Window | None:
        """Return the window of a callback's record; None once its partition was given away."""
        window = self._windows.get(delivery.place)
        return window if window is not None and window is delivery.window else None

    def _settle(self, delivery: Delivery) -> None:
        if (window := self._window_of(delivery)) is not None:
            window.settle(delivery.offset)


def _about(delivery: Delivery) -> dict[str, Any]:
    """Return what the log says of a callback: not its whole URL, in which receivers like to put tokens."""
    return {
        "job": f"{delivery.tenant}/{delivery.request_id}",
        "receiver": delivery.receiver.origin,
        "attempts": delivery.attempts,
        "reason": delivery.error,
    }


def _id_of(completion: Completion, record: Any) -> str:
    """Return the callback's id: the same whoever delivers this record, and another one for any other record."""
    told = (
        completion.tenant,
        completion.request_id,
        completion.completed_at.isoformat(),
        record.partition,
        record.offset,
    )
    return f"msg_{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:40]}"
