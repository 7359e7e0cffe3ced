"""Records as products wrote them, byte for byte: taken from their wire."""

from __future__ import annotations

from tests.strangers.records import Answer, Sent
from tests.strangers.table import Stranger

SAMPLES: list[Stranger[Sent, Answer]] = [
    Stranger(
        "header-without-value",
        "Debezium 3.4.3 outbox router with a NULL column placed in a header; also sarama 1.61.1",
        Sent(
            b'{"request_id": "order-1", "prompt": "a dancer", "steps": 2}',
            (("id", b"d6753ccd"), ("tenant", None)),
            key=b"order-1",
        ),
        Answer("order-1"),
    ),
    Stranger(
        "header-without-value-refused",
        "Debezium 3.4.3 outbox router, of a record that is refused",
        Sent(b'{"prompt":"x"}', (("tenant", None),)),
        Answer(None, says="request_id: is missing"),
    ),
    Stranger(
        "header-name-not-utf8",
        "franz-go 1.22.3, whose strings hold any bytes",
        Sent(b'{"request_id": "order-2", "prompt": "a dancer", "steps": 2}', (("caf\udce9", b"x"),)),
        Answer("order-2"),
    ),
    Stranger(
        "envelope-as-application-json",
        "cloudevents (Python) 1.12.0 to_structured, and cloudevents.v1.kafka of 2.2.0",
        Sent(
            b'{"specversion": "1.0", "type": "darkroom.generation.requested.v1", "source": "/shop"'
            b', "id": "794ffee6", "time": "2026-11-30T10:21:23.202473+00:00", "data": {"request_id'
            b'": "order-5", "prompt": "a dancer", "steps": 2}}',
            (("content-type", b"application/json"),),
        ),
        Answer("order-5", event_id="794ffee6"),
    ),
    Stranger(
        "envelope-without-content-type",
        "cloudevents (Python) 1.12.0 without datacontenttype",
        Sent(
            b'{"specversion": "1.0", "type": "darkroom.generation.requested.v1", "source": "/shop"'
            b', "id": "794ffee6", "time": "2026-11-30T10:21:23.202473+00:00", "data": {"request_id'
            b'": "order-6", "prompt": "a dancer", "steps": 2}}'
        ),
        Answer("order-6", event_id="794ffee6"),
    ),
    Stranger(
        "dapr-envelope",
        "Dapr components-contrib 1.18.0 pubsub/kafka with NewCloudEventsEnvelope",
        Sent(
            b'{"specversion": "1.0", "type": "darkroom.generation.requested.v1", "source": "/shop"'
            b', "id": "794ffee6", "time": "2026-11-30T10:21:23.202473+00:00", "data": {"request_id'
            b'": "order-7", "prompt": "a dancer", "steps": 2}, "datacontenttype": "application/jso'
            b'n", "pubsubname": "ps", "topic": "generation.requests", "traceid": "00-0af7651916cd4'
            b'3dd8448eb211c80319c-b7ad6b7169203331-01", "traceparent": "00-0af7651916cd43dd8448eb2'
            b'11c80319c-b7ad6b7169203331-01", "tracestate": ""}',
            (("partitionKey", b"order-7"),),
            key=b"order-7",
        ),
        Answer("order-7", event_id="794ffee6"),
    ),
    Stranger(
        "structured-data-is-json-text",
        "SmallRye reactive messaging 4.28.0 structured mode with a String payload",
        Sent(
            b'{"specversion": "1.0", "type": "darkroom.generation.requested.v1", "source": "/shop"'
            b', "id": "794ffee6", "time": "2026-11-30T10:21:23.202473+00:00", "data": "{\\"request_'
            b'id\\": \\"order-8\\", \\"prompt\\": \\"a dancer\\", \\"steps\\": 2}", "datacontenttype": "app'
            b'lication/json"}',
            (("content-type", b"application/cloudevents+json; charset=UTF-8"),),
        ),
        Answer("order-8", event_id="794ffee6"),
    ),
    Stranger(
        "encoded-twice",
        "spring-kafka 4.0.6 JacksonJsonSerializer given a String",
        Sent(
            b'"{\\"request_id\\": \\"order-9\\", \\"prompt\\": \\"a dancer\\", \\"steps\\": 2}"',
            (("__TypeId__", b"java.lang.String"),),
            key=b"order-9",
        ),
        Answer("order-9"),
    ),
    Stranger(
        "connect-envelope-struct",
        "Kafka Connect 4.2.1 JsonConverter with its default schemas.enable=true, payload expanded",
        Sent(
            b'{"schema": {"type": "struct", "fields": [{"type": "string", "optional": true, "field'
            b'": "request_id"}, {"type": "string", "optional": true, "field": "prompt"}, {"type": '
            b'"int32", "optional": true, "field": "steps"}], "optional": true, "name": "payload"},'
            b' "payload": {"request_id": "order-10", "prompt": "a dancer", "steps": 2}}',
            key=b"order-10",
        ),
        Answer("order-10"),
    ),
    Stranger(
        "schema-registry-prefix",
        "confluent-kafka 2.16.1 JSONSerializer; Apicurio 3.1.7 JsonSchemaKafkaSerializer",
        Sent(b'\x00\x00\x00\x00\x01{"request_id": "order-12", "prompt": "a dancer", "steps": 2}', key=b"order-12"),
        Answer("order-12"),
    ),
    Stranger(
        "content-type-in-quotes",
        "spring-kafka 4.0.6, header given as MimeType",
        Sent(
            b'{"request_id": "order-14", "prompt": "a dancer", "steps": 2}',
            (
                ("content-type", b'"application/json"'),
                ("spring_json_header_types", b'{"content-type":"java.lang.String"}'),
                ("__TypeId__", b"x.App$Req"),
            ),
        ),
        Answer("order-14"),
    ),
    Stranger(
        "ce-attributes-in-quotes",
        "spring-kafka 4.0.6, ce_id a UUID, ce_time an OffsetDateTime, ce_source a URI",
        Sent(
            b'{"request_id": "order-15", "prompt": "a dancer", "steps": 2}',
            (
                ("ce_specversion", b"1.0"),
                ("ce_type", b"darkroom.generation.requested.v1"),
                ("ce_id", b'"2c3d46f8-8cb7-4389-b8ff-480617a87e0d"'),
                ("ce_source", b'"/spring"'),
                ("ce_time", b'"2026-11-30T10:31:47.984207625Z"'),
            ),
        ),
        Answer("order-15", event_id="2c3d46f8-8cb7-4389-b8ff-480617a87e0d"),
    ),
    Stranger(
        "text-plain",
        "FastStream 0.7.8 publish(str); sdk-go with TextPlain",
        Sent(
            b'{"request_id": "order-16", "prompt": "a dancer", "steps": 2}',
            (("content-type", b"text/plain"), ("correlation_id", b"d037a9af")),
        ),
        Answer("order-16"),
    ),
    Stranger(
        "nulls-of-a-generated-client",
        "quicktype 26.0.0 (Java with Jackson; Rust with serde) from our schema",
        Sent(
            b'{"adapter": null, "control_end": null, "control_scale": null, "control_start": null,'
            b' "count": null, "deadline": null, "guidance_scale": null, "height": null, "labels": '
            b'null, "negative_prompt": null, "output": null, "pose": null, "preset": null, "priori'
            b'ty": null, "progress": null, "sampler": null, "seed": null, "steps": null, "tenant":'
            b' null, "width": null, "request_id": "order-17", "prompt": "a dancer"}',
            key=b"order-17",
        ),
        Answer("order-17"),
    ),
    Stranger(
        "labels-null-of-a-generated-client",
        "datamodel-code-generator 0.89.0 (pydantic v2 and dataclasses) from our schema",
        Sent(
            b'{"request_id": "order-18", "tenant": "default", "prompt": "x", "negative_prompt": nu'
            b'll, "preset": "fast", "width": null, "height": null, "steps": null, "guidance_scale"'
            b': 5.0, "sampler": "euler_ancestral", "seed": null, "count": 1, "pose": null, "contro'
            b'l_scale": 1.0, "control_start": 0.0, "control_end": 1.0, "adapter": null, "output": '
            b'{"format": "png", "quality": 90}, "priority": 4, "deadline": null, "progress": "none'
            b'", "labels": null}',
            key=b"order-18",
        ),
        Answer("order-18"),
    ),
    Stranger(
        "whole-numbers-with-a-point",
        "Gson 2.8.9 (Map and back), protobuf-java-util 3.21.10 JsonFormat of a Struct",
        Sent(b'{"request_id":"order-19","prompt":"x","steps":20.0,"seed":7.0,"count":1.0}', key=b"order-19"),
        Answer("order-19"),
    ),
    Stranger(
        "timestamp-in-seconds",
        "confluent-kafka 2.16.1 given timestamp=int(time.time())",
        Sent(b'{"request_id": "order-20", "prompt": "a dancer", "steps": 2}', key=b"order-20", timestamp_ms=1796034079),
        Answer("order-20", worker_says="milliseconds since 1970"),
    ),
    Stranger(
        "hyphen-attributes",
        "Spring Cloud Function 5.0.5 CloudEventMessageBuilder.build() through StreamBridge",
        Sent(
            b'{"request_id": "order-21", "prompt": "a dancer", "steps": 2}',
            (
                ("ce-id", b"1624db11"),
                ("ce-type", b"darkroom.generation.requested.v1"),
                ("ce-source", b"/spring"),
                ("ce-specversion", b"1.0"),
                ("ce-time", b"2026-11-30T10:31:47.237037506Z"),
            ),
        ),
        Answer("order-21", event_id="1624db11", says="as over HTTP"),
    ),
    Stranger(
        "batch",
        "cloudevents (npm) 10.0.0, an array with application/cloudevents-batch+json",
        Sent(
            b'[{"specversion": "1.0", "type": "darkroom.generation.requested.v1", "source": "/shop'
            b'", "id": "794ffee6", "time": "2026-11-30T10:21:23.202473+00:00", "data": {"request_i'
            b'd": "order-22", "prompt": "a dancer", "steps": 2}}]',
            (("content-type", b"application/cloudevents-batch+json"),),
        ),
        Answer("order-22", is_refused=True, says="one event a record"),
    ),
]
