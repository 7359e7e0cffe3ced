"""Bugs on purpose: each is put into the running code for as long as its context lasts, and must be caught.

This is the one place where our own code is replaced: a simulation that passes with any of these in it proves nothing.
Every mutation names the invariants that are to catch it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from aiokafka.errors import KafkaError
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.structs import OffsetAndMetadata

from darkroom.consumer.core import effects as do
from darkroom.consumer.core import events as on
from darkroom.consumer.core import offset_map, partition
from darkroom.consumer.core.breaker import Breaker
from darkroom.consumer.core.core import Core
from darkroom.consumer.core.identities import Identities
from darkroom.consumer.core.jobflow import JobFlow
from darkroom.consumer.core.jobs import JobState, Verdict, VerdictKind
from darkroom.consumer.core.journal import Boot, Entry, Fate, Journal, suspects_of
from darkroom.consumer.core.ledger import CommitPlan, Ledger
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.core.partition import Job, Partition
from darkroom.consumer.core.partition_key import JobKey, PartitionKey
from darkroom.consumer.kafka import initial_offsets
from darkroom.consumer.worker.delivery import Delivery
from darkroom.consumer.worker.driver import Driver
from darkroom.consumer.worker.intake import Intake
from darkroom.consumer.worker.payload import Payload
from darkroom.consumer.worker.ports import BrokerGone, BrokerUnavailable, Opened
from darkroom.consumer.worker.ports import Delivery as Delivered
from darkroom.producer.kafka import groups
from darkroom.producer.outcomes.outcomes import Outcomes
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.names import result_key
from tests.simulation.faults import Focus
from tests.simulation.member import SimBroker
from tests.simulation.mutating import flow_handler, handler, mutation, replaced
from tests.simulation.wire import Unanswered

# --- Offsets and maps ------------------------------------------------------------------------------------------


@mutation("committed_never_passes_unfinished")
def commit_past_an_unfinished_offset() -> Iterator[None]:
    """The highest finished offset is committed, as if everything before it were finished."""
    plan = Ledger.plan

    def past(self: Ledger, finishing: frozenset[int], *more: Any) -> CommitPlan:
        right = plan(self, finishing, *more)
        highest = max(finishing, default=right.offset - 1) + 1
        if highest <= right.offset:
            return right
        return CommitPlan(highest, "", right.finished, right.journal)

    with replaced(Ledger, "plan", past):
        yield


@mutation("map_names_what_was_published", "one_outcome_per_record")
def forget_the_map() -> Iterator[None]:
    """Only the offset is committed: what finished above it is not told."""
    plan = Ledger.plan

    def without(self: Ledger, finishing: frozenset[int], journal: Journal, *more: Any) -> CommitPlan:
        right = plan(self, finishing, journal, *more)
        empty = offset_map.encode_map(self.partition, right.offset, (), journal)
        return CommitPlan(right.offset, empty, right.finished, journal)

    with replaced(Ledger, "plan", without):
        yield


@mutation("committed_never_passes_unfinished", "everything_ends", "map_names_what_was_published", focus=Focus.MAPS)
def trust_a_map_that_does_not_verify() -> Iterator[None]:
    """The checksum is not compared."""
    verified = offset_map._verified

    def trusting(partition: PartitionKey, base: int, metadata: str) -> bytes | None:
        text = metadata.removeprefix(offset_map.MAP_PREFIX)
        if len(text) < 8 or text == metadata:
            return verified(partition, base, metadata)
        said = int.from_bytes(base64.urlsafe_b64decode(text[:8])[:4], "big")
        with replaced(offset_map, "_checksum", lambda *_: said):
            return verified(partition, base, metadata)

    with replaced(offset_map, "_verified", trusting):
        yield


@mutation("bounds_hold")
def window_not_bounded() -> Iterator[None]:
    """A record starts however far it is above the committed offset."""
    with replaced(Ledger, "may_start", lambda self, offset: True):
        yield


@mutation("everything_ends")
def position_never_committed() -> Iterator[None]:
    """Control records and gaps at the end hold the lag above zero for ever."""

    def never(self: Partition, limits: Limits, now: float) -> bool:
        self.commit_at = None
        return False

    with replaced(Partition, "_position_is_due", never):
        yield


@mutation("committed_never_passes_unfinished", "committed_offset_never_falls", "map_names_what_was_published")
def a_second_offset_writer() -> Iterator[None]:
    """The consumer commits its position by itself, beside the transactions."""
    poll = SimBroker.poll

    async def polling(self: SimBroker, timeout_s: float) -> Any:
        deliveries: list[Delivered] = list(await poll(self, timeout_s))
        for delivery in deliveries:
            self._cluster.commit_plainly(delivery.partition, self._boot, delivery.position, "")
        return deliveries

    with replaced(SimBroker, "poll", polling):
        yield


# --- Partitions, epochs and fences -----------------------------------------------------------------------------


@mutation(
    "one_outcome_per_record",
    "committed_never_passes_unfinished",
    "map_names_what_was_published",
    "journal_before_the_device",
    "everything_ends",
    focus=Focus.REBALANCES,
)
def forget_the_epoch() -> Iterator[None]:
    """An answer to an earlier opening or publication is taken for the present one's."""

    take_in = Driver._take_in

    def current(self: Core, key: PartitionKey, epoch: int) -> Partition | None:
        return self.partitions.get(key)

    def taking_in(self: Driver, intake: Intake, delivery: Delivered, epoch: int | None) -> None:
        take_in(self, intake, delivery, self._epochs.get(delivery.partition, epoch))

    with replaced(Core, "_current", current), replaced(Driver, "_take_in", taking_in):
        yield


