"""How much a tenant may ask for: calls in any second and any minute, and jobs that are accepted and not finished.

Counts are kept per tenant, so that making more keys does not make more room, and in Redis where several replicas
share them (`redis_counts`). Redis being away is nobody's fault who calls: each process then counts by itself, under
the same limits, says so in log and metrics, and goes back when Redis does. So a deployment of N replicas lets
through at most N times as much meanwhile, and never refuses all.

Within a process the windows are our own and not those of `limits`: its storages in memory start a thread, or hop to
one, for the calls that they count, and never forget a key.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from darkroom.producer.gateway.access.metrics import AccessMetrics
from darkroom.producer.gateway.access.refusals import too_many
from darkroom.producer.gateway.principal import Principal
from darkroom.producer.outages import REDIS
from darkroom.schemas.settings.access import AccessSettings

NAMES_MAX: Final = 10_000
"""Tenants or addresses that are counted at a time; who was not seen for longest is forgotten."""
JOBS_RETRY_S: Final = 10.0
"""When to try again where too many jobs are unfinished: about a picture's time."""

AnswerT = TypeVar("AnswerT")


class CountsAway(Exception):  # noqa: N818 - as the store's
    """Whoever counts did not answer."""


class Counts(Protocol):
    """Where the numbers are. Everything may raise `CountsAway`."""

    async def take_call(self, tenant: str) -> float:
        """Count a call. 0 where it may be made, else the seconds after which to try again."""

    async def begin_job(self, tenant: str, request_id: str) -> bool:
        """Count a job as unfinished, once. False where too many are."""

    async def end_job(self, tenant: str, request_id: str) -> None:
        """Count it no more."""

    async def close(self) -> None:
        """Give up what is held. Never raises."""


class CallLimit:
    """At most `number` calls of a name in any `per_s` seconds: a moving window that holds each call's time."""

    def __init__(self, number: int, *, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._number = number
        self._per_s = per_s
        self._clock = clock
        self._calls: OrderedDict[str, deque[float]] = OrderedDict()

    def refused(self, name: str) -> float:
        """Count a call. 0 where it may be made, else the seconds until one may; then it was not counted."""
        now = self._clock()
        calls = self._calls.setdefault(name, deque())
        self._calls.move_to_end(name)
        if len(self._calls) > NAMES_MAX:
            self._calls.popitem(last=False)
        while calls and calls[0] <= now - self._per_s:
            calls.popleft()
        if len(calls) >= self._number:
            return calls[0] + self._per_s - now
        calls.append(now)
        return 0.0


class LocalCounts:
    """`Counts` of this process alone. Bounded: by the limits themselves, and by the number of tenants."""

    def __init__(self, settings: AccessSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._jobs_max = settings.jobs_unfinished_max
        self._forgotten_s = settings.jobs_forgotten_s
        self._clock = clock
        self._burst = CallLimit(settings.calls_burst_max, per_s=1.0, clock=clock)
        self._minute = CallLimit(settings.calls_per_minute_max, per_s=60.0, clock=clock)
        self._jobs: OrderedDict[str, OrderedDict[str, float]] = OrderedDict()

    async def take_call(self, tenant: str) -> float:
        """As the protocol says."""
        return self._burst.refused(tenant) or self._minute.refused(tenant)

    async def begin_job(self, tenant: str, request_id: str) -> bool:
        """As the protocol says."""
        now = self._clock()
        jobs = self._jobs.setdefault(tenant, OrderedDict())
        self._jobs.move_to_end(tenant)
        if len(self._jobs) > NAMES_MAX:
            self._jobs.popitem(last=False)
        while jobs and next(iter(jobs.values())) <= now - self._forgotten_s:
            jobs.popitem(last=False)
        if request_id not in jobs and len(jobs) >= self._jobs_max:
            return False
        jobs.setdefault(request_id, now)
        return True

    async def end_job(self, tenant: str, request_id: str) -> None:
        """As the protocol says."""
        if jobs := self._jobs.get(tenant):
            jobs.pop(request_id, None)
            if not jobs:
                del self._jobs[tenant]

    async def close(self) -> None:
        """Nothing is held but memory."""


class TenantQuotas:
    """`darkroom.producer.gateway.principal.Quotas` over shared counts where there are any, and this process's own."""

    def __init__(self, settings: AccessSettings, own: Counts, shared: Counts | None, metrics: AccessMetrics) -> None:
        self._settings = settings
        self._own = own
        self._shared = shared
        self._metrics = metrics
        self._try_shared_at = float("-inf")

    async def take_call(self, principal: Principal) -> None:
        """As the protocol says."""
        tenant = principal.tenant
        if wait_s := await self._ask(lambda counts: counts.take_call(tenant)):
            self._metrics.quota_refusals.labels("too_many_calls").inc()
            raise too_many("too_many_calls", f"The tenant {tenant} makes more calls than it may.", wait_s)

    async def begin_job(self, principal: Principal, request_id: str) -> None:
        """As the protocol says."""
        tenant = principal.tenant
        if not await self._ask(lambda counts: counts.begin_job(tenant, request_id)):
            self._metrics.quota_refusals.labels("too_many_jobs").inc()
            number = self._settings.jobs_unfinished_max
            raise too_many("too_many_jobs", f"The tenant {tenant} has {number} unfinished jobs.", JOBS_RETRY_S)

    async def end_job(self, tenant: str, request_id: str) -> None:
        """As the protocol says. A job may have been begun while Redis was away, so it ends here as well."""
        await self._own.end_job(tenant, request_id)
        if self._shared is not None:
            await self._ask(lambda counts: counts.end_job(tenant, request_id))

    async def close(self) -> None:
        """Give up what is held, at the process's end."""
        if self._shared is not None:
            await self._shared.close()

    async def _ask(self, ask: Callable[[Counts], Awaitable[AnswerT]]) -> AnswerT:
        if self._shared is not None and time.monotonic() >= self._try_shared_at:
            try:
                async with asyncio.timeout(self._settings.redis_timeout_s):
                    answer = await ask(self._shared)
            except (CountsAway, TimeoutError) as error:
                self._try_shared_at = time.monotonic() + self._settings.redis_retry_s
                self._metrics.redis_failures.inc()
                REDIS.failed("quotas", f"this process counts alone: {type(error).__name__}")
            else:
                REDIS.answered("quotas")
                return answer
        return await ask(self._own)
