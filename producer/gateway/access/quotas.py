"""Quotas of a tenant: calls per second and per minute, and unfinished jobs.

Counts are kept per tenant, so that more keys give no more room, and in Redis where replicas share them
(`redis_counts`). While Redis is away, each process counts alone under the same limits, says so in its log and metrics,
and goes back to Redis when that returns. So N replicas admit at most N times as much meanwhile, and refuse no caller
for the outage.

The windows within a process are our own rather than those of `limits`: its in-memory storages start a thread, or hop
to one, for each counted call, and never forget a key.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from typing_extensions import override

from darkroom.producer.gateway.access.refusals import too_many
from darkroom.producer.gateway.metrics import AccessMetrics
from darkroom.producer.gateway.principal import Principal, Quotas
from darkroom.producer.outages import REDIS
from darkroom.schemas.settings.access import AccessSettings

NAMES_MAX: Final = 10_000
"""Tenants or addresses counted at a time; the one seen least recently is forgotten."""
JOBS_RETRY_S: Final = 10.0
"""When to try again with too many unfinished jobs: about the time of one picture."""

AnswerT = TypeVar("AnswerT")


class CountsAway(Exception):  # noqa: N818 - named for what happened
    """The store of the counts did not answer."""


class Counts(Protocol):
    """A store of counts. Every method may raise `CountsAway`."""

    async def take_call(self, tenant: str) -> float:
        """Count a call. Return 0 if it is allowed, otherwise the seconds to wait before another."""

    async def begin_job(self, tenant: str, request_id: str) -> bool:
        """Count a job as unfinished, once. Return whether it is within the limit."""

    async def end_job(self, tenant: str, request_id: str) -> None:
        """Stop counting a job."""

    async def close(self) -> None:
        """Close the connections. Never raises."""


class CallLimit:
    """Allows a name `number` calls in any `per_s` seconds: a moving window with the time of each call."""

    def __init__(self, number: int, *, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._number = number
        self._per_s = per_s
        self._clock = clock
        self._calls: OrderedDict[str, deque[float]] = OrderedDict()

    def refused(self, name: str) -> float:
        """Count a call and return 0 if it is allowed; otherwise return the seconds until the next may be made."""
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


class LocalCounts(Counts):
    """The counts of this process alone. Bounded by the limits themselves and by the number of tenants."""

    def __init__(self, settings: AccessSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._jobs_max = settings.jobs_unfinished_max
        self._forgotten_s = settings.jobs_forgotten_s
        self._clock = clock
        self._burst = CallLimit(settings.calls_burst_max, per_s=1.0, clock=clock)
        self._minute = CallLimit(settings.calls_per_minute_max, per_s=60.0, clock=clock)
        self._jobs: OrderedDict[str, OrderedDict[str, float]] = OrderedDict()

    @override
    async def take_call(self, tenant: str) -> float:
        return self._burst.refused(tenant) or self._minute.refused(tenant)

    @override
    async def begin_job(self, tenant: str, request_id: str) -> bool:
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

    @override
    async def end_job(self, tenant: str, request_id: str) -> None:
        if jobs := self._jobs.get(tenant):
            jobs.pop(request_id, None)
            if not jobs:
                del self._jobs[tenant]

    @override
    async def close(self) -> None:
        pass  # there is nothing but memory


class TenantQuotas(Quotas):
    """Counts in the shared store if there is one and it answers, otherwise in this process."""

    def __init__(self, settings: AccessSettings, own: Counts, shared: Counts | None, metrics: AccessMetrics) -> None:
        self._settings = settings
        self._own = own
        self._shared = shared
        self._metrics = metrics
        self._try_shared_at = float("-inf")

    @override
    async def take_call(self, principal: Principal) -> None:
        tenant = principal.tenant
        if wait_s := await self._ask(lambda counts: counts.take_call(tenant)):
            self._metrics.quota_refusals.labels("too_many_calls").inc()
            raise too_many("too_many_calls", f"The tenant {tenant} is over its limit of calls.", wait_s)

    @override
    async def begin_job(self, principal: Principal, request_id: str) -> None:
        tenant = principal.tenant
        if not await self._ask(lambda counts: counts.begin_job(tenant, request_id)):
            self._metrics.quota_refusals.labels("too_many_jobs").inc()
            number = self._settings.jobs_unfinished_max
            raise too_many(
                "too_many_jobs",
                f"The tenant {tenant} has {number} unfinished jobs, the most it may have.",
                JOBS_RETRY_S,
            )

    @override
    async def end_job(self, tenant: str, request_id: str) -> None:
        # In both: the job may have begun while Redis was away.
        await self._own.end_job(tenant, request_id)
        if self._shared is not None:
            await self._ask(lambda counts: counts.end_job(tenant, request_id))

    async def close(self) -> None:
        """Close the connections at the end of the process."""
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
