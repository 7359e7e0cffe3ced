"""Proves that headers, keys and values as other clients write them cost nobody anything: a picture or a dead letter,
and a dead letter that gives the record back byte for byte.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.codec import zstd_encode
from click.testing import CliRunner

from darkroom.consumer.audit.audit import audit
from darkroom.inference.engine import LaneEngine
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.producer.cli.dlq import dlq
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Completion
from tests.integration.by_hand import until_no_lag
from tests.integration.fleet import Fleet
from tests.integration.in_process import Producer, running_worker
from tests.strangers.raw_records import Raw, batch, body, raw_kafka, records_in
from tests.strangers.table import Stranger, rows

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

PAINTED, DEAD = "succeeded", "a dead letter"


def asked(name: str) -> bytes:
    return json.dumps({"request_id": name, "prompt": "a dancer", "steps": 2}).encode()


TABLE = [
    Stranger(
        "a header without a value",
        "Debezium 3.4.3 outbox router, a NULL column placed in a header",
        Raw(b"order-1", asked("order-1"), [(b"id", b"d6753ccd"), (b"tenant", None)]),
        PAINTED,
    ),
    Stranger(
        "a header without a value, refused",
        "sarama 1.61.1, nil bytes",
        Raw(None, b'{"prompt":"x"}', [(b"tenant", None)]),
        DEAD,
    ),
    Stranger(
        "a known header without a value",
        "kafka-clients 4.2.1, null",
        Raw(b"order-3", asked("order-3"), [(b"content-type", None), (b"traceparent", None)]),
        PAINTED,
    ),
    Stranger(
        "a header name that is not UTF-8",
        "franz-go 1.22.3, a Go string holds any bytes",
        Raw(None, asked("order-2"), [(b"caf\xe9", b"x")]),
        PAINTED,
    ),
    Stranger(
        "a header name that is not UTF-8, refused",
        "kcat 1.7.1 -H, names of any bytes",
        Raw(b"\xff\x00", b"no request", [(b"caf\xe9", b"1"), (b"n", None), (b"", b""), (b"caf\xe9", None)]),
        DEAD,
    ),
    Stranger("neither key nor value", "kafka-clients 4.2.1, a tombstone without a key", Raw(), DEAD),
    Stranger(
        "a tombstone",
        "Debezium 3.4.3, which writes one behind every deletion",
        Raw(b"order-4", None, [(b"tenant", None)]),
        DEAD,
    ),
    Stranger("an empty key and value", "librdkafka 2.16.1", Raw(b"", b"", [(b"", b"")]), DEAD),
    Stranger(
        "a time before the epoch",
        "kafka-clients 4.2.1, a time given in seconds and one that is negative",
        Raw(b"order-5", asked("order-5"), (), -(2**40)),
        PAINTED,
    ),
]


@pytest.mark.parametrize("row", rows(TABLE))
async def test_each_has_its_outcome_and_its_dead_letter_gives_it_back(
    row: Stranger[Raw, str], stack: Stack, tmp_path: Path
) -> None:
    fleet = Fleet(stack.environment, tmp_path, DARKROOM_TOPICS__REQUESTS_PARTITIONS="1")
    settings, topic = fleet.settings, fleet.settings.topics.requests
    await ensure_topics(settings)
    neighbours = [Raw(b"n", asked(f"neighbour-{number}")) for number in range(2)]
    async with (
        raw_kafka(settings.kafka) as kafka,
        Producer(settings) as producer,
        running_worker(settings, LaneEngine(SimulatedDevice(0.0), rows_max=4)),
    ):
        first = await kafka.put_all(topic, 0, [neighbours[0], row.given, neighbours[1]])
        places = {(0, first + number) for number in range(3)}
        answers = await producer.answers(places)
        await until_no_lag(settings)
        [answer] = answers[0, first + 1]
        for place in (first, first + 2):
            [neighbour] = answers[0, place]
            assert neighbour.status.value == PAINTED, "what stands in the same batch is painted"
        if row.right == PAINTED:
            assert isinstance(answer, Completion)
            assert answer.status.value == PAINTED
        else:
            name = f"{topic}-0-{first + 1}"
            environment = fleet.environment
            assert (await told(environment, "show", name))["header_names_base64"] == [
                base64.b64encode(header).decode() for header, _ in row.given.headers
            ]
            done = await told(environment, "replay", name)
            offset = int(done["replayed_as"].rpartition("-")[2])
            back = records_in(await kafka.get(topic, 0, offset))[offset]
            assert (back.key, back.value) == (row.given.key, row.given.value)
            assert back.headers == [*row.given.headers, (b"darkroom_replay_of", name.encode())]
            await producer.answers({(0, offset)})  # it dies again, and is told of again
            await until_no_lag(settings)
    async with MinioObjects(settings.s3) as objects:
        report = await audit(settings, objects)
    assert report.is_clean
    assert report.pending == 0


async def told(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    """Return what `darkroom dlq ...` prints of one letter; a process, since the worker beside it logs to our stdout."""
    command = [sys.executable, "-m", "darkroom", "dlq", *arguments, "--json"]
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    found: dict[str, Any] = json.loads(out)
    return found


async def test_a_batch_that_cannot_be_read_is_set_aside_whole(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker lets none in that this version of it cannot read, but a disk spoils one, and other brokers check less:
    what is packed here beyond the limit is the one way of having one on a real broker.
    """
    monkeypatch.setattr("darkroom.producer.kafka.record_compression.UNPACKED_BYTES_MAX", 64 * 1024)
    monkeypatch.setattr("darkroom.producer.kafka.record_compression._ROOM_BYTES", (64 * 1024,))
    fleet = Fleet(stack.environment, tmp_path, DARKROOM_TOPICS__REQUESTS_PARTITIONS="1")
    settings, topic = fleet.settings, fleet.settings.topics.requests
    await ensure_topics(settings)
    large = [Raw(b"large", bytes(200_000), timestamp_ms=1000)] * 3
    content = batch(large, codec=4, packed=zstd_encode(body(large, 1000)))
    environment = fleet.environment
    async with raw_kafka(settings.kafka) as kafka, Producer(settings) as producer:
        async with running_worker(settings, LaneEngine(SimulatedDevice(0.0), rows_max=4)):
            before = await kafka.put_all(topic, 0, [Raw(b"a", asked("before"))])
            error, offset = await kafka.put(topic, 0, content)
            assert error == 0
            behind = await kafka.put_all(topic, 0, [Raw(b"b", asked("behind"))])
            answers = await producer.answers({(0, before), (0, offset), (0, behind)})
            await until_no_lag(settings)
        assert [answers[0, place][0].status.value for place in (before, behind)] == [PAINTED, PAINTED]
        [letter] = answers[0, offset]
        headers = dict(letter.headers)
        assert headers["darkroom_error_code"] == b"batch_unreadable"
        assert f"offsets {offset} to {offset + 2} of partition 0".encode() in headers["darkroom_error_message"]
        stored = await kafka.get(topic, 0, offset)
        assert letter.value == stored[: len(content)]
        name = f"{topic}-0-{offset}"
        shown = await told(environment, "show", name)
        assert base64.b64decode(shown["value_base64"]) == letter.value
        result = await asyncio.to_thread(CliRunner().invoke, dlq, ["replay", name], env=environment)
        assert result.exit_code == 1
        assert "no record but a batch" in result.output
    async with MinioObjects(settings.s3) as objects:
        report = await audit(settings, objects)
    assert report.is_clean
    assert (report.records, report.succeeded, report.dead_lettered, report.pending) == (3, 2, 1, 0)
