"""Records as other products write them: each is read in its envelope and dialect, or refused with the remedy.

Each row is decoded, and each is put once on a real Kafka before a worker with the simulated device.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.admin import NewTopic

from darkroom.inference.engine import LaneEngine
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.schemas.errors import RequestRejected
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.wire.codec import Decoded, decode_cancellation, decode_request
from tests.integration.by_hand import admin
from tests.integration.fleet import Fleet
from tests.integration.in_process import Producer, running_worker
from tests.strangers.record_rows import TABLE
from tests.strangers.records import ENVELOPE, Answer, Sent, text
from tests.strangers.table import Stranger, rows

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

FIGURE_MS_MAX = 600_000
"""No record of this test waits longer: a larger figure was made from a time that nobody meant."""


def decoded(sent: Sent) -> Decoded | RequestRejected:
    try:
        return decode_request(sent.value, sent.headers, sent.key)
    except RequestRejected as rejected:
        return rejected


@pytest.mark.parametrize("row", rows(TABLE))
def test_a_record_is_read_or_refused_with_its_remedy(row: Stranger[Sent, Answer]) -> None:
    found, right = decoded(row.given), row.right
    if isinstance(found, RequestRejected):
        assert right.is_refused or right.request_id is None, found.message
        assert (found.request_id, right.says in found.message) == (right.request_id, True), found.message
        return
    assert not right.is_refused
    assert (found.request.request_id, found.event_id) == (right.request_id, right.event_id)
    keyless = [one for one in found.warnings if "key" not in one]
    assert len(keyless) == bool(right.says)
    assert all(right.says in one for one in keyless)


PLAIN = {"request_id": "a", "prompt": "p"}
SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "integers with a zero fraction": (
        {"steps": 7.0, "seed": 1e3, "width": 512.0, "count": 2.0},
        {"steps": 7, "seed": 1000, "width": 512, "count": 2},
    ),
    "quality with a zero fraction": (
        {"output": {"format": "webp", "quality": 85.0}},
        {"output": {"format": "webp", "quality": 85}},
    ),
    "null for every default": (
        dict.fromkeys(field for field in GenerationRequest.model_fields if field not in ("request_id", "prompt")),
        {},
    ),
    "null inside": (
        {"output": {"quality": None, "format": None}, "adapter": {"name": "ink", "weight": None}},
        {"adapter": {"name": "ink"}},
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_what_means_the_same_has_the_same_digest(case: str) -> None:
    theirs, ours = (decode_request(text({**PLAIN, **fields})) for fields in SAME[case])
    assert theirs.digest == ours.digest
    assert (theirs.request, theirs.warnings) == (ours.request, ())


def test_a_cancellation_is_read_in_the_same_dialects() -> None:
    wanted = decode_cancellation(b'{"request_id": "a"}')
    event = {
        **ENVELOPE,
        "type": "darkroom.generation.cancelled.v1",
        "data": {"request_id": "a", "tenant": None, "reason": None},
    }
    for value in (text(event), text(json.dumps(event)), b"\0\0\0\0\x01" + text({"schema": None, "payload": event})):
        assert decode_cancellation(value) == wanted


def can_be_published(sent: Sent) -> bool:
    """Tell whether the tests' producer can write it: aiokafka takes only text for a header's name."""
    return all(name.isascii() for name, _ in sent.headers)


@pytest.mark.stack
async def test_each_has_its_answer_from_a_worker(stack: Stack, tmp_path: Path) -> None:
    fleet = Fleet(stack.environment, tmp_path, DARKROOM_TOPICS__REQUESTS_PARTITIONS="1")
    settings = fleet.settings
    any_time = {"message.timestamp.after.max.ms": str(2**63 - 1)}  # brokers before Kafka 3.6 have no such bound
    async with admin(settings) as client:
        await client.create_topics([NewTopic(settings.topics.requests, 1, 1, topic_configs=any_time)])
    await ensure_topics(settings)
    async with running_worker(settings, LaneEngine(SimulatedDevice(0.0), rows_max=8)), Producer(settings) as producer:
        places = {await producer.put(**asdict(row.given)): row for row in TABLE if can_be_published(row.given)}
        answers = await producer.answers(set(places))
    for place, row in places.items():
        [answer], right = answers[place], row.right
        if right.request_id is None:
            assert not isinstance(answer, Completion), row.name
            assert answer.value == (row.given.value or b""), row.name
            assert right.says in dict(answer.headers)["darkroom_error_message"].decode(), row.name
            continue
        assert isinstance(answer, Completion), row.name
        assert (answer.request_id, bool(answer.images)) == (right.request_id, not right.is_refused), row.name
        told = answer.error.message if answer.error else " ".join(answer.warnings)
        assert right.says in told, f"{row.name}: {told}"
        assert right.worker_says in told, f"{row.name}: {told}"
        for figure in (answer.timings_ms.queued, answer.timings_ms.total) if right.worker_says else ():
            assert figure is None or 0 <= figure < FIGURE_MS_MAX, f"{row.name}: {answer.timings_ms}"
