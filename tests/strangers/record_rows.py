"""Records in the envelopes and dialects of other products, made after their documentation. `test_records` runs them."""

from __future__ import annotations

import base64
import gzip
import json
import zlib

from tests.strangers.record_samples import SAMPLES
from tests.strangers.records import ENVELOPE, OWN, PAINTED, Answer, Sent, made, refused, text
from tests.strangers.table import Stranger

GLUE_ID = bytes.fromhex("b7b4a7f05e114d4e8e0b7d2a8e7f3c11")

FRAMED: list[Stranger[Sent, Answer]] = [
    made(
        "apicurio-8-bytes",
        "Apicurio 2.6 with its 8-byte id handler",
        lambda r, v: Sent(b"\0" + bytes(7) + b"\x05" + v),
        PAINTED,
    ),
    made("registry-guid", "Confluent wire format 1", lambda r, v: Sent(b"\x01" + GLUE_ID + v), PAINTED),
    made("glue", "AWS Glue serializer 1.1", lambda r, v: Sent(b"\x03\0" + GLUE_ID + v), PAINTED),
    made(
        "glue-zlib",
        "AWS Glue serializer 1.1, ZLIB",
        lambda r, v: Sent(b"\x03\x05" + GLUE_ID + zlib.compress(v)),
        PAINTED,
    ),
    made(
        "glue-inflates-too-far",
        "AWS Glue serializer 1.1, ZLIB",
        lambda r, v: Sent(b"\x03\x05" + GLUE_ID + zlib.compress(bytes(50_000_000))),
        refused("more than 1048576 bytes"),
    ),
    made(
        "glue-cut-off",
        "AWS Glue serializer 1.1, ZLIB",
        lambda r, v: Sent(b"\x03\x05" + GLUE_ID + zlib.compress(v)[:-6]),
        refused("cut off"),
    ),
    made(
        "registry-avro",
        "Confluent KafkaAvroSerializer 8.0",
        lambda r, v: Sent(b"\0\0\0\0\x07\x10order-99\x10a dancer"),
        refused("JSON Schema serializer"),
    ),
    made(
        "frame-around-event",
        "Confluent JSONSerializer 2.16",
        lambda r, v: Sent(b"\0\0\0\0\x01" + text({**ENVELOPE, "data": r})),
        Answer(OWN, "event-99"),
    ),
]

ENVELOPES: list[Stranger[Sent, Answer]] = [
    made(
        "connect-around-event",
        "Kafka Connect 4.2 without a schema",
        lambda r, v: Sent(text({"schema": None, "payload": {**ENVELOPE, "data": r}})),
        Answer(OWN, "event-99"),
    ),
    made(
        "connect-string",
        "Kafka Connect 4.2, StringConverter upstream",
        lambda r, v: Sent(text({"schema": {"type": "string", "optional": False}, "payload": v.decode()})),
        PAINTED,
    ),
    made(
        "connect-bytes",
        "Kafka Connect 4.2, ByteArrayConverter upstream",
        lambda r, v: Sent(
            text({"schema": {"type": "bytes", "optional": False}, "payload": base64.b64encode(v).decode()})
        ),
        PAINTED,
    ),
    made(
        "connect-tombstone",
        "Kafka Connect 4.2",
        lambda r, v: Sent(text({"schema": None, "payload": None})),
        refused("without a payload"),
    ),
    made(
        "event-with-both-members",
        "cloudevents-json-jackson 4.0 with nulls",
        lambda r, v: Sent(text({**ENVELOPE, "data": r, "data_base64": None})),
        Answer(OWN, "event-99"),
    ),
    made(
        "event-in-base64",
        "Dapr 1.18 rawPayload",
        lambda r, v: Sent(text({**ENVELOPE, "data_base64": base64.b64encode(v).decode()})),
        Answer(OWN, "event-99"),
    ),
    made(
        "event-without-data",
        "cloudevents 1.12",
        lambda r, v: Sent(text(ENVELOPE)),
        refused("either data or data_base64"),
    ),
    made(
        "dapr-default-type",
        "Dapr 1.18",
        lambda r, v: Sent(text({**ENVELOPE, "type": "com.dapr.event.sent", "data": r})),
        refused("cloudevent.type=", OWN),
    ),
    made(
        "event-around-event",
        "two CloudEvents 1.0 producers in a row",
        lambda r, v: Sent(text({**ENVELOPE, "data": {**ENVELOPE, "id": "inner", "data": r}})),
        Answer(OWN, "event-99"),
    ),
    made(
        "encoded-six-times-over",
        "json 3.11",
        lambda r, v: Sent(text(json.dumps(json.dumps(json.dumps(json.dumps(json.dumps(json.dumps(r)))))))),
        refused("more than 5 envelopes"),
    ),
    made(
        "array-of-requests",
        "json.dumps of a list, Python 3.11",
        lambda r, v: Sent(text([r, {**r, "request_id": "order-98"}])),
        refused("one request a record"),
    ),
    made(
        "debezium-change-event",
        "Debezium 3.4 PostgreSQL connector",
        lambda r, v: Sent(text({"before": None, "after": r, "source": {}, "op": "c"})),
        refused("ExtractNewRecordState"),
    ),
    made(
        "mass-transit",
        "MassTransit 8.5",
        lambda r, v: Sent(text({"messageId": "1", "messageType": ["urn:message:X"], "message": r})),
        refused("member 'message'"),
    ),
    made(
        "sns",
        "Amazon SNS 2010-03-31",
        lambda r, v: Sent(text({"Type": "Notification", "Message": v.decode()})),
        refused("member 'Message'"),
    ),
]