@mutation(
    "one_outcome_per_record",
    "committed_offset_never_falls",
    "map_names_what_was_published",
    focus=Focus.REBALANCES,
)
def read_the_offset_before_the_fence() -> Iterator[None]:
    """The committed offset is read while an earlier writer may still commit."""

    async def opening(self: SimBroker, partition: PartitionKey, *, prove_ownership: bool) -> Opened:
        await self.close(partition)
        try:
            if prove_ownership:
                await self._prove_ownership(partition)
            opened = await self._committed(partition)
            await self._fence(partition)
        except (Unanswered, KafkaError) as error:
            raise BrokerUnavailable("the partition was not opened") from error
        return opened

    with replaced(SimBroker, "open", opening):
        yield


@mutation("everything_ends", focus=Focus.REBALANCES)
def resume_lost_after_a_rebalance() -> Iterator[None]:
    """A partition that was opened before is not resumed when it is opened again."""
    on_opened = Core._on_opened

    def opened(self: Core, event: on.PartitionOpened, now: float) -> None:
        partition = self.partitions.get(event.partition)
        again = partition is not None and partition.ledger is not None
        on_opened(self, event, now)
        if again:
            self._out[:] = [one for one in self._out if not isinstance(one, do.Resume)]

    with replaced(Core, "_on_opened", opened):
        yield


@mutation("ownership_is_proved_after_a_fence")
def rebuild_after_a_fence_without_proof() -> Iterator[None]:
    """A fenced worker takes the partition over again at once."""
    failed = Core._on_publish_failed

    def not_asking(self: Core, event: on.PublishFailed, now: float) -> None:
        failed(self, on.PublishFailed(event.partition, event.epoch, fenced=False), now)

    with handler(on.PublishFailed, not_asking):
        yield


@mutation("one_outcome_per_record", "committed_offset_never_falls")
def a_time_out_taken_for_a_failure() -> Iterator[None]:
    """What was not confirmed is published again by the same writer, without asking what was committed."""
    failed = Core._on_publish_failed

    def again(self: Core, event: on.PublishFailed, now: float) -> None:
        partition = self._current(event.partition, event.epoch)
        if event.fenced or partition is None or partition.publication is None:
            failed(self, event, now)
            return
        jobs = partition.publication.jobs
        partition.publication = None
        for key in jobs:
            self.flow.move(partition.jobs[key], JobState.DECIDED)
        partition.decided[:0] = jobs
        partition.journal_is_due = True

    with handler(on.PublishFailed, again):
        yield


@mutation("one_publication_per_writer", "the_worker_fails_only_as_it_says")
def two_publications_at_once() -> Iterator[None]:
    """The next transaction of a partition does not wait for the one that is under way."""
    following = Partition.next_publication

    def at_once(self: Partition, limits: Any, now: float) -> Any:
        under_way, self.publication = self.publication, None
        publication = following(self, limits, now)
        if publication is None:
            self.publication = under_way
        return publication

    with replaced(Partition, "next_publication", at_once):
        yield


# --- Outcomes ----------------------------------------------------------------------------------------------------


