"""A job's state, put together from what is known here and what stands in the store; and the repair of lost events.

Terminal states are in `result.json`, which any replica reads; the hub only knows them sooner. A job whose completion
came in is answered without the store. For any other the store is asked: for the outcome first, then for the claim.

Repair: a claim without an outcome, of which this process neither sent the event nor saw any, may never have been
sent, because a replica died between claim and event. Kafka tells: if the group has committed everything that was on
the job's partition when the claim was made, and some seconds more, then an event would have been finished by now, and
its outcome would stand. So it was never there, and it is sent. Before that nothing is lost by waiting: the job would
stand in the same queue. It is tried once per claim in `repair_after_s`, and a mistake costs one record that is
answered with the outcome that stands.
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
from darkroom.producer.gateway.jobs.claims import Claim, Claims, Identity
from darkroom.producer.gateway.jobs.hub import Watch
from darkroom.producer.gateway.metrics import Metrics
from darkroom.producer.gateway.problems import Problem
from darkroom.producer.gateway.services import Services
from darkroom.producer.kafka.connection import KafkaUnavailable
from darkroom.producer.outcomes.outcomes import Outcomes
from darkroom.producer.store.objects import StoreUnavailable
from darkroom.schemas.events.completion import Completion, Source
from darkroom.schemas.events.progress import Progress
from darkroom.schemas.names import is_identity
from darkroom.schemas.settings import GatewaySettings

log = structlog.get_logger(__name__)

CLAIM_WAIT_S: Final = 1.0
"""How long an answer about a finished job waits for its claim, which it can do without."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is known of a job. One of `claim` and `completion` is there."""

    identity: Identity
    claim: Claim | None
    completion: Completion | None
    progress: Progress | None

    @property
    def status(self) -> State:
        """Running once progress was seen: without it nobody can tell."""
        if self.completion is not None:
            return self.completion.status.value
        return "queued" if self.progress is None else "running"


class Bounded(OrderedDict[Identity, Any]):
    """Remembers so many of the latest."""

    def __init__(self, kept_max: int) -> None:
        super().__init__()
        self._kept_max = kept_max

    def note(self, identity: Identity, value: Any) -> None:
        """Remember, and forget the oldest if there are too many."""
        self[identity] = value
        self.move_to_end(identity)
        if len(self) > self._kept_max:
            self.popitem(last=False)