HEADERS: list[Stranger[Sent, Answer]] = [
    *(
        made(
            f"stray-{name}",
            "tracing and audit interceptors, CloudEvents 1.0",
            lambda r, v, name=name, value=value: Sent(v, ((f"ce_{name}", value),)),
            Answer(OWN, says="makes no event"),
        )
        for name, value in (
            ("id", b"7"),
            ("type", b"order.created"),
            ("source", b"/shop"),
            ("specversion", b"1.0"),
            ("time", b"2026-11-30T12:00:00Z"),
        )
    ),
    made(
        "octet-stream",
        "clients that send bytes, RFC 2046",
        lambda r, v: Sent(v, (("Content-Type", b"application/octet-stream"),)),
        PAINTED,
    ),
    made(
        "names-in-capitals",
        "librdkafka 2.12",
        lambda r, v: Sent(
            v,
            (
                ("CE_ID", b"event-99"),
                ("CE_Type", b"darkroom.generation.requested.v1"),
                ("Ce_SpecVersion", b"1.0"),
                ("ce_source", b"/shop"),
                ("CONTENT-TYPE", b"Application/JSON"),
            ),
        ),
        Answer(OWN, "event-99"),
    ),
    made(
        "quoted-wrong-type",
        "spring-kafka 4.0.6",
        lambda r, v: Sent(
            v, (("ce_specversion", b"1.0"), ("ce_type", b'"order.created"'), ("ce_id", b"1"), ("ce_source", b"/"))
        ),
        refused("'order.created'", OWN),
    ),
    made(
        "amqp-names",
        "CloudEvents AMQP binding 1.0.2, by a bridge",
        lambda r, v: Sent(
            v,
            (
                ("cloudEvents:specversion", b"1.0"),
                ("cloudEvents:type", b"darkroom.generation.requested.v1"),
                ("cloudEvents:id", b"event-99"),
                ("cloudEvents:source", b"/shop"),
            ),
        ),
        Answer(OWN, "event-99", says="as over HTTP or AMQP"),
    ),
    made(
        "name-twice-last-absent",
        "franz-go 1.22",
        lambda r, v: Sent(v, (("content-type", b"application/json"), ("content-type", None))),
        PAINTED,
    ),
    made(
        "avro-content-type",
        "Apicurio 3.1",
        lambda r, v: Sent(v, (("content-type", b"application/avro"),)),
        refused("use application/json", OWN),
    ),
]

