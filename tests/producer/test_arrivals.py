"""Proves how several tasks share one reader: each gets its own completions, and nobody waits for another's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from darkroom.producer.client import arrivals
from darkroom.producer.client.arrivals import Arrivals
from darkroom.schemas.events.completion import Completion
from tests.producer.examples import success


class Source:
    """Gives what a test puts in, as a reader of Kafka does: after a wait, and several at a time."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[list[Completion]] = asyncio.Queue()
        self.reads = 0

    async def read(self, timeout_s: float) -> Sequence[Completion]:
        self.reads += 1
        try:
            return await asyncio.wait_for(self.queue.get(), timeout_s)
        except TimeoutError:
            return []

    def give(self, *names: str, tenant: str = "studio") -> None:
        one = success(tenant=tenant)
        self.queue.put_nowait([one.model_copy(update={"request_id": name}) for name in names])


def ids(*names: str) -> list[tuple[str, str]]:
    return [("studio", name) for name in names]


async def test_nothing_is_read_while_nobody_waits() -> None:
    source = Source()
    waiting = Arrivals(source.read)
    source.give("a")
    await asyncio.sleep(0)
    assert source.reads == 0
    assert list(await waiting.wait(ids("a"), 5)) == ids("a")


async def test_what_came_while_others_were_waited_for_is_kept() -> None:
    source = Source()
    waiting = Arrivals(source.read)
    source.give("a", "b")
    assert list(await waiting.wait(ids("a"), 5)) == ids("a")
    reads = source.reads
    assert list(await waiting.wait(ids("b"), 5)) == ids("b")
    assert source.reads == reads


async def test_a_task_is_answered_by_what_another_one_reads() -> None:
    source = Source()
    waiting = Arrivals(source.read)
    both = [asyncio.create_task(waiting.wait(ids(name), 5)) for name in ("a", "b")]
    await asyncio.sleep(0.01)
    assert source.reads == 1  # one of them reads for both
    source.give("b")
    source.give("a")
    assert [list(found) for found in await asyncio.gather(*both)] == [ids("a"), ids("b")]


async def test_a_task_that_gives_up_leaves_the_others_waiting() -> None:
    source = Source()
    waiting = Arrivals(source.read)
    impatient = asyncio.create_task(waiting.wait(ids("a"), 5))
    patient = asyncio.create_task(waiting.wait(ids("b"), 5))
    await asyncio.sleep(0.01)
    impatient.cancel()
    source.give("b")
    assert list(await patient) == ids("b")
    assert impatient.cancelled()


async def test_waiting_ends_with_what_there_is() -> None:
    source = Source()
    waiting = Arrivals(source.read)
    source.give("a")
    assert list(await waiting.wait(ids("a", "b"), 0.05)) == ids("a")
    assert await waiting.wait([], 5) == {}


async def test_the_first_completion_of_a_request_counts_and_its_tenant_matters() -> None:
    source = Source()
    waiting = Arrivals(source.read)
    source.give("a", tenant="another")
    source.give("a")
    found = await waiting.wait(ids("a"), 5)
    assert found[("studio", "a")].tenant == "studio"


async def test_what_is_kept_is_bounded() -> None:
    source = Source()
    waiting = Arrivals(source.read)
    names = [f"n{number}" for number in range(arrivals.KEPT_MAX + 1)]
    source.give(*names, "last")
    await waiting.wait(ids("last"), 5)
    assert await waiting.wait(ids("n0"), 0) == {}
    assert list(await waiting.wait(ids(names[-1]), 0)) == ids(names[-1])


async def test_what_the_reader_raises_reaches_who_waits() -> None:
    async def read(_timeout_s: float) -> Sequence[Completion]:
        raise ConnectionError("away")

    with pytest.raises(ConnectionError, match="away"):
        await Arrivals(read).wait(ids("a"), 5)
