"""Proves the quotas, with the same cases for this process's counts and for Redis's, and what its outages do.

Redis is a real server (`redis-server`, from the system's packages); without one its cases are skipped.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from darkroom.producer.gateway.access.assembly import quotas_of
from darkroom.producer.gateway.access.keys import new_key
from darkroom.producer.gateway.access.quotas import NAMES_MAX, CallLimit, Counts, LocalCounts
from darkroom.producer.gateway.access.redis_counts import RedisCounts
from darkroom.producer.gateway.metrics import AccessMetrics
from darkroom.producer.gateway.principal import ALL_SCOPES, Principal
from darkroom.producer.gateway.problems import Problem
from darkroom.schemas.settings import Settings
from tests.producer.gateway.access.serving import app_of, calling, settings_with, write_keys
from tests.producer.gateway.access.test_keys import NOW

ADA = Principal("studio", "ada", ALL_SCOPES)
BOB = Principal("other", "bob", ALL_SCOPES)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("there is no redis-server on this machine: install the package redis-server for these cases")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        server,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(tmp_path_factory.mktemp("r")),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(1000):
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.01)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


def emptied(url: str) -> Redis:
    redis = Redis.from_url(url)
    redis.flushall()
    return redis


@pytest.fixture(params=["this process", "Redis"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Counts]]:
    """Makes counts of either kind; those in Redis share one database, emptied before."""
    made: list[Counts] = []

    def counts(**access: Any) -> Counts:
        if request.param == "this process":
            made.append(LocalCounts(settings_with(**access).access))
        else:
            made.append(RedisCounts(settings_with(redis_url=url, redis_timeout_s=5, **access).access))
        return made[-1]

    if request.param == "Redis":
        url = request.getfixturevalue("redis_url")
        emptied(url).close()
    yield counts
    for one in made:
        await one.close()


async def test_calls_of_a_tenant_are_bounded_in_a_second_and_in_a_minute(make: Callable[..., Counts]) -> None:
    counts = make(calls_burst_max=3, calls_per_minute_max=1000)
    waits = [await counts.take_call("studio") for _ in range(5)]
    assert waits[:3] == [0, 0, 0]
    assert all(0 < wait <= 1 for wait in waits[3:])
    assert await counts.take_call("other") == 0, "another tenant is not concerned"
    await asyncio.sleep(waits[-1] + 0.05)
    assert await counts.take_call("studio") == 0
    counts = make(calls_burst_max=2, calls_per_minute_max=2)
    assert [await counts.take_call("fresh") > 0 for _ in range(3)] == [False, False, True]


async def test_the_minute_is_told_from_the_second(make: Callable[..., Counts]) -> None:
    counts = make(calls_burst_max=2, calls_per_minute_max=3)
    assert [await counts.take_call("studio") for _ in range(2)] == [0, 0]
    await asyncio.sleep(1.05)
    assert await counts.take_call("studio") == 0
    assert 50 < await counts.take_call("studio") <= 60


async def test_unfinished_jobs_are_bounded_and_counted_once(make: Callable[..., Counts]) -> None:
    counts = make(jobs_unfinished_max=2)
    begun = [await counts.begin_job("studio", name) for name in ("a", "b", "a", "c", "b")]
    assert begun == [True, True, True, False, True]
    assert await counts.begin_job("other", "c") is True
    await counts.end_job("studio", "never begun")
    await counts.end_job("studio", "a")
    await counts.end_job("studio", "a")
    assert [await counts.begin_job("studio", name) for name in ("c", "d")] == [True, False]


async def test_two_at_once_cannot_both_have_the_last_place(make: Callable[..., Counts]) -> None:
    counts = make(jobs_unfinished_max=5, calls_burst_max=7, calls_per_minute_max=100)
    begun = await asyncio.gather(*(counts.begin_job("studio", str(number)) for number in range(20)))
    assert sum(begun) == 5
    waits = await asyncio.gather(*(counts.take_call("studio") for _ in range(30)))
    assert sum(wait == 0 for wait in waits) == 7


async def test_a_job_whose_end_nobody_saw_is_forgotten_after_its_time() -> None:
    now = 0.0
    counts = LocalCounts(settings_with(jobs_unfinished_max=1, jobs_forgotten_s=100).access, clock=lambda: now)
    assert await counts.begin_job("studio", "lost")
    now = 99.0
    assert not await counts.begin_job("studio", "next")
    now = 101.0
    assert await counts.begin_job("studio", "next")


async def test_redis_forgets_by_itself(redis_url: str) -> None:
    client = emptied(redis_url)
    counts = RedisCounts(settings_with(redis_url=redis_url, jobs_unfinished_max=1, redis_timeout_s=5).access)
    assert await counts.begin_job("studio", "lost")
    assert await counts.take_call("studio") == 0
    assert all(client.ttl(key) > 0 for key in client.scan_iter()), "nothing stays for ever"
    client.zadd("darkroom:jobs:studio", {"lost": time.time() - 21_601})
    assert await counts.begin_job("studio", "next")
    await counts.close()
    client.close()


async def test_what_a_process_counts_is_bounded() -> None:
    limit = CallLimit(2, per_s=60)
    for number in range(NAMES_MAX + 500):
        limit.refused(f"203.0.113.{number}")
    assert len(limit._calls) == NAMES_MAX
    counts = LocalCounts(settings_with().access)
    for number in range(NAMES_MAX + 500):
        await counts.begin_job(f"t{number}", "j")
    assert len(counts._jobs) == NAMES_MAX
    await counts.end_job(f"t{NAMES_MAX}", "j")
    assert len(counts._jobs) == NAMES_MAX - 1


# --- As the gateway asks --------------------------------------------------------------------------------


async def refusal(asked: Awaitable[None]) -> Problem | None:
    try:
        await asked
    except Problem as problem:
        return problem
    return None


async def test_a_refusal_is_429_with_the_time_to_wait_and_is_counted() -> None:
    metrics = AccessMetrics()
    quotas = quotas_of(settings_with(calls_burst_max=1, jobs_unfinished_max=1), metrics)
    assert await refusal(quotas.take_call(ADA)) is None
    assert await refusal(quotas.begin_job(ADA, "a")) is None
    for asked, code in ((quotas.take_call(ADA), "too_many_calls"), (quotas.begin_job(ADA, "b"), "too_many_jobs")):
        problem = await refusal(asked)
        assert problem is not None
        assert (problem.status, problem.code) == (429, code)
        assert int(problem.headers["Retry-After"]) >= 1
        assert metrics.quota_refusals.labels(code)._value.get() == 1
    assert await refusal(quotas.take_call(BOB)) is None
    await quotas.end_job("studio", "a")
    assert await refusal(quotas.begin_job(ADA, "b")) is None


async def test_ten_thousand_calls_from_one_key_are_cut_to_the_quota(tmp_path: Path) -> None:
    """As many as this machine can make, at once: whatever their rate, no more than the quota come through."""
    path = tmp_path / "keys.jsonl"
    text, key = new_key("studio", ["read"], now=NOW)
    write_keys(path, key.line())
    settings = settings_with(keys_file=path, calls_burst_max=50, calls_per_minute_max=100)
    quotas = quotas_of(settings, AccessMetrics())
    started = time.process_time()
    passed = sum([await refusal(quotas.take_call(ADA)) is None for _ in range(10_000)])
    assert time.process_time() - started < 10, "a refusal is cheap"
    assert 50 <= passed <= 100
    async with calling(app_of(settings)) as client:
        answers = [await client.get("/jobs", headers={"X-API-Key": text}) for _ in range(200)]
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    assert 50 <= statuses.count(200) <= 100
    assert "retry-after" in next(answer for answer in answers if answer.status_code == 429).headers


def away(**access: Any) -> Settings:
    return settings_with(redis_url="redis://127.0.0.1:1/0", **access)


async def test_redis_being_away_lets_through_what_this_process_counts_and_is_told_of() -> None:
    metrics = AccessMetrics()
    quotas = quotas_of(away(calls_burst_max=3, jobs_unfinished_max=1, redis_retry_s=300), metrics)
    passed = [await refusal(quotas.take_call(ADA)) is None for _ in range(5)]
    assert passed == [True, True, True, False, False]
    assert await refusal(quotas.begin_job(ADA, "a")) is None
    assert await refusal(quotas.begin_job(ADA, "b")) is not None
    await quotas.end_job("studio", "a")
    assert await refusal(quotas.begin_job(ADA, "b")) is None
    assert metrics.redis_failures._value.get() == 1, "asked once, not for every call"


async def test_redis_that_hangs_is_waited_for_once_and_not_for_long() -> None:
    async def hangs(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    server = await asyncio.start_server(hangs, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        settings = settings_with(redis_url=f"redis://127.0.0.1:{port}/0", redis_timeout_s=0.2, redis_retry_s=300)
        quotas = quotas_of(settings, AccessMetrics())
        started = time.monotonic()
        assert [await refusal(quotas.take_call(ADA)) for _ in range(20)] == [None] * 20
        assert time.monotonic() - started < 5


async def test_two_replicas_share_redis(redis_url: str) -> None:
    emptied(redis_url).close()
    settings = settings_with(redis_url=redis_url, calls_burst_max=4, jobs_unfinished_max=2, redis_timeout_s=5)
    one, two = quotas_of(settings, AccessMetrics()), quotas_of(settings, AccessMetrics())
    passed = [await refusal(quotas.take_call(ADA)) is None for quotas in (one, two, one, two, one, two)]
    assert passed == [True] * 4 + [False] * 2
    assert await refusal(one.begin_job(ADA, "a")) is None
    assert await refusal(two.begin_job(ADA, "b")) is None
    assert await refusal(one.begin_job(ADA, "c")) is not None
    await two.end_job("studio", "a")
    assert await refusal(one.begin_job(ADA, "c")) is None
    await one.close()
    await two.close()
