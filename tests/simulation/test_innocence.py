"""Proves that whatever is no crash never fails an innocent request, even one that is suspected and runs alone.

A request that once shared the lanes of a worker that crashed is a suspect: what happens to it alone is what counts. It
is frozen, evicted, drained without time enough or cut off by a Kafka outage more often than it may crash; it succeeds.
The last case shows that the stage is set well: as many real crashes do fail it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.simulation.invariants import Violation
from tests.simulation.kafka import SESSION_S
from tests.simulation.process import Process
from tests.simulation.requests import OK
from tests.simulation.staged import Stage
from tests.simulation.world import LIMITS

WORKERS = LIMITS.attempts_max + 2
TIMES = 16
"""Far more often than a request may crash, as it may come back to a worker that had it before."""

Befalls = Callable[[Stage, Process], Awaitable[None]]


async def a_freeze(stage: Stage, process: Process) -> None:
    """SIGSTOP for much longer than the session, then SIGCONT: a zombie. Several are frozen at a time."""
    stage.freeze(process, 5 * SESSION_S)
    await stage.until(lambda: stage.owner_name not in (process.client_id, None), "another worker to own the partition")


async def an_eviction(stage: Stage, process: Process) -> None:
    """The group throws the worker out, which joins again; the partition goes to either."""
    stage.cluster.leave(process.client_id)
    await stage.until(lambda: len(stage.cluster.members) == len(stage.alive) and stage.cluster.stable, "it to be back")


async def a_drain_out_of_time(stage: Stage, process: Process) -> None:
    """SIGTERM, and what is on the device takes longer than the drain may."""
    process.drain()
    await stage.until(lambda: process.ended, "the drain to end")


async def a_kafka_outage(stage: Stage, process: Process) -> None:
    """Kafka answers nobody for longer than the session."""
    stage.kafka.away_until = stage.loop.time() + SESSION_S + 3.0
    stage.cluster.leave(process.client_id)
    await stage.until(lambda: stage.loop.time() > stage.kafka.away_until and stage.owner_name is not None, "Kafka")


async def a_crash(stage: Stage, process: Process) -> None:
    """What does count."""
    stage.crash(process)
    await stage.until(lambda: not any(one is process for one in stage.alive), "its end")


def repeated(befalls: Befalls) -> Stage:
    """A stage on which it befalls a suspect alone, and whoever has it after that, so that it would count in many boots.

    After a hand-over between living workers it is no suspect any more, so only the first time is it sure to be one.
    """

    async def script(stage: Stage) -> None:
        for _ in range(WORKERS):
            stage.start_process(stage.new_host())
        stage.hold_steps()
        stage.send()
        stage.crash(await stage.rendering(alone=False))
        for time in range(TIMES):
            await befalls(stage, await stage.rendering(alone=time == 0))
        stage.let_steps_go()

    return Stage(script)


@pytest.mark.parametrize(
    "befalls", [a_freeze, an_eviction, a_drain_out_of_time, a_kafka_outage], ids=lambda one: one.__name__
)
def test_an_innocent_suspect_succeeds_after(befalls: Befalls) -> None:
    stage = repeated(befalls)
    assert stage.play() == [OK]
    if befalls is a_drain_out_of_time:
        out_of_time = sum(process.clean is False for process in stage.processes)
        assert out_of_time > LIMITS.attempts_max, "more often than not the time was not enough"


def test_as_many_crashes_would_fail_it() -> None:
    with pytest.raises(Violation, match="'failed', 'worker_crash'"):
        repeated(a_crash).play()
