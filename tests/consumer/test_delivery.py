"""Proves what is published of decided jobs when a broker found one record of their transaction too large."""

from __future__ import annotations

from typing import Any

from darkroom.consumer.core.partition_key import JobKey
from darkroom.consumer.worker.delivery import Delivery
from darkroom.consumer.worker.payload import Payload, Received
from darkroom.consumer.worker.ports import OutgoingRecord, Record
from darkroom.producer.store.memory_objects import MemoryObjects
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.pose import FoundPerson
from darkroom.schemas.settings import Settings
from darkroom.schemas.wire.codec import decode_completion
from tests.producer.examples import success

LABELS = {"campaign": "spring"}
PERSON = FoundPerson(points=((0.5, 0.5, 0.9), *[None] * 17), score=0.9)


def decided(offset: int, **changes: Any) -> tuple[JobKey, Payload]:
    bare: dict[str, Any] = {"labels": {}, "warnings": ()}
    completion = success(request_id=f"r-{offset}").model_copy(update=bare | changes)
    record = Record(offset, None, b"{}", (), 0)
    payload = Payload(Received(record, f"e-{offset}", completion.request_digest, None), completion=completion)
    return JobKey("generation.requests", 0, offset), payload


def read(records: list[OutgoingRecord]) -> list[Completion]:
    return [decode_completion(record.value, record.headers) for record in records]


async def test_only_the_largest_of_a_refused_transaction_loses_what_can_be_left_out() -> None:
    delivery = Delivery(Settings(), MemoryObjects("darkroom"), lambda _: None)
    payloads = dict(
        [
            decided(0, labels=LABELS),
            decided(1, labels=LABELS | {"note": "x" * 200}),
            decided(2, warnings=("said",)),
        ]
    )
    keys = list(payloads)
    await delivery.publish_smaller(keys, payloads)
    first, largest, last = read(await delivery.records(keys, payloads))
    assert (first.labels, last.warnings) == (LABELS, ("said",))
    assert largest.labels == {}
    assert "left out" in largest.warnings[0]
    await delivery.publish_smaller(keys, payloads)
    assert [payload.is_small for payload in payloads.values()].count(True) == 2, "the next one follows"


async def test_the_people_that_were_found_can_be_left_out_too_and_nothing_is_said_where_nothing_was() -> None:
    delivery = Delivery(Settings(), MemoryObjects("darkroom"), lambda _: None)
    payloads = dict([decided(0, found=(PERSON,)), decided(1)])
    for payload in payloads.values():
        payload.is_small = True
    found, nothing = read(await delivery.records(list(payloads), payloads))
    assert found.found == ()
    assert "left out" in found.warnings[0]
    assert nothing.warnings == ()
