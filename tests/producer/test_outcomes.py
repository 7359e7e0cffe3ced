"""Proves that a request is decided once: whoever decides, however answers get lost, all see the outcome that stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, cast

import pytest

from darkroom.producer.outcomes import completions
from darkroom.producer.outcomes.outcomes import RESULT_BYTES_MAX, Outcomes, OutcomeUnreadable
from darkroom.producer.store.memory_objects import MemoryObjects
from darkroom.producer.store.objects import Objects, StoreUnavailable
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.names import result_key
from tests.producer.examples import NOON, Picture, answered, source, success

if TYPE_CHECKING:
    from tests.producer.deployments import MakeSettings

KEY = result_key("studio", "hello-1")


class UnsteadyObjects(MemoryObjects):
    """A store that fails where a test says so, before or after it has done what was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.fail_puts_of: set[str] = set()
        self.lose_answers = 0
        self.calls: list[tuple[str, str]] = []

    async def put(self, key: str, content: bytes, content_type: str) -> None:
        self.calls.append(("put", key))
        await asyncio.sleep(0)
        if key in self.fail_puts_of:
            raise StoreUnavailable("scripted")
        await super().put(key, content, content_type)

    async def put_if_absent(self, key: str, content: bytes, content_type: str) -> bool:
        won = await super().put_if_absent(key, content, content_type)
        if self.lose_answers:
            # As a client's own repetition finds it: the first try was written, its answer never came.
            self.lose_answers -= 1
            return False
        return won


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.stack)])
async def objects(request: pytest.FixtureRequest) -> AsyncIterator[Objects]:
    if request.param == "memory":
        yield MemoryObjects()
        return
    make_settings = cast("MakeSettings", request.getfixturevalue("make_settings"))
    async with MinioObjects(make_settings().s3) as over_s3:
        await over_s3.ensure_bucket(30)
        yield over_s3


async def test_what_was_never_decided_is_none(objects: Objects) -> None:
    assert await Outcomes(objects).find("studio", "hello-1") is None


async def test_a_decision_stores_pictures_and_outcome_and_is_found(objects: Objects) -> None:
    outcomes, pictures = Outcomes(objects), (Picture(b"one"), Picture(b"two", seed=8))
    proposed = success(*pictures, bucket=objects.bucket)
    stands = await outcomes.decide(proposed, pictures)
    assert await outcomes.find("studio", "hello-1") == stands
    assert stands.source == source()
    assert stands.request_digest == proposed.request_digest
    for ref, picture in zip(stands.images, pictures, strict=True):
        assert await objects.get(ref.key, bytes_max=ref.size_bytes) == picture.content


async def test_of_many_who_decide_at_once_one_stands_and_all_return_it(objects: Objects) -> None:
    outcomes = Outcomes(objects)
    pictures = [Picture(f"painted by {number}".encode()) for number in range(8)]
    proposals = [
        outcomes.decide(success(picture, bucket=objects.bucket, worker=f"worker-{number}"), (picture,))
        for number, picture in enumerate(pictures)
    ]
    decided = await asyncio.gather(*proposals)
    assert len({completion.worker for completion in decided}) == 1
    assert all(completion == decided[0] for completion in decided)
    assert await outcomes.find("studio", "hello-1") == decided[0]
    # The pictures that the standing outcome names are the winner's, although eight wrote under the same request.
    winner = int(decided[0].worker.removeprefix("worker-"))
    ref = decided[0].images[0]
    assert await objects.get(ref.key, bytes_max=100) == pictures[winner].content


async def test_an_outcome_is_decided_once_for_every_status(objects: Objects) -> None:
    outcomes = Outcomes(objects)
    expired = completions.expired(answered(), completed_at=NOON)
    assert await outcomes.decide(expired) == expired
    picture = Picture()
    late = await outcomes.decide(success(picture, bucket=objects.bucket), (picture,))
    assert late == expired


async def test_a_winner_whose_answer_was_lost_finds_that_it_won() -> None:
    objects = UnsteadyObjects()
    objects.lose_answers = 1
    picture = Picture()
    stands = await Outcomes(objects).decide(success(picture, worker="worker-7"), (picture,))
    assert stands.worker == "worker-7"


async def test_nothing_is_decided_while_a_picture_is_not_stored() -> None:
    objects, pictures = UnsteadyObjects(), (Picture(b"one"), Picture(b"two"))
    proposed = success(*pictures)
    objects.fail_puts_of = {proposed.images[0].key}
    with pytest.raises(StoreUnavailable, match="scripted"):
        await Outcomes(objects).decide(proposed, pictures)
    assert await objects.get(KEY, bytes_max=RESULT_BYTES_MAX) is None
    # The other picture's transfer had ended when the error came, so that a repetition never runs beside it.
    assert await objects.get(proposed.images[1].key, bytes_max=10) == b"two"
    objects.fail_puts_of = set()
    await Outcomes(objects).decide(proposed, pictures)
    assert await objects.get(KEY, bytes_max=RESULT_BYTES_MAX) is not None


async def test_pictures_are_stored_side_by_side_and_before_the_outcome() -> None:
    objects, pictures = UnsteadyObjects(), (Picture(b"one"), Picture(b"two"), Picture(b"three"))
    proposed = success(*pictures)
    await Outcomes(objects).decide(proposed, pictures)
    assert [key for _, key in objects.calls] == [*(ref.key for ref in proposed.images), KEY]


async def test_the_time_of_storing_is_in_the_outcome() -> None:
    ticks = iter([100.0, 100.25])
    picture = Picture()
    proposed = success(picture)
    stands = await Outcomes(MemoryObjects(), clock=lambda: next(ticks)).decide(proposed, (picture,))
    assert stands.timings_ms.store == 250.0
    assert proposed.timings_ms.total is not None
    assert stands.timings_ms.total == proposed.timings_ms.total + 250.0
    assert (stands.completed_at - proposed.completed_at).total_seconds() == 0.25


async def test_the_pictures_must_be_those_that_are_named() -> None:
    with pytest.raises(ValueError, match="1 pictures are named and 0 are given"):
        await Outcomes(MemoryObjects()).decide(success())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"not JSON", "JSON"),
        (b"{}", "request_id"),
        (b"", "empty"),
        (b"x" * (RESULT_BYTES_MAX + 1), "more than"),
        (success(request_id="another").model_dump_json().encode(), "outcome of studio/another"),
        (success(tenant="mallory").model_dump_json().encode(), "outcome of mallory/hello-1"),
    ],
)
async def test_what_is_no_outcome_of_this_request_is_named_with_the_remedy(content: bytes, why: str) -> None:
    objects = MemoryObjects()
    await objects.put(KEY, content, "application/json")
    for call in (Outcomes(objects).find("studio", "hello-1"), Outcomes(objects).decide(_failed())):
        with pytest.raises(OutcomeUnreadable, match=rf"darkroom/{KEY}.*{why}.*delete it"):
            await call


async def test_an_outcome_that_vanishes_while_it_is_read_is_the_stores_fault() -> None:
    class Vanishing(MemoryObjects):
        async def put_if_absent(self, key: str, content: bytes, content_type: str) -> bool:
            return False

    with pytest.raises(StoreUnavailable, match="was gone when it was read"):
        await Outcomes(Vanishing()).decide(_failed())


def _failed() -> Completion:
    return completions.failed(answered(), "render_failed", "black", completed_at=NOON)
