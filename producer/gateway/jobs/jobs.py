"""The state of each job, from the hub and the store; and the repair of events that were never sent.

The store has the outcomes in `result.json`, which any replica reads; the hub only learns them sooner. A job whose
completion came in is answered without the store. For any other job the store is asked for the outcome, then the claim.

Repair: a claim without an outcome whose event this process neither sent nor saw may never have been sent, because a
replica died between claim and event. Kafka tells: once the group has committed all that was on the job's partition some
seconds after the claim was made, an event would have been finished and its outcome would stand. If there is none, the
event is missing and is sent. Waiting until then loses nothing, as the job would stand in the same queue. Repair is
tried once per claim in `repair_after_s` seconds. A mistake costs one record, which is answered with the outcome.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

import structlog

from darkroom.producer.gateway.jobs.answers import Addresses, State, progress_seen, utc_text
from darkroom.producer.gateway.jobs.claims import Claim, Claims
from darkroom.producer.gateway.jobs.hub import Identity, Watch
from darkroom.producer.gateway.metrics import Metrics
from darkroom.producer.gateway.problems import Problem
from darkroom.producer.gateway.services import Services
from darkroom.producer.kafka.connection import KafkaUnavailable
from darkroom.producer.outcomes.erasing import Erased, Erasing, NotErased
from darkroom.producer.outcomes.outcomes import Outcomes, OutcomeUnreadable
from darkroom.producer.store.objects import StoreUnavailable
from darkroom.schemas.events.completion import Completion, Source, Status
from darkroom.schemas.events.progress import Progress
from darkroom.schemas.names import is_identity
from darkroom.schemas.settings import GatewaySettings

log = structlog.get_logger(__name__)

CLAIM_WAIT_S: Final = 1.0
"""Seconds that the state of a finished job waits for its claim, which it can do without."""
ERASURE_UNSEEN_S: Final = 10.0
"""Seconds for which a replica may answer with what was erased elsewhere."""
_NEVER: Final = float("-inf")


@dataclass(frozen=True, slots=True)
class Job:
    """The state of a job. At least one of `claim` and `completion` is known."""

    identity: Identity
    claim: Claim | None
    completion: Completion | None
    progress: Progress | None

    @property
    def status(self) -> State:
        """Return the outcome's status if there is one, else running once progress was seen, else queued."""
        if self.completion is not None:
            return self.completion.status.value
        return "queued" if self.progress is None else "running"


@dataclass(slots=True)
class _Notes:
    """This process's own notes on a job. Losing them costs a question to Kafka or the store. Times are monotonic."""

    is_sent: bool = False
    """Whether Kafka acknowledged the job's event here."""
    place: tuple[int, int] | None = None
    """Partition and offset of the event, or their estimate."""
    looked_at: float = _NEVER
    """When the store was last asked for the outcome."""
    repaired_at: float = _NEVER


