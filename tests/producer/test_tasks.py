"""Proves that a supervised task either runs or is named, and that no failure of one is lost."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import Counter
from collections.abc import Callable

import pytest

from darkroom.producer.tasks import Backoff, TaskFailed, TaskSupervisor, described, run

HASTY = Backoff(s_min=0.01, s_max=0.04, proven_s=0.05, steady_s=60.0)
LIMIT_S = 10.0


class Alien(BaseException):
    """Neither an `Exception` nor one of those that end a process."""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.005)


class Faulty:
    """A task's work that ends in some ways first, and runs from then on."""

    def __init__(self, *ends: BaseException | None) -> None:
        self._ends = list(ends)
        self.began = 0

    async def run(self) -> None:
        self.began += 1
        if not self._ends:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        error = self._ends.pop(0)
        if error is not None:
            raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("no"),
        TypeError("a bytes-like object is required"),
        UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid"),
        asyncio.CancelledError(),
        Alien(),
        None,
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_kept_task_is_started_again_however_it_ends(
    error: BaseException | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="darkroom.producer.tasks")
    restarts: Counter[str] = Counter()
    kept: list[str] = []
    work = Faulty(error)
    async with TaskSupervisor(
        on_kept=kept.append, on_restart=lambda name: restarts.update([name]), backoff=HASTY
    ) as tasks:
        tasks.keep("feed", work.run, matters="completions are not followed")
        assert kept == ["feed"]
        await until(lambda: bool(tasks.unready()))
        [reason] = tasks.unready()
        assert "'feed'" in reason
        assert "completions are not followed" in reason
        await until(lambda: not tasks.unready())
    assert work.began == 2
    assert restarts == {"feed": 1}
    [ended, runs] = caplog.records
    assert "ended unexpectedly" in ended.message
    assert "feed" in ended.message
    assert ended.exc_info is not None
    assert "runs again" in runs.message


async def test_readiness_does_not_name_what_does_not_matter() -> None:
    async with TaskSupervisor(backoff=HASTY) as tasks:
        work = Faulty(RuntimeError("no"), RuntimeError("no"))
        tasks.keep("pod_cost", work.run)
        while work.began < 3:
            assert tasks.unready() == []
            await asyncio.sleep(0.001)


async def test_the_same_traceback_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    work = Faulty(*[RuntimeError(f"attempt {number}") for number in range(4)], TypeError("another"))
    async with TaskSupervisor(backoff=HASTY) as tasks:
        tasks.keep("queue", work.run)
        await until(lambda: work.began == 6)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.exc_info is not None for record in errors] == [True, False, False, False, True]


async def test_a_task_that_fails_while_it_is_cancelled_is_not_started_again() -> None:
    began = 0

    async def work() -> None:
        nonlocal began
        began += 1
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("closing failed")

    async with asyncio.timeout(LIMIT_S), TaskSupervisor(backoff=HASTY) as tasks:
        tasks.keep("outlet", work)
        await asyncio.sleep(0)
    assert began == 1


def test_pauses_double_within_their_bounds_and_are_spread() -> None:
    backoff = Backoff()
    assert [backoff.pause_s(restarts, 0.0) for restarts in (0, 1, 2, 3)] == [0.5, 1.0, 2.0, 4.0]
    assert backoff.pause_s(10_000, 0.0) == backoff.s_max
    assert backoff.pause_s(10_000, 1.0) == backoff.s_max * (1 - backoff.jitter)


async def test_a_spawned_task_s_failure_reaches_the_owner_with_its_name_and_cause() -> None:
    failures: list[TaskFailed] = []
    error = TypeError("expected bytes")

    async def work() -> None:
        raise error

    async with TaskSupervisor(on_failed=failures.append) as tasks:
        tasks.spawn("publish", work())
        await until(lambda: bool(failures))
    [failed] = failures
    assert failed.__cause__ is error
    assert "'publish'" in str(failed)
    assert "TypeError: expected bytes" in str(failed)


async def test_a_cancellation_that_nobody_asked_for_is_a_failure_and_one_that_was_asked_for_is_not() -> None:
    failures: list[TaskFailed] = []

    async def leaking() -> None:
        raise asyncio.CancelledError

    async with TaskSupervisor(on_failed=failures.append) as tasks:
        asked = tasks.spawn("asked", asyncio.sleep(60))
        asked.cancel()
        tasks.spawn("leaking", leaking())
        tasks.spawn("closed", asyncio.sleep(60))
        await until(lambda: bool(failures))
    assert [failed.name for failed in failures] == ["leaking"]


async def test_close_spares_what_it_is_told_to_and_waits_for_it() -> None:
    done: list[str] = []

    async def work(name: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        done.append(name)

    tasks = TaskSupervisor()
    ending = tasks.spawn("ending", work("ending", 0.05))
    tasks.spawn("other", work("other", 0.05))
    await tasks.close(sparing=(ending,))
    assert done == ["ending"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("is_kept", [True, False])
def test_what_ends_a_process_ends_it(error: BaseException, is_kept: bool) -> None:
    async def work() -> None:
        raise error

    async def main() -> None:
        async with TaskSupervisor(backoff=HASTY) as tasks:
            if is_kept:
                tasks.keep("feed", work)
            else:
                tasks.spawn("publish", work())
            await asyncio.sleep(LIMIT_S)

    with pytest.raises(type(error)):
        asyncio.run(main())


def test_an_exception_is_described_in_a_line_that_fits() -> None:
    assert described(ValueError("two\nlines")) == "ValueError: two lines"
    assert described(ValueError()) == "ValueError"
    assert len(described(ValueError("x" * 100_000))) == 300


async def test_closing_ends_a_task_that_loses_a_cancellation() -> None:
    """As `asyncio.wait_for` of Python 3.11 does where what it waits for is done in that moment."""
    lost = 0

    async def work() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
                if lost > 1:
                    raise

    tasks = TaskSupervisor(on_failed=lambda _: None)
    tasks.spawn("loses", work())
    await asyncio.sleep(0)
    await asyncio.wait_for(tasks.close(), 30)
    assert lost == 2


class Deaf:
    """Work that loses its first cancellation, as whoever waits for `AIOKafkaConsumer.stop` does."""

    def __init__(self) -> None:
        self.lost = False

    async def run(self) -> None:
        while True:
            try:
                await asyncio.sleep(LIMIT_S)
            except asyncio.CancelledError:
                if self.lost:
                    raise
                self.lost = True


def test_ctrl_c_ends_work_that_lost_its_cancellation() -> None:
    deaf = Deaf()

    async def work() -> None:
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
        await deaf.run()

    with pytest.raises(KeyboardInterrupt):
        run(work())
    assert deaf.lost


def test_a_task_that_is_left_and_loses_its_cancellation_does_not_hold_the_process() -> None:
    deaf = Deaf()

    async def work() -> int:
        work.left = asyncio.get_running_loop().create_task(deaf.run())  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        return 7

    assert run(work()) == 7
    assert deaf.lost


def test_the_work_s_own_exception_is_raised() -> None:
    async def work() -> None:
        raise LookupError("its own")

    with pytest.raises(LookupError, match="its own"):
        run(work())