class Jobs:
    """The jobs of all tenants. Methods raise `StoreUnavailable` where only the store could tell."""

    def __init__(
        self, settings: GatewaySettings, services: Services, claims: Claims, addresses: Addresses, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._services = services
        self._claims = claims
        self._addresses = addresses
        self._metrics = metrics
        self._outcomes = Outcomes(services.store)
        self._sent = Bounded(settings.sent_kept_max)
        self._places = Bounded(settings.sent_kept_max)
        self._looked_at = Bounded(settings.sent_kept_max)
        self._repaired_at = Bounded(settings.sent_kept_max)

    # --- Finding -----------------------------------------------------------------------------------------

    async def find(self, tenant: str, request_id: str) -> Job | None:
        """A tenant's job; None where there is none, and where it is another tenant's."""
        if not is_identity(request_id):
            return None
        identity = (tenant, request_id)
        hub = self._services.hub
        completion = hub.completion(identity)
        if completion is not None:
            return Job(identity, await self._claim_if_quick(identity), completion, None)
        claim = self._claims.kept(identity)
        if claim is None:
            claim, completion = await asyncio.gather(self._claims.find(*identity), self._outcome(identity))
        elif not self._is_believed_open(identity):
            completion = await self._outcome(identity)
        completion = completion or hub.completion(identity)
        if claim is None and completion is None:
            return None
        return Job(identity, claim, completion, hub.progress(identity))

    async def found(self, tenant: str, request_id: str) -> Job:
        """The same. Raises `Problem` 404."""
        job = await self.find(tenant, request_id)
        if job is None:
            raise no_such_job()
        return job

    def _is_believed_open(self, identity: Identity) -> bool:
        """Whether the store was looked into so lately that, with completions coming in, it need not be again."""
        looked_at = self._looked_at.get(identity, float("-inf"))
        return self._services.hub.is_following and time.monotonic() - looked_at < self._settings.result_check_s

    async def _outcome(self, identity: Identity) -> Completion | None:
        completion = await self._outcomes.find(*identity)
        if completion is None:
            self._looked_at.note(identity, time.monotonic())
        else:
            self._services.hub.learn(completion)
        return completion

    async def _claim_if_quick(self, identity: Identity) -> Claim | None:
        try:
            async with asyncio.timeout(CLAIM_WAIT_S):
                return await self._claims.find(*identity)
        except (TimeoutError, StoreUnavailable):
            return None

    # --- Waiting -----------------------------------------------------------------------------------------

    async def wait(self, job: Job, watch: Watch, timeout_s: float) -> Job:
        """The job once it has an outcome, or as it is when `timeout_s` has passed. `watch` was begun before `find`."""
        deadline = time.monotonic() + timeout_s
        while job.completion is None and (left_s := deadline - time.monotonic()) > 0:
            news = await watch.changed(min(left_s, self._settings.waiting_check_s))
            job = self.with_news(job, watch) if news else await self.look_again(job)
        return job

    def with_news(self, job: Job, watch: Watch) -> Job:
        """The job with what its watch was told."""
        return Job(job.identity, job.claim, watch.completion or job.completion, watch.progress or job.progress)

    async def look_again(self, job: Job) -> Job:
        """The job as the store has it, and sent where its event was lost. A store that is away changes nothing."""
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
        """An event was acknowledged."""
        self._sent.note(identity, True)
        self._places.note(identity, (place.partition, place.offset))

    def was_sent(self, job: Job) -> bool:
        """Whether it is certain that the job's event is in Kafka."""
        return job.completion is not None or job.progress is not None or job.identity in self._sent

    async def repair(self, job: Job) -> None:
        """Send the event of a claim where it was never there. A Kafka that is away leaves it for the next time."""
        claim = job.claim
        if claim is None or self.was_sent(job):
            return
        now = datetime.now(UTC)
        settled_at = claim.accepted_at + timedelta(seconds=self._settings.repair_after_s)
        last_s = time.monotonic() - self._repaired_at.get(job.identity, float("-inf"))
        if now < settled_at or last_s < self._settings.repair_after_s:
            return
        try:
            queue = self._services.queue
            partition = await queue.partition_of(job.identity[1])
            offset = await queue.offset_at(partition, settled_at)
            if (await queue.backlog()).before(partition, offset) > 0:
                return
            # The commit may have come after the store was looked into: only now does its silence say anything.
            if await self._outcome(job.identity) is not None:
                return
            self._repaired_at.note(job.identity, time.monotonic())
            self.note_sent(job.identity, await self._services.outlet.publish(claim.request))
        except (KafkaUnavailable, StoreUnavailable) as error:
            log.warning("a claim without an event could not be sent", job="/".join(job.identity), error=str(error))
            return
        self._metrics.repaired.inc()
        log.warning(
            "a claim had no event and was sent", job="/".join(job.identity), accepted_at=utc_text(claim.accepted_at)
        )

    # --- Saying ------------------------------------------------------------------------------------------

    async def body(self, job: Job) -> dict[str, Any]:
        """The job as `answers.JobState`."""
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

    async def _place(self, job: Job) -> tuple[int | None, float | None]:
        """How many are before it, and in how many seconds it should be done."""
        try:
            place = self._places.get(job.identity) or await self._place_by_time(job)
            backlog = await self._services.queue.backlog()
        except KafkaUnavailable:
            return None, None
        if place is None:
            return None, None
        ahead = backlog.before(*place)
        per_second = self._services.hub.recent.per_second()
        if not per_second:
            return ahead, None
        # The fleet's rate is shared by the partitions that wait.
        return ahead, round((ahead + 1) * max(1, backlog.partitions_waiting) / per_second, 1)

    async def _place_by_time(self, job: Job) -> tuple[int, int] | None:
        """Where another process's event should stand: at the end of its partition when the job was accepted."""
        if job.claim is None:
            return None
        partition = await self._services.queue.partition_of(job.identity[1])
        place = (partition, await self._services.queue.offset_at(partition, job.claim.accepted_at))
        self._places.note(job.identity, place)
        return place


def no_such_job() -> Problem:
    """404, the same for what never was and for what is another tenant's."""
    return Problem(
        HTTPStatus.NOT_FOUND,
        "no_such_job",
        "There is no such job, or it is not yours, or its retention has passed.",
        "Check the id and the key that you use.",
    )