class Jobs:
    """The jobs of all tenants. Methods raise `StoreUnavailable` when only the store knows the answer."""

    def __init__(
        self, settings: GatewaySettings, services: Services, claims: Claims, addresses: Addresses, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._services = services
        self._claims = claims
        self._addresses = addresses
        self._metrics = metrics
        self._outcomes = Outcomes(services.store)
        self._erasing = Erasing(services.store)
        self._notes: OrderedDict[Identity, _Notes] = OrderedDict()

    # --- Finding -----------------------------------------------------------------------------------------

    async def find(self, tenant: str, request_id: str) -> Job | None:
        """Return a tenant's job; None for an unknown id and for another tenant's."""
        if not is_identity(request_id):
            return None
        identity = (tenant, request_id)
        hub = self._services.hub
        completion = hub.completion(identity)
        if completion is not None:
            claim, standing = await asyncio.gather(self._claim_if_quick(identity), self._unless_erased(completion))
            return Job(identity, None if standing.status is Status.ERASED else claim, standing, None)
        claim = self._claims.kept(identity)
        if claim is None or not self._is_believed_open(identity):
            claim, completion = await asyncio.gather(self._claims.find(*identity), self._outcome(identity))
            if claim is not None or completion is not None:
                self._note(identity).looked_at = time.monotonic()
        completion = completion or hub.completion(identity)
        if completion is not None and completion.status is Status.ERASED:
            claim = None
        if claim is None and completion is None:
            return None
        return Job(identity, claim, completion, hub.progress(identity))

    async def found(self, tenant: str, request_id: str) -> Job:
        """Return a tenant's job. Raises `Problem` 404."""
        job = await self.find(tenant, request_id)
        if job is None:
            # The same for an id that never was and for another tenant's.
            raise Problem(
                HTTPStatus.NOT_FOUND,
                "no_such_job",
                "There is no such job, or it is not yours, or its retention has passed.",
                "Check the id and your key.",
            )
        return job

    def _is_believed_open(self, identity: Identity) -> bool:
        """Return whether the store had no outcome so lately that, with completions coming in, it need not be asked."""
        notes = self._notes.get(identity)
        looked_at = _NEVER if notes is None else notes.looked_at
        return self._services.hub.is_following and time.monotonic() - looked_at < self._settings.result_check_s

    def _note(self, identity: Identity) -> _Notes:
        notes = self._notes.setdefault(identity, _Notes())
        self._notes.move_to_end(identity)
        if len(self._notes) > self._settings.sent_kept_max:
            self._notes.popitem(last=False)
        return notes

    async def _outcome(self, identity: Identity) -> Completion | None:
        completion = await self._outcomes.find(*identity)
        if completion is not None:
            self._services.hub.learn(completion)
            if completion.status is Status.ERASED:
                self._claims.forget(identity)
        return completion

    async def _unless_erased(self, completion: Completion) -> Completion:
        """Return a known outcome, or its tombstone. Another replica or a command may have erased the job meanwhile, and
        tells nobody: the store is asked again every `ERASURE_UNSEEN_S` seconds that somebody wants to know.
        """
        identity = (completion.tenant, completion.request_id)
        notes = self._note(identity)
        if completion.status is Status.ERASED or time.monotonic() - notes.looked_at < ERASURE_UNSEEN_S:
            return completion
        notes.looked_at = time.monotonic()
        try:
            async with asyncio.timeout(CLAIM_WAIT_S):
                return await self._outcome(identity) or completion
        except (TimeoutError, StoreUnavailable, OutcomeUnreadable):
            return completion

    async def _claim_if_quick(self, identity: Identity) -> Claim | None:
        try:
            async with asyncio.timeout(CLAIM_WAIT_S):
                return await self._claims.find(*identity)
        except (TimeoutError, StoreUnavailable):
            return None

    # --- Erasing -----------------------------------------------------------------------------------------

    async def erase(self, job: Job, by: str) -> Erased:
        """Erase a job's pictures and texts, here and in the store. Raises `Problem` 409 for what is not Darkroom's.

        One that is under way is cancelled, too, which spares the device; it ends as erased in any case.
        """
        try:
            erased = await self._erasing.erase(*job.identity, by=by, now=datetime.now(UTC))
        except NotErased as error:
            raise Problem(
                HTTPStatus.CONFLICT,
                "not_erased",
                str(error),
                "Have the operator look at the bucket.",
                request_id=job.identity[1],
            ) from error
        log.info("erased", job="/".join(job.identity), by=by, objects=erased.deleted)
        self._claims.forget(job.identity)
        self._services.hub.learn(erased.tombstone)
        if erased.was is None:
            try:
                await self._services.publisher.cancel(*job.identity, None)
            except KafkaUnavailable as error:
                log.warning("an erased job is painted in vain", job="/".join(job.identity), error=str(error))
        return erased

    # --- Waiting -----------------------------------------------------------------------------------------

    async def wait(self, job: Job, watch: Watch, timeout_s: float) -> Job:
        """Return the job once it has an outcome or `timeout_s` seconds have passed. `watch` was begun before `find`."""
        deadline = time.monotonic() + timeout_s
        while job.completion is None and (left_s := deadline - time.monotonic()) > 0:
            news = await watch.changed(min(left_s, self._settings.waiting_check_s))
            job = self.with_news(job, watch) if news else await self.look_again(job)
        return job

    def with_news(self, job: Job, watch: Watch) -> Job:
        """Return the job with the events that its watch received."""
        return Job(job.identity, job.claim, watch.completion or job.completion, watch.progress or job.progress)

    async def look_again(self, job: Job) -> Job:
        """Return the job as the store has it, repaired if need be. A store that is away leaves the job as it is."""
        try:
            found = await self.find(*job.identity)
        except StoreUnavailable:
            return job
        if found is None:
            return job
        await self.repair(found)
        return found

    # --- Sending -----------------------------------------------------------------------------------------

    def note_sent(self, identity: Identity, place: Source) -> None:
        """Note that the job's event was acknowledged."""
        notes = self._note(identity)
        notes.is_sent, notes.place = True, (place.partition, place.offset)

    def was_sent(self, job: Job) -> bool:
        """Return whether it is certain that the job's event is in Kafka."""
        notes = self._notes.get(job.identity)
        return job.completion is not None or job.progress is not None or (notes is not None and notes.is_sent)

    async def repair(self, job: Job) -> None:
        """Send the event of a claim if it was never sent. Leaves that for the next time while Kafka is away."""
        claim = job.claim
        if claim is None or self.was_sent(job):
            return
        now = datetime.now(UTC)
        settled_at = claim.accepted_at + timedelta(seconds=self._settings.repair_after_s)
        since_last_s = time.monotonic() - self._note(job.identity).repaired_at
        if now < settled_at or since_last_s < self._settings.repair_after_s:
            return
        try:
            queue = self._services.queue
            partition = await queue.partition_of(job.identity[1])
            offset = await queue.offset_at(partition, settled_at)
            if (await queue.backlog()).before(partition, offset) > 0:
                return
            # The job may have been committed after the first look into the store: only this look is conclusive.
            if await self._outcome(job.identity) is not None:
                return
            self._note(job.identity).repaired_at = time.monotonic()
            self.note_sent(job.identity, await self._services.publisher.publish(claim.request))
        except (KafkaUnavailable, StoreUnavailable) as error:
            log.warning("the missing event of a claim could not be sent", job="/".join(job.identity), error=str(error))
            return
        self._metrics.repaired.inc()
        log.warning(
            "the missing event of a claim was sent", job="/".join(job.identity), accepted_at=utc_text(claim.accepted_at)
        )

    # --- Telling -----------------------------------------------------------------------------------------

    async def body(self, job: Job) -> dict[str, Any]:
        """Return the job as `answers.JobState`."""
        claim, completion = job.claim, job.completion
        ahead, eta_s = await self._place(job) if job.status == "queued" else (None, None)
        accepted_at = claim.accepted_at if claim is not None else None
        progress = progress_seen(job.progress) if job.status == "running" else None
        return {
            "request_id": job.identity[1],
            "status": job.status,
            "accepted_at": utc_text(accepted_at),
            "ahead": ahead,
            "eta_s": eta_s,
            "progress": None if progress is None else progress.model_dump(),
            "completion": None if completion is None else self._addresses.completion(completion),
            "request": None if claim is None else claim.request.model_dump(mode="json"),
        }

    async def backlog_s(self) -> float | None:
        """Return the estimated seconds until all that waits is done; None if unknown, or without a worker."""
        backlog = await self._services.queue.backlog()
        per_second = self._services.hub.recent.per_second()
        return backlog.lag_records / per_second if per_second and backlog.workers != 0 else None

    async def _place(self, job: Job) -> tuple[int | None, float | None]:
        """Return how many records are before the job, and an estimate of the seconds until it is done."""
        try:
            place = self._note(job.identity).place or await self._place_by_time(job)
            backlog = await self._services.queue.backlog()
        except KafkaUnavailable:
            return None, None
        if place is None:
            return None, None
        ahead = backlog.before(*place)
        per_second = self._services.hub.recent.per_second()
        if not per_second or backlog.workers == 0:
            return ahead, None
        # The partitions with a backlog share the fleet's rate.
        return ahead, round((ahead + 1) * max(1, backlog.partitions_waiting) / per_second, 1)

    async def _place_by_time(self, job: Job) -> tuple[int, int] | None:
        """Return the estimated place of another process's event: the end of its partition when the job was accepted."""
        if job.claim is None:
            return None
        partition = await self._services.queue.partition_of(job.identity[1])
        place = (partition, await self._services.queue.offset_at(partition, job.claim.accepted_at))
        self._note(job.identity).place = place
        return place
