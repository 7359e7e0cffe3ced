"""Accepts requests: policy, quota, upload, claim, event. The order of these steps is the guarantee."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from http import HTTPStatus

from darkroom.producer.gateway.jobs.claims import Claim, Claims
from darkroom.producer.gateway.jobs.jobs import Job, Jobs
from darkroom.producer.gateway.jobs.submissions import Submission
from darkroom.producer.gateway.jobs.uploads import Picture
from darkroom.producer.gateway.metrics import Metrics
from darkroom.producer.gateway.principal import Principal, Quotas
from darkroom.producer.gateway.problems import Problem, coded
from darkroom.producer.gateway.services import Services
from darkroom.producer.kafka.connection import KafkaUnavailable
from darkroom.producer.store.objects import ObjectTooLarge, StoreUnavailable
from darkroom.schemas.errors import ErrorCode, RequestRejected
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.names import upload_key

Policy = Callable[[GenerationRequest], Awaitable[Problem | None]]
"""Returns the problem of a request that is not allowed, or None."""


class Acceptance:
    """Accepts the requests of all tenants. `jobs.claims` says what the order of the steps guarantees."""

    def __init__(
        self,
        services: Services,
        claims: Claims,
        jobs: Jobs,
        *,
        quotas: Quotas,
        policy: Policy,
        metrics: Metrics,
        backlog_s_max: float | None,
    ) -> None:
        """`backlog_s_max` is `gateway.backlog_s_max`."""
        self._services = services
        self._claims = claims
        self._jobs = jobs
        self._quotas = quotas
        self._policy = policy
        self._metrics = metrics
        self._backlog_s_max = backlog_s_max

    async def accept(self, submission: Submission, principal: Principal) -> Job:
        """Return the job, claimed and its event acknowledged by Kafka; or the existing job of the same request.

        Raises `Problem`; also `StoreUnavailable` and `KafkaUnavailable`, after which the same request may be repeated.
        """
        request = submission.request
        refused = await self._policy(request)
        if refused is not None:
            raise refused
        await self._refuse_beyond_backlog(request)
        await self._quotas.begin_job(principal, request.request_id)
        mine = Claim(request, submission.digest, datetime.now(UTC), submission.callback_url)
        try:
            await self._keep_uploads(submission)
            standing = await self._claims.stake(mine)
            if standing is None:
                return await self._erased(submission)
            if standing is mine:
                return await self._send(Job(mine.identity, mine, None, None))
        except (Problem, StoreUnavailable, KafkaUnavailable):
            await self._quotas.end_job(*mine.identity)  # a repetition counts it again
            raise
        return await self._repeat(standing, submission)

    async def _erased(self, submission: Submission) -> Job:
        """Return the job of a request that was erased, and take back the uploads that came with it this time."""
        request, store = submission.request, self._services.store
        await self._quotas.end_job(request.tenant, request.request_id)
        for field, picture in submission.uploads.items():
            key = upload_key(field, request.tenant, request.request_id, picture.extension, prefix=store.prefix)
            await store.delete(key)
        return await self._jobs.found(request.tenant, request.request_id)

    async def _refuse_beyond_backlog(self, request: GenerationRequest) -> None:
        """Raise `Problem` 503 for a new job while the backlog is too long. An accepted one is always found again."""
        if self._backlog_s_max is None:
            return
        eta_s = await self._jobs.backlog_s()
        if eta_s is None or eta_s <= self._backlog_s_max:
            return
        if await self._jobs.find(request.tenant, request.request_id) is not None:
            return
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "backlog_too_long",
            f"What waits will take about {eta_s:.0f} s; above {self._backlog_s_max:g} s no new request is taken.",
            "Send it again after Retry-After, or have the operator add workers.",
            headers={"Retry-After": str(max(1, math.ceil(eta_s - self._backlog_s_max)))},
        )

    async def _repeat(self, standing: Claim, submission: Submission) -> Job:
        """Return the job that stands for this request, and send its event unless it is known to have been sent."""
        job = await self._jobs.found(*standing.identity)
        if job.completion is not None:
            await self._quotas.end_job(*job.identity)  # only unfinished jobs are counted
        if (standing.digest, standing.callback_url) != (submission.digest, submission.callback_url):
            raise _conflict(submission.request.request_id)
        self._metrics.repeated.inc()
        if self._jobs.was_sent(job):
            return job
        self._metrics.repaired.inc()
        return await self._send(job)

    async def _send(self, job: Job) -> Job:
        assert job.claim is not None
        try:
            place = await self._services.publisher.publish(job.claim.request)
        except RequestRejected as error:
            raise coded(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error.code, error.message) from error
        self._jobs.note_sent(job.identity, place)
        accepted_at_ms = int(job.claim.accepted_at.timestamp() * 1000)
        self._services.catalogue.on_request(job.claim.request, accepted_at_ms, is_recorded=False)
        self._metrics.accepted.inc()
        return job

    async def _keep_uploads(self, submission: Submission) -> None:
        """Store the uploaded pictures under the keys in the request. A different picture under one is a conflict."""
        for field, picture in submission.uploads.items():
            await self._keep(submission.request, field, picture)

    async def _keep(self, request: GenerationRequest, field: str, picture: Picture) -> None:
        store = self._services.store
        key = upload_key(field, request.tenant, request.request_id, picture.extension, prefix=store.prefix)
        if await store.put_if_absent(key, picture.content, picture.content_type):
            return
        try:
            standing = await store.get(key, bytes_max=len(picture.content))
        except ObjectTooLarge:
            standing = None
        if standing != picture.content:
            raise _conflict(request.request_id)


def _conflict(request_id: str) -> Problem:
    return coded(HTTPStatus.CONFLICT, ErrorCode.REQUEST_ID_CONFLICT, request_id=request_id)
