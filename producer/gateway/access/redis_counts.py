"""The counts that replicas share in Redis: calls in the moving windows of `limits`, jobs in a sorted set."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from limits import RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import StorageError
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from typing_extensions import override

from darkroom.producer.gateway.access.quotas import Counts, CountsAway
from darkroom.schemas.settings.access import AccessSettings

PREFIX: Final = "darkroom"
# KEYS: the tenant's jobs. ARGV: now, the time before which jobs are forgotten, the limit, the job, the set's time to
# live. One script, so that two replicas cannot both take the last place.
_BEGIN: Final = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
if not redis.call('ZSCORE', KEYS[1], ARGV[4]) then
  if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
  redis.call('ZADD', KEYS[1], ARGV[1], ARGV[4])
end
redis.call('EXPIRE', KEYS[1], ARGV[5])
return 1
"""


class RedisCounts(Counts):
    """Counts in Redis. Connects on the first call."""

    def __init__(self, settings: AccessSettings) -> None:
        assert settings.redis_url is not None
        url = settings.redis_url.get_secret_value()
        self._jobs_max = settings.jobs_unfinished_max
        self._forgotten_s = settings.jobs_forgotten_s
        # No retries: `TenantQuotas` falls back to the process's own counts at once, and tries Redis again later.
        options: dict[str, Any] = {
            "socket_timeout": settings.redis_timeout_s,
            "socket_connect_timeout": settings.redis_timeout_s,
            "retry": Retry(NoBackoff(), 0),
        }
        self._pool = ConnectionPool.from_url(url, **options)
        self._redis: Redis = Redis(connection_pool=self._pool)
        storage = RedisStorage(
            f"async+{url}",
            wrap_exceptions=True,
            implementation="redispy",
            key_prefix=PREFIX,
            connection_pool=self._pool,  # type: ignore[arg-type] # as its documentation says
        )
        self._limiter = MovingWindowRateLimiter(storage)
        self._burst = RateLimitItemPerSecond(settings.calls_burst_max, namespace="calls")
        self._minute = RateLimitItemPerMinute(settings.calls_per_minute_max, namespace="calls")
        self._begin = self._redis.register_script(_BEGIN)

    @override
    async def take_call(self, tenant: str) -> float:
        async with _translated():
            for item in (self._burst, self._minute):
                if not await self._limiter.hit(item, tenant):
                    reset_at = (await self._limiter.get_window_stats(item, tenant)).reset_time
                    return max(0.001, reset_at - time.time())
        return 0.0

    @override
    async def begin_job(self, tenant: str, request_id: str) -> bool:
        now = time.time()
        arguments: list[str | float] = [
            now,
            now - self._forgotten_s,
            self._jobs_max,
            request_id,
            int(self._forgotten_s) + 1,
        ]
        async with _translated():
            return bool(await self._begin(keys=[_jobs(tenant)], args=arguments))

    @override
    async def end_job(self, tenant: str, request_id: str) -> None:
        async with _translated():
            await self._redis.zrem(_jobs(tenant), request_id)

    @override
    async def close(self) -> None:
        with contextlib.suppress(CountsAway):
            async with _translated():
                await self._pool.disconnect()


def _jobs(tenant: str) -> str:
    return f"{PREFIX}:jobs:{tenant}"


@contextlib.asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, StorageError, OSError) as error:
        raise CountsAway(type(error).__name__) from error