NOT_JSON: list[Stranger[Sent, Answer]] = [
    made(name, writer, make, refused(says))
    for name, writer, make, says in [
        ("empty", "kcat 1.7", lambda r, v: b"", "is empty"),
        ("gzip", "zlib 1.3", lambda r, v: gzip.compress(v, mtime=0), "compression.type"),
        (
            "utf-16",
            "Confluent.Kafka 2.12 with Encoding.Unicode",
            lambda r, v: v.decode().encode("utf-16"),
            "value.serializer.encoding",
        ),
        (
            "utf-16-without-mark",
            "Confluent.Kafka 2.12 with UnicodeEncoding",
            lambda r, v: v.decode().encode("utf-16-be"),
            "UTF-16",
        ),
        (
            "latin-1",
            "kafka-clients 4.1 with getBytes(ISO_8859_1)",
            lambda r, v: '{"request_id": "order-99", "prompt": "café"}'.encode("latin-1"),
            "Latin-1",
        ),
        ("object-as-text", "kafkajs 2.2.4 with String(request)", lambda r, v: b"[object Object]", "JSON.stringify"),
        ("nothing-as-text", "kafkajs 2.2.4 with `${request}`", lambda r, v: b"undefined", "JSON.stringify"),
        (
            "camel-case",
            "Jackson 2.20, a bean without a naming strategy",
            lambda r, v: b'{"requestId": "order-99", "prompt": "a dancer"}',
            "'requestId' stands there: it is spelt request_id",
        ),
        (
            "pascal-case",
            "System.Text.Json 10",
            lambda r, v: b'{"RequestId": "order-99", "Prompt": "a dancer"}',
            "'Prompt' stands there: it is spelt prompt",
        ),
        ("python-repr", "kafka-python 2.3 with str()", lambda r, v: repr({**r, "seed": None}).encode(), "json.dumps"),
        (
            "java-map",
            "StringSerializer of Map.toString(), Java 21",
            lambda r, v: b"{request_id=order-99, prompt=a dancer}",
            "JSON serializer",
        ),
        (
            "connect-struct",
            "Kafka Connect 4.2 StringConverter",
            lambda r, v: b"Struct{request_id=order-99,prompt=a dancer}",
            "schemas.enable=false",
        ),
        ("xml", "Camel 4.14", lambda r, v: b"<request><id>order-99</id></request>", "XML"),
        ("message-pack", "msgpack 1.1", lambda r, v: b"\x82\xaarequest_id\xa8order-99\xa6prompt\xa1p", "MessagePack"),
        ("cbor", "cbor2 5.7", lambda r, v: b"\xa1jrequest_idhorder-99", "CBOR"),
        (
            "java-object",
            "Java 21 ObjectOutputStream",
            lambda r, v: b"\xac\xed\x00\x05sr\x00\x11java.util.HashMap",
            "value.serializer",
        ),
        ("pickle", "Python 3.11 pickle", lambda r, v: b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}", "json.dumps"),
        ("protobuf", "protobuf 6.33", lambda r, v: b"\n\x08order-99\x12\x08a dancer", "binary format"),
        ("lines", "a file of JSON lines, kcat 1.7 -l", lambda r, v: v + b"\n" + v, "each request as its own record"),
        (
            "comments",
            "VS Code 1.106 settings style",
            lambda r, v: b'{"request_id": OWN, // the id\n"prompt": "p"}',
            "comments",
        ),
        ("base64", "Kafka REST Proxy 8.1 binary format", lambda r, v: base64.b64encode(v), "base64"),
    ]
]

