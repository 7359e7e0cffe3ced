"""Headers that requesters find their completions by: they come back as they came, each record's own."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.kafka.writer import PartitionWriter
from darkroom.consumer.worker.ports import OutgoingRecord
from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.schemas.settings import Settings, SettingsError, load_settings
from darkroom.schemas.wire.echo import ECHOED_BY_DEFAULT, ECHOED_BYTES_MAX, ECHOED_HEADERS_MAX, echoed
from tests.integration.fleet import Fleet
from tests.strangers.table import Stranger, rows

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

LIMIT_S = 60
Headers = Sequence[tuple[str, bytes | None]]
CORRELATION = uuid.UUID("6fa459ea-ee8a-3ca4-894e-db77e160355e")

RECORDS: list[Stranger[Headers, Headers]] = [
    Stranger(
        "replying-template",
        "Spring for Apache Kafka 4.0 ReplyingKafkaTemplate",
        [
            ("kafka_replyTopic", b"replies"),
            ("kafka_correlationId", CORRELATION.bytes),
            ("__TypeId__", b"com.example.Request"),
        ],
        [("kafka_correlationId", CORRELATION.bytes)],
    ),
    Stranger(
        "nest-client",
        "@nestjs/microservices 11.1 ClientKafka.send",
        [("kafka_correlationId", b"5b1f"), ("kafka_replyTopic", b"replies.reply"), ("kafka_replyPartition", b"0")],
        [("kafka_correlationId", b"5b1f")],
    ),
    Stranger(
        "quarkus-request-reply",
        "SmallRye Reactive Messaging 4.31 KafkaRequestReply",
        [("REPLY_CORRELATION_ID", CORRELATION.bytes), ("REPLY_TOPIC", b"replies")],
        [("REPLY_CORRELATION_ID", CORRELATION.bytes)],
    ),
    Stranger(
        "faststream",
        "FastStream 0.7.8 KafkaBroker.publish",
        [
            ("content-type", b"application/json"),
            ("correlation_id", str(CORRELATION).encode()),
            ("reply_to", b"replies"),
        ],
        [("correlation_id", str(CORRELATION).encode())],
    ),
    Stranger(
        "cap",
        "DotNetCore.CAP.Kafka 8.4",
        [("cap-msg-id", b"14"), ("cap-corr-id", b"14"), ("cap-corr-seq", b"0")],
        [("cap-corr-id", b"14")],
    ),
    Stranger(
        "opentelemetry",
        "OpenTelemetry JS 2.1 instrumentation-kafkajs",
        [
            ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ("tracestate", b"vendor=one,other=two"),
            ("baggage", b"user.id=7,tier=gold"),
        ],
        [("tracestate", b"vendor=one,other=two"), ("baggage", b"user.id=7,tier=gold")],
    ),
    Stranger(
        "spelling-order-and-repetitions",
        "segmentio/kafka-go 0.4.50",
        [("Correlation-ID", b"b"), ("X-Other", b"x"), ("X-CORRELATION-ID", b"\xff\x00"), ("Correlation-ID", b"a")],
        [("Correlation-ID", b"b"), ("X-CORRELATION-ID", b"\xff\x00"), ("Correlation-ID", b"a")],
    ),
    Stranger(
        "an-empty-value", "librdkafka 2.12 rd_kafka_header_add", [("correlationId", b"")], [("correlationId", b"")]
    ),
    Stranger("nothing-to-echo", "kafka-python 2.3", [("x-tenant", b"shop")], []),
]


class Wire:
    """The topics of one deployment, as a stranger writes and reads them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sent: list[tuple[int, int]] = []

    async def send(self, document: dict[str, Any], headers: Headers, topic: str | None = None) -> tuple[int, int]:
        """Write a record; returns its partition and offset."""
        producer = AIOKafkaProducer(**kafka_arguments(self._settings.kafka))
        await producer.start()
        try:
            key = document["request_id"].encode()
            sent = await producer.send_and_wait(
                topic or self._settings.topics.requests, json.dumps(document).encode(), key=key, headers=list(headers)
            )
        finally:
            await producer.stop()
        return sent.partition, sent.offset

    async def completions(self, number: int) -> dict[tuple[int, int], tuple[dict[str, Any], Headers]]:
        """So many completions from the beginning, with their headers, by the records that they answer."""
        found = {}
        consumer = AIOKafkaConsumer(
            self._settings.topics.completions,
            **kafka_arguments(self._settings.kafka),
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        await consumer.start()
        try:
            async with asyncio.timeout(LIMIT_S):
                while len(found) < number:
                    record = await consumer.getone()
                    completion = json.loads(record.value)
                    source = completion["source"]
                    found[source["partition"], source["offset"]] = (completion, record.headers)
        finally:
            await consumer.stop()
        return found


def without_ours(headers: Headers) -> list[tuple[str, bytes | None]]:
    """The headers of a completion that are not its own."""
    ours = ("ce_", "content-type", "traceparent")
    return [(name, value) for name, value in headers if not name.startswith(ours)]


@pytest.fixture(scope="module")
def fleet(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One worker."""
    fleet = Fleet(stack.environment, tmp_path_factory.mktemp("echo"))
    asyncio.run(fleet.make_topics())
    worker = fleet.start("--simulated-device", "0")
    worker.wait_ready()
    yield fleet
    fleet.stop()


@pytest.mark.stack
def test_what_the_fields_tools_write_comes_back(fleet: Fleet) -> None:
    async def run() -> None:
        wire = Wire(fleet.settings)
        sent = {}
        for row in [param.values[0] for param in rows(RECORDS)]:
            document = {"request_id": f"echo-{row.name}", "prompt": "a red figure"}
            sent[await wire.send(document, row.given)] = row
        found = await wire.completions(len(sent))
        for place, row in sent.items():
            completion, headers = found[place]
            assert completion["status"] == "succeeded", row.name
            assert without_ours(headers) == list(row.right), row.name

    asyncio.run(run())


@pytest.mark.stack
def test_every_kind_of_completion_echoes_its_own_records_headers(stack: Stack, tmp_path: Path) -> None:
    """A replay and a conflict have the request id of another record, and must not have that record's headers."""
    fleet = Fleet(stack.environment, tmp_path)

    async def run() -> None:
        await fleet.make_topics()
        wire = Wire(fleet.settings)
        ask = {"request_id": "twice", "prompt": "a red figure"}
        past = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
        cancelled = {"request_id": "cancelled", "tenant": "default"}
        await wire.send(cancelled, [], topic=fleet.settings.topics.cancellations)
        cases = {
            "succeeded": ask,
            "replayed": ask,
            "conflict": {**ask, "prompt": "a blue figure"},
            "failed": {"request_id": "failed", "prompt": "a red figure", "steps": 100_000},
            "expired": {"request_id": "expired", "prompt": "a red figure", "deadline": past},
            "cancelled": {"request_id": "cancelled", "prompt": "a red figure"},
        }
        sent = {
            await wire.send(document, [("kafka_correlationId", name.encode())]): name
            for name, document in cases.items()
        }
        worker = fleet.start("--simulated-device", "0")
        try:
            found = await wire.completions(len(cases))
            worker.wait_ready()
        finally:
            fleet.stop()
        told = {sent[place]: (one["status"], one["replayed"], headers) for place, (one, headers) in found.items()}
        for name, (_, _, headers) in told.items():
            assert without_ours(headers) == [("kafka_correlationId", name.encode())]
        assert {name: status for name, (status, _, _) in told.items()} == {
            "succeeded": "succeeded",
            "replayed": "succeeded",
            "conflict": "failed",
            "failed": "failed",
            "expired": "expired",
            "cancelled": "cancelled",
        }
        assert told["replayed"][1]

    asyncio.run(run())


@pytest.mark.stack
def test_what_is_beyond_the_bound_is_left_out_with_a_warning(fleet: Fleet) -> None:
    large = ("baggage", b"x" * ECHOED_BYTES_MAX)

    async def run() -> None:
        wire = Wire(fleet.settings)
        place = await wire.send({"request_id": "large", "prompt": "a red figure"}, [large, ("correlationId", b"7")])
        number = place[1] + 1
        async with asyncio.timeout(LIMIT_S):
            while place not in (found := await wire.completions(number)):
                number += 1
        completion, headers = found[place]
        assert without_ours(headers) == [("correlationId", b"7")]
        assert [warning for warning in completion["warnings"] if "baggage" in warning and "echoes" in warning]

    asyncio.run(run())


@pytest.mark.stack
async def test_a_header_without_a_value_is_published_as_one(stack: Stack, tmp_path: Path) -> None:
    settings = Fleet(stack.environment, tmp_path).settings
    await ensure_topics(settings)
    headers = (("correlationId", None), ("correlationId", b""))
    key = PartitionKey(settings.topics.requests, 0)
    writer = PartitionWriter(key, settings.kafka, kafka_arguments(settings.kafka), timeout_s=20)
    await writer.start()
    await writer.publish([OutgoingRecord(settings.topics.completions, b"k", b"{}", headers)], 0, "")
    await writer.stop()
    consumer = AIOKafkaConsumer(**kafka_arguments(settings.kafka), isolation_level="read_committed")
    await consumer.start()
    try:
        places = [TopicPartition(settings.topics.completions, one) for one in range(12)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        async with asyncio.timeout(LIMIT_S):
            record = await consumer.getone()
    finally:
        await consumer.stop()
    assert record.headers == headers


def test_absent_values_and_foreign_names_are_kept_apart() -> None:
    given = [("correlationId", None), ("correlationId", b""), ("caf\udce9", b"x"), ("baggage", b"a=b")]
    kept, warning = echoed(given, ECHOED_BY_DEFAULT)
    assert (list(kept), warning) == ([given[0], given[1], given[3]], None)
    assert echoed(given, ()) == ((), None)


def test_the_number_is_bounded_as_well() -> None:
    kept, warning = echoed([("correlationId", str(one).encode()) for one in range(100)], ECHOED_BY_DEFAULT)
    assert [value for _, value in kept] == [str(one).encode() for one in range(ECHOED_HEADERS_MAX)]
    assert warning is not None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ce_id", "of their own"),
        ("CE-Type", "of their own"),
        ("Content-Type", "of their own"),
        ("darkroom_source_topic", "of their own"),
        ("traceparent", "of their own"),
        ("x-*", "no wildcards"),
        ("naïve", "ASCII"),
        ("x" * 101, "1-100"),
    ],
)
def test_a_requester_cannot_replace_what_a_completion_says_of_itself(name: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load_settings(environ={"DARKROOM_KAFKA__ECHO_HEADERS": f"correlationId,{name}"})


def test_the_setting_replaces_the_list() -> None:
    settings = load_settings(environ={"DARKROOM_KAFKA__ECHO_HEADERS": "x-order, X-Shop"})
    assert settings.kafka.echo_headers == ("x-order", "X-Shop")
    as_json = load_settings(environ={"DARKROOM_KAFKA__ECHO_HEADERS": '["x-order", "X-Shop"]'})
    assert as_json.kafka.echo_headers == settings.kafka.echo_headers
    assert load_settings(environ={}).kafka.echo_headers == ECHOED_BY_DEFAULT