@mutation("outcome_before_publication")
def publish_before_the_outcome_is_decided() -> Iterator[None]:
    """What was proposed is published, whatever stands in the store."""

    async def settle(self: Delivery, key: JobKey, payload: Payload, verdict: Verdict) -> None:
        payload.completion = self._proposed(self._answered(key, payload), payload, verdict)

    with replaced(Delivery, "settle", settle):
        yield


@mutation("outcomes_are_put_conditionally", "published_is_what_stands")
def outcomes_put_without_a_condition() -> Iterator[None]:
    """The last writer decides instead of the first."""

    async def put(self: Outcomes, completion: Completion) -> Completion:
        key = result_key(completion.tenant, completion.request_id)
        await self._objects.put(key, completion.model_dump_json().encode(), "application/json")
        return completion

    with replaced(Outcomes, "_put", put):
        yield


@mutation("one_render_per_identity")
def followers_lead() -> Iterator[None]:
    """Two records of one request are rendered at the same time."""
    with replaced(Identities, "lead_or_follow", lambda self, job: True):
        yield


@mutation("everything_ends", "the_worker_fails_only_as_it_says")
def followers_dropped() -> Iterator[None]:
    """Whoever followed a request is forgotten when its leader is decided."""

    def release(self: JobFlow, job: Job) -> None:
        self.identities.stop_leading(job)

    with replaced(JobFlow, "_release_followers", release):
        yield


# --- The store and the device ------------------------------------------------------------------------------------


@mutation("everything_ends", "time_goes_on")
def a_breaker_that_never_closes() -> Iterator[None]:
    """Once the store was away it is taken to be away for ever."""
    succeeded = Breaker.succeeded
    with replaced(Breaker, "succeeded", lambda self: [] if self.is_open else succeeded(self)):
        yield


@mutation("an_outcome_is_one_of_its_requests", "the_worker_fails_only_as_it_says")
def the_store_s_absence_fails_a_request() -> Iterator[None]:
    """A call to the store that fails is taken for the request's fault."""

    def failed(self: JobFlow, event: on.StoreFailed, now: float) -> None:
        job = self.job(event.call.job)
        if job is not None and job.state in (JobState.LOOKING, JobState.PREPARING):
            self._settle(job, Verdict(VerdictKind.FAILED, "render_failed", "the store is away"))
        elif job is not None:
            self.breaker.failed(event.call, now)

    with flow_handler(on.StoreFailed, failed):
        yield


@mutation("everything_ends")
def a_fault_beside_running_rows_is_ignored() -> Iterator[None]:
    """One picture of several cannot be finished while others are on the device: the engine is done with the job."""
    faulted = JobFlow.on_job_faulted

    def ignoring(self: JobFlow, event: on.JobFaulted, now: float) -> None:
        job = self.job(event.job)
        if job is None or job.state is not JobState.ON_DEVICE:
            faulted(self, event, now)

    with flow_handler(on.JobFaulted, ignoring):
        yield


# --- Poison ------------------------------------------------------------------------------------------------------


@mutation("journal_before_the_device")
def the_device_before_the_journal() -> Iterator[None]:
    """A job is prepared while the journal that names it is still to be committed."""
    with replaced(Partition, "is_journaled", lambda self, job: True):
        yield


@mutation("suspects_run_alone", "everything_ends")
def suspects_in_company() -> Iterator[None]:
    """What was in the lanes of a crashed worker runs beside others again."""
    start = JobFlow.start

    def starting(self: JobFlow, *args: float) -> None:
        suspects, self.suspects = self.suspects, set()
        start(self, *args)
        self.suspects = suspects

    with replaced(JobFlow, "start", starting):
        yield


@mutation("an_outcome_is_one_of_its_requests")
def a_crash_in_company_counts() -> Iterator[None]:
    """Whoever was in the lanes of a worker that crashed is taken to have been alone there."""

    def counting(journal: Journal, fates: Mapping[Boot, Fate]) -> dict[int, Entry]:
        alone = {offset: Entry(alone=True, trials=entry.trials) for offset, entry in journal.entries.items()}
        return suspects_of(Journal(journal.boot, alone), fates)

    with replaced(partition, "suspects_of", counting):
        yield


@mutation("everything_ends")
def crashes_are_not_counted() -> Iterator[None]:
    """A request that kills its workers is tried for ever."""
    with replaced(Partition, "crashes", lambda self, entry: 0):
        yield


