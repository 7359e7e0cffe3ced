"""Performs what the core decides, and tells it what came of it. The only place where effects become actions.

One event at a time goes into the core; its effects are performed in order, none of them waiting: what takes
time becomes a task that posts the next event. So the loop below is the whole of the worker's control flow, on
real edges as under the simulation.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import structlog

from darkroom.consumer.core import effects as do
from darkroom.consumer.core import events as on
from darkroom.consumer.core.core import Core
from darkroom.consumer.core.journal import Boot, Fate
from darkroom.consumer.core.offset_map import Commit, decode_commit
from darkroom.consumer.core.partition_key import JobKey, PartitionKey
from darkroom.consumer.core.snapshot import Snapshot
from darkroom.consumer.worker.delivery import Delivery, RequestRefused, StoreAway
from darkroom.consumer.worker.intake import Intake
from darkroom.consumer.worker.payload import Payload, Payloads, Received
from darkroom.consumer.worker.ports import (
    Boots,
    Broker,
    BrokerGone,
    BrokerUnavailable,
    PublicationRefused,
    PublicationUnknown,
    WriterFenced,
)
from darkroom.consumer.worker.ports import Delivery as Delivered
from darkroom.consumer.worker.rendering import Rendering
from darkroom.producer.outages import CLASSIFIER, KAFKA, SIGNER, STORE
from darkroom.producer.tasks import TaskSupervisor, described
from darkroom.schemas.errors import ErrorCode

log = structlog.get_logger(__name__)

POLL_S = 0.2
"""The longest wait inside one poll; short, so that a resumed partition and a drain are not held up."""
POLL_RETRY_S = 1.0
"""The pause after a poll that failed."""
JobCall = do.LookUp | do.FetchPictures | do.Prepare | do.Settle
"""Effects that are performed by a task for one job."""
_NAMES = {do.LookUp: "look_up", do.FetchPictures: "fetch_pictures", do.Prepare: "prepare", do.Settle: "settle"}
"""The names of those tasks."""


class EngineGone(Exception):  # noqa: N818
    """The engine ended: the process must end too, and be started anew."""


class Driver:
    """Runs one worker from its start to its `Stop`."""

    def __init__(
        self,
        *,
        core: Core,
        broker: Broker,
        boots: Boots,
        rendering: Callable[[Callable[[on.Event], None], Callable[[str], None]], Rendering],
        delivery: Delivery,
        intake: Callable[[], Intake],
        payloads: Payloads,
    ) -> None:
        self._core = core
        self._broker = broker
        self._boots = boots
        self._rendering = rendering(self.post, self._engine_stopped)
        self._delivery = delivery
        self._make_intake = intake
        self._payloads = payloads
        self._inbox: deque[on.Event] = deque()
        self._pumping = False
        self._wake: asyncio.TimerHandle | None = None
        self._tasks = TaskSupervisor(on_failed=self._fail)
        self._openings: dict[PartitionKey, asyncio.Task[None]] = {}
        self._epochs: dict[PartitionKey, int] = {}
        """The epochs under which partitions were opened last; none of one that is being opened or was given up."""
        self._told: dict[PartitionKey, tuple[int, int]] = {}
        """By partition: the epoch and the position that the core was told of last."""
        self._arriving: Received | None = None
        """What was received with the record that the core is being told of."""
        self._calls: dict[JobKey, tuple[JobCall, asyncio.Task[None]]] = {}
        self._stopped: asyncio.Future[bool] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._leaving = False
        """At the end: what the group or the engine still says begins nothing any more."""
        self.observers: list[Callable[[on.Event, tuple[do.Effect, ...]], None]] = []
        """Told of every event and what followed from it: metrics, logs."""
        self.on_polled: Callable[[Sequence[Delivered], int], None] | None = None
        """Told of what each poll returned, and when it began in nanoseconds since 1970."""
        self.joined = False
        """Whether the group was joined, and so Kafka reached."""
        self.poll_error: str | None = None
        """Why the last poll failed; None where it did not."""
        self.refusals: dict[PartitionKey, PublicationRefused] = {}
        """Partitions whose last publication the broker refused, and why; until one is accepted."""
        self.open_errors: dict[PartitionKey, str] = {}
        """Why partitions could not be opened; until they are, or are given up."""
        self.polled_at: float | None = None
        """When a poll last succeeded, by the event loop's clock, beginning with when the group was joined."""
        self.polled_at_time: float = 0.0
        """The same as a Unix timestamp in seconds, 0 before the group was joined."""
        self.delivered: dict[PartitionKey, Delivered] = {}
        """The last poll's word on each partition, for the lag."""

    def snapshot(self) -> Snapshot:
        """Return the core's state as others may see it. Safe to call from any thread."""
        return self._core.snapshot()

    @property
    def rendering(self) -> Rendering:
        """The engine's side."""
        return self._rendering

    def now(self) -> float:
        """The core's clock: the event loop's."""
        return asyncio.get_running_loop().time()

    async def run(self) -> bool:
        """Serve until drained. Returns whether all begun work was finished.

        Raises `ModelError` where the model cannot be loaded, `StoreUnavailable` and `BrokerUnavailable` where the store
        or Kafka is not there at the start, `EngineGone` and `BrokerGone` when the engine or the member of the group
        ends by itself, and `TaskFailed` when a task of this driver does by an exception that its edge does not declare.
        """
        loop = asyncio.get_running_loop()
        self._stopped = loop.create_future()
        try:
            await self._rendering.start()
            await self._boots.announce()
            intake = self._make_intake()
            self.post(on.Started())
            if not self._stopped.done():
                await self._broker.join(
                    lambda partitions: self.post(on.PartitionsRevoked(partitions)),
                    lambda partitions: self.post(on.PartitionsAssigned(partitions)),
                )
                self.joined = True
                self._note_poll()
                self._tasks.spawn("poll", self._poll(intake))
            return await self._stopped
        finally:
            await self._end()

    def drain(self) -> None:
        """Finish what is on the device and leave. Safe to call twice, and before the model is loaded."""
        if self._ending is None and not self._leaving:
            self._ending = self._tasks.spawn("ending", self._boots.ending())
        self.post(on.DrainRequested())

    def cancel(self, identity: tuple[str, str]) -> None:
        """The requester of (tenant, request id) does not want the outcome any more."""
        self.post(on.CancellationArrived(identity))

    def post(self, event: on.Event) -> None:
        """Tell the core, now or as soon as it is done with the event before. On the event loop only."""
        if self._leaving:
            return
        self._inbox.append(event)
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._inbox:
                event = self._inbox.popleft()
                effects = self._core.handle(event, self.now())
                for observe in self.observers:
                    observe(event, effects)
                for effect in effects:
                    self._perform(effect)
        except Exception as error:
            self._fail(error)
            raise
        finally:
            self._pumping = False
        self._set_alarm()

    # --- Effects -----------------------------------------------------------------------------------------

    def _perform(self, effect: do.Effect) -> None:
        match effect:
            case do.LookUp() | do.FetchPictures() | do.Prepare() | do.Settle():
                self._begin(effect)
            case do.Keep(job):
                assert self._arriving is not None
                self._payloads[job] = Payload(self._arriving)
            case do.Admit() | do.SetCap() | do.Leave():
                self._tell_engine(effect)
            case do.Forget(job):
                self._leave(job)
                self._payloads.pop(job, None)
            case do.Publish():
                # Taken now: the partition may be lost, and its jobs forgotten, before the task begins.
                payloads = {key: self._payloads[key] for key in effect.jobs}
                self._tasks.spawn("publish", self._publish(effect, payloads))
            case do.OpenPartition():
                self._open(effect)
            case do.ClosePartition(partition):
                self._open(effect)
                self.delivered.pop(partition, None)
                self._told.pop(partition, None)
            case do.Pause(partition):
                self._broker.pause(partition)
            case do.Resume(partition, seek_to):
                self._broker.resume(partition, seek_to)
            case do.Stop(clean):
                if self._stopped is not None and not self._stopped.done():
                    self._stopped.set_result(clean)

    def _tell_engine(self, effect: do.Admit | do.SetCap | do.Leave) -> None:
        match effect:
            case do.Admit(rows):
                self._rendering.admit(rows)
            case do.SetCap(batch_key, rows_max):
                self._rendering.set_cap(batch_key, rows_max)
            case do.Leave(job):
                self._leave(job)

    def _begin(self, call: JobCall) -> None:
        if isinstance(call, do.Prepare) and not self._delivery.judges_prompts:
            self._rendering.prepare(call.job, self._payloads[call.job])  # it only queues, so no task is needed
        else:
            self._calls[call.job] = (call, self._tasks.spawn(_NAMES[type(call)], self._call(call)))

    def _leave(self, job: JobKey) -> None:
        """Stop what is being done for a job. A settlement goes on: the outcome is worth having either way."""
        call, task = self._calls.pop(job, (None, None))
        if task is not None and not isinstance(call, do.Settle):
            task.cancel()
        self._rendering.drop(job)

    async def _call(self, call: JobCall) -> None:
        payload = self._payloads.get(call.job)
        if payload is None:
            return
        answer: on.Event | None
        try:
            answer = await self._answer(call, payload)
        except RequestRefused as refused:
            answer = on.JobFaulted(call.job, on.FaultParty.REQUEST, refused.code, refused.message)
        except StoreAway as away:
            assert not isinstance(call, do.Prepare)
            log.debug("held", request_id=payload.received.request_id, error=str(away))
            away.outage.failed("worker", away)
            answer = on.StoreFailed(call)
        except MemoryError:
            raise
        except Exception as unexpected:
            if isinstance(call, do.Settle):  # what is in the store now is not known: only a restart can tell
                raise
            log.exception("a request failed unexpectedly", request_id=payload.received.request_id)
            said = f"The worker did not expect this failure while it began the request: {described(unexpected)}."
            answer = on.JobFaulted(call.job, on.FaultParty.UNKNOWN, ErrorCode.RENDER_FAILED.value, said)
        else:
            if not isinstance(call, do.Prepare):
                STORE.answered("worker")
            if isinstance(call, do.Settle):
                SIGNER.answered("worker")
                CLASSIFIER.answered("worker")
        # The record may have been given up and delivered again meanwhile: then this answers nobody.
        if answer is not None and self._payloads.get(call.job) is payload:
            self.post(answer)

    async def _answer(self, call: JobCall, payload: Payload) -> on.Event | None:
        match call:
            case do.LookUp(job):
                found = await self._delivery.look_up(job, payload)
                return on.OutcomeFound(job) if found else on.OutcomeAbsent(job)
            case do.Settle(job, verdict):
                await self._delivery.settle(job, payload, verdict)
                return on.Settled(job)
            case do.FetchPictures(job):
                await self._delivery.fetch_pictures(payload)
                return on.PicturesFetched(job)
            case do.Prepare(job):
                await self._delivery.judge_prompt(payload)
                if self._payloads.get(job) is payload:
                    self._rendering.prepare(job, payload)
                return None  # the engine answers

    async def _publish(self, effect: do.Publish, payloads: Payloads) -> None:
        try:
            records = await self._delivery.records(effect.jobs, payloads)
            await self._broker.publish(effect.partition, records, effect.offset, effect.metadata)
        except WriterFenced as fenced:
            log.warning("fenced", partition=effect.partition.partition, error=str(fenced))
            self.post(on.PublishFailed(effect.partition, effect.epoch, fenced=True))
        except PublicationRefused as refused:
            log.warning("publication refused", partition=effect.partition.partition, error=str(refused))
            self.refusals[effect.partition] = refused
            if refused.refusal is on.Refusal.SIZE:
                await self._delivery.publish_smaller(effect.jobs, payloads)
            self.post(on.PublishFailed(effect.partition, effect.epoch, fenced=False, refusal=refused.refusal))
        except (PublicationUnknown, StoreAway) as unknown:
            log.debug("publication not confirmed", partition=effect.partition.partition, error=str(unknown))
            (STORE if isinstance(unknown, StoreAway) else KAFKA).failed("publish", unknown)
            self.post(on.PublishFailed(effect.partition, effect.epoch, fenced=False))
        else:
            self.refusals.pop(effect.partition, None)
            KAFKA.answered("publish")
            STORE.answered("publish")
            self._delivery.published(effect.jobs, payloads)
            self.post(on.Published(effect.partition, effect.epoch))

    def _open(self, effect: do.OpenPartition | do.ClosePartition) -> None:
        """Open or close after what was being done to the partition before was given up: one hand at a time."""
        self._epochs.pop(effect.partition, None)
        earlier = self._openings.pop(effect.partition, None)
        if earlier is not None:
            earlier.cancel()
        self._openings[effect.partition] = self._tasks.spawn("partition", self._open_after(earlier, effect))

    async def _open_after(
        self, earlier: asyncio.Task[None] | None, effect: do.OpenPartition | do.ClosePartition
    ) -> None:
        if earlier is not None:
            await asyncio.wait({earlier})
        if isinstance(effect, do.ClosePartition):
            self.refusals.pop(effect.partition, None)
            self.open_errors.pop(effect.partition, None)
            await self._broker.close(effect.partition)
            return
        try:
            opened = await self._broker.open(effect.partition, prove_ownership=effect.prove_ownership)
            commit = decode_commit(effect.partition, opened.base, opened.metadata)
            fates = await self._fates(effect.partition, commit)
        except BrokerUnavailable as unavailable:
            log.debug("partition not opened", partition=effect.partition.partition, error=str(unavailable))
            self.open_errors[effect.partition] = str(unavailable)
            KAFKA.failed("open", unavailable)
            self.post(on.OpenFailed(effect.partition, effect.epoch))
        else:
            self.open_errors.pop(effect.partition, None)
            KAFKA.answered("open")
            self._epochs[effect.partition] = effect.epoch
            self.post(on.PartitionOpened(effect.partition, effect.epoch, commit, fresh=opened.fresh, fates=fates))

    async def _fates(self, partition: PartitionKey, commit: Commit) -> Mapping[Boot, Fate]:
        """What became of whoever had records of the partition in its lanes."""
        boots = commit.journal.boots - {self._boots.boot}
        known = {self._boots.boot: Fate.ALIVE}
        if boots:
            known |= await self._boots.fates(boots, await self._broker.members())
            log.info("records were in the lanes of others", partition=partition.partition, fates=_named(known))
        return known

    # --- Records -----------------------------------------------------------------------------------------

    async def _poll(self, intake: Intake) -> None:
        while True:
            epochs = dict(self._epochs)
            try:
                began_ns = time.time_ns()
                deliveries = await self._broker.poll(POLL_S)
            except BrokerUnavailable as unavailable:
                self.poll_error = str(unavailable)
                KAFKA.failed("poll", unavailable)
                await asyncio.sleep(POLL_RETRY_S)
                continue
            except BrokerGone as gone:
                self._fail(gone)
                return
            self.poll_error = None
            self._note_poll()
            KAFKA.answered("poll")
            if self.on_polled is not None:
                self.on_polled(deliveries, began_ns)
            for delivery in deliveries:
                self._take_in(intake, delivery, epochs.get(delivery.partition))
            await asyncio.sleep(0)

    def _note_poll(self) -> None:
        self.polled_at, self.polled_at_time = self.now(), time.time()

    def _take_in(self, intake: Intake, delivery: Delivered, epoch: int | None) -> None:
        """Tell the core of what was fetched while the partition was open under `epoch`; None: while it was not open."""
        partition, position = delivery.partition, delivery.position
        if epoch is None or epoch != self._epochs.get(partition):
            self.post(on.PositionAdvanced(partition, epoch or on.NOT_OPEN, position))
            return
        self.delivered[partition] = delivery
        now, wall = self.now(), datetime.now(UTC)
        for record in delivery.records:
            facts, self._arriving = intake.take(partition, record, now=now, wall=wall)
            self.post(on.RecordArrived(facts, epoch))
        self._arriving = None
        told = self._told.get(partition)
        if told != (epoch, position):
            self._told[partition] = (epoch, position)
            by_record = told is not None and told < (epoch, position) and delivery.ends_with_a_record
            if not by_record:
                self.post(on.PositionAdvanced(partition, epoch, position))

    # --- Life --------------------------------------------------------------------------------------------

    def _engine_stopped(self, reason: str) -> None:
        self._fail(EngineGone(reason))

    def _fail(self, error: BaseException) -> None:
        """End the worker: what it had begun is delivered again, to another or after its restart."""
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_exception(error)

    def _set_alarm(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        wake_at = self._core.wake_at()
        if wake_at is not None:
            self._wake = asyncio.get_running_loop().call_at(wake_at, lambda: self.post(on.Tick()))

    async def _end(self) -> None:
        self._leaving = True
        if self._wake is not None:
            self._wake.cancel()
        # An end that is not noted would be taken for a crash.
        await self._tasks.close(sparing=() if self._ending is None else (self._ending,))
        await self._broker.leave()
        await self._rendering.close()


def _named(fates: Mapping[Boot, Fate]) -> dict[Boot, str]:
    return {boot: fate.value for boot, fate in fates.items()}