DIALECTS: list[Stranger[Sent, Answer]] = [
    made(name, writer, make, PAINTED if says is None else refused(says, OWN))
    for name, writer, make, says in [
        ("byte-order-mark", "Utf8JsonWriter behind a StreamWriter, .NET 10", lambda r, v: b"\xef\xbb\xbf" + v, None),
        ("final-zero", "librdkafka 2.12 with sizeof", lambda r, v: v + b"\0", None),
        ("line-end", "kcat 1.7", lambda r, v: v + b"\r\n", None),
        (
            "exponent",
            "SQL engines with DOUBLE, DuckDB 1.4",
            lambda r, v: text(r).replace(b'"steps": 2', b'"seed": 1e3, "steps": 2.0'),
            None,
        ),
        ("minus-zero", "Gson 2.8.9", lambda r, v: text({**r, "seed": -0.0}), None),
        (
            "nested-null",
            "Jackson 3.0",
            lambda r, v: text({**r, "output": {"format": None, "quality": None}, "pose": None}),
            None,
        ),
        (
            "union-members-null",
            "quicktype 26.0.0",
            lambda r, v: text(
                {**r, "pose": {"people": [[[0.5, 0.5]] * 18], "format": None, "image": None, "photo": None}}
            ),
            None,
        ),
        (
            "no-seconds",
            "Java 21 OffsetDateTime.toString()",
            lambda r, v: text({**r, "deadline": "2027-01-31T12:00Z"}),
            None,
        ),
        (
            "zone-in-brackets",
            "Java 21 ZonedDateTime.toString()",
            lambda r, v: text({**r, "deadline": "2027-01-31T12:00+01:00[Europe/Paris]"}),
            None,
        ),
        (
            "offset-without-colon",
            "Jackson 2.9",
            lambda r, v: text({**r, "deadline": "2027-01-31T12:00:00.000+0000"}),
            None,
        ),
        ("sql-time", "PostgreSQL 18", lambda r, v: text({**r, "deadline": "2027-01-31 12:00:00.5+00"}), None),
        ("named-zone", "Ruby 3.4 Time#to_s", lambda r, v: text({**r, "deadline": "2027-01-31 12:00:00 UTC"}), None),
        (
            "local-time",
            "Java 21 LocalDateTime.toString()",
            lambda r, v: text({**r, "deadline": "2027-01-31T12:00:00"}),
            "no time zone",
        ),
        (
            "local-time-as-list",
            "Jackson 2.20 LocalDateTime",
            lambda r, v: text({**r, "deadline": [2027, 1, 31, 12, 0]}),
            "WRITE_DATES_AS_TIMESTAMPS",
        ),
        ("unix-time", "Jackson 2.20 Instant", lambda r, v: text({**r, "deadline": 1801396800.0}), "WRITE_DATES"),
        ("fraction", "pandas 3.0", lambda r, v: text({**r, "steps": 7.5}), "not a fraction"),
        ("digits-in-text", "CSV readers, papaparse 5.5", lambda r, v: text({**r, "steps": "22"}), "integer, not text"),
        ("true-for-one", "PHP 8.5", lambda r, v: text({**r, "count": True}), "not true or false"),
        (
            "beyond-double",
            "Python 3.11 Decimal",
            lambda r, v: text(r).replace(b"}", b', "guidance_scale": 1e400}'),
            "finite",
        ),
        ("name-twice", "Jackson 3.0 with an any-getter", lambda r, v: text(r).replace(b"}", b', "steps": 3}'), "twice"),
        ("nan", "Python 3.11 json", lambda r, v: text({**r, "guidance_scale": float("nan")}), "NaN"),
    ]
]

TIMES: list[Stranger[Sent, Answer]] = [
    made(
        "microseconds",
        "time.time_ns() // 1000, Python 3.11",
        lambda r, v: Sent(v, timestamp_ms=1_796_034_079_000_000),
        Answer(OWN, worker_says="a day ahead"),
    ),
    made(
        "clock-of-a-board-without-battery",
        "a clock without a battery, which begins in 2000",
        lambda r, v: Sent(v, timestamp_ms=946_684_800_000),
        Answer(OWN, worker_says="before Darkroom's"),
    ),
    made(
        "year-one-in-the-event",
        "Go 1.25 time.Time{} in CloudEvents",
        lambda r, v: Sent(
            v,
            (
                ("ce_specversion", b"1.0"),
                ("ce_type", b"darkroom.generation.requested.v1"),
                ("ce_id", b"e"),
                ("ce_source", b"/"),
                ("ce_time", b"1970-01-01T00:00:00Z"),
            ),
        ),
        Answer(OWN, "e", worker_says="1970-01-01T00:00:00+00:00, is before"),
    ),
]

TABLE = [*SAMPLES, *FRAMED, *ENVELOPES, *HEADERS, *NOT_JSON, *DIALECTS, *TIMES]