@mutation("a_drain_is_no_crash", focus=Focus.DRAINS)
def a_drain_is_not_noted() -> Iterator[None]:
    """The worker ends before the store has heard that it was told to."""
    end = Driver._end

    async def hasty(self: Driver) -> None:
        if self._ending is not None:
            self._ending.cancel()
        await end(self)

    with replaced(Driver, "_end", hasty):
        yield


# --- What a broker did not say, and what it refuses --------------------------------------------------------------


@mutation("one_outcome_per_record", "committed_offset_never_falls", "map_names_what_was_published", focus=Focus.MOVES)
def believe_silence() -> Iterator[None]:
    """A coordinator that moves is taken to say that the group has committed nothing."""

    async def believing(admin: Any, group_id: str, partitions: Any, *, timeout_s: float) -> Any:
        by_topic = [(place.topic, [place.partition]) for place in partitions]
        answer = await admin._send_request(OffsetFetchRequest(group_id, by_topic), 0)
        found = {
            (topic, number): OffsetAndMetadata(offset, metadata)
            for topic, answers in answer.topics
            for number, offset, metadata, _ in answers
            if offset >= 0
        }
        return {place: found.get(tuple(place)) for place in partitions}

    with replaced(groups, "committed_offsets", believing):
        yield


@mutation("everything_ends", focus=Focus.MOVES)
def believe_that_a_group_is_empty() -> Iterator[None]:
    """A group with a guest of the new protocol is taken to have no members, for as long as the guest stays."""

    async def believing(*_: Any, **__: Any) -> None:
        return None

    with replaced(groups, "_describe_new_group", believing):
        yield


@mutation("committed_offset_never_falls", "map_names_what_was_published", "one_outcome_per_record", "everything_ends")
def lower_an_offset() -> Iterator[None]:
    """What is committed is one less than what was committed before."""
    plan = Ledger.plan

    def lower(self: Ledger, finishing: frozenset[int], journal: Journal, *more: Any) -> CommitPlan:
        right = plan(self, finishing, journal, *more)
        return CommitPlan(max(0, self.base - 1), right.metadata, right.finished, right.journal)

    with replaced(Ledger, "plan", lower):
        yield


@mutation("committed_offset_never_falls", "map_names_what_was_published", focus=Focus.INIT)
def init_lowers_an_offset() -> Iterator[None]:
    """`init` writes what it read before it fenced: a worker that came meanwhile has committed more."""

    ask = groups.committed_offsets
    read: dict[tuple[Any, ...], OffsetAndMetadata | None] = {}

    async def once(coordinator: Any, group_id: str, places: Any, *, timeout_s: float) -> Any:
        if any((coordinator, place) not in read for place in places):
            found = await ask(coordinator, group_id, places, timeout_s=timeout_s)
            read.update({(coordinator, place): one for place, one in found.items()})
        return {place: read[coordinator, place] for place in places}

    with replaced(initial_offsets, "committed_offsets", once):
        yield


@mutation("everything_ends", focus=Focus.DEAD_CLIENTS)
def retry_a_dead_client() -> Iterator[None]:
    """A consumer of which every poll fails is asked again and again."""

    async def again(self: SimBroker) -> None:
        pass

    with replaced(SimBroker, "_replace_consumer", again):
        yield


@mutation("everything_ends", focus=Focus.DEAD_CLIENTS)
def outlive_the_last_consumer() -> Iterator[None]:
    """The process goes on although it can read no more."""
    fail = Driver._fail

    def going_on(self: Driver, error: BaseException) -> None:
        if not isinstance(error, BrokerGone):
            fail(self, error)

    with replaced(Driver, "_fail", going_on):
        yield


@mutation("everything_ends", focus=Focus.REFUSALS)
def give_up_on_a_refused_publication() -> Iterator[None]:
    """What the broker refuses once is never tried again."""
    failed = Core._on_publish_failed

    def giving_up(self: Core, event: on.PublishFailed, now: float) -> None:
        if event.refusal is None:
            failed(self, event, now)

    with handler(on.PublishFailed, giving_up):
        yield


@mutation("everything_ends", focus=Focus.REFUSALS)
def too_large_for_ever() -> Iterator[None]:
    """A record that its topic does not take is published again as it is."""

    async def nothing(_self: Delivery, *_: object) -> None:
        return

    with replaced(Delivery, "publish_smaller", nothing):
        yield
