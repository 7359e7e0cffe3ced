"""What the tests do with a stack: a record through Kafka, an object through S3."""

from __future__ import annotations

import asyncio
import io
import uuid
from collections.abc import Mapping

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from minio import Minio


async def make_topic(bootstrap: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()


async def produce(bootstrap: str, topic: str, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value)
    finally:
        await producer.stop()


async def first_value(bootstrap: str, topic: str) -> bytes | None:
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=f"readers-{uuid.uuid4()}", auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        record = await asyncio.wait_for(consumer.getone(), 30)
    finally:
        await consumer.stop()
    return record.value  # type: ignore[no-any-return]


def s3_client(environment: Mapping[str, str]) -> Minio:
    return Minio(
        environment["DARKROOM_S3__ENDPOINT"].removeprefix("http://"),
        access_key=environment["DARKROOM_S3__ACCESS_KEY"],
        secret_key=environment["DARKROOM_S3__SECRET_KEY"],
        secure=False,
    )


def put(environment: Mapping[str, str], key: str, content: bytes) -> None:
    s3_client(environment).put_object(environment["DARKROOM_S3__BUCKET"], key, io.BytesIO(content), len(content))


def get(environment: Mapping[str, str], key: str) -> bytes:
    answer = s3_client(environment).get_object(environment["DARKROOM_S3__BUCKET"], key)
    try:
        return answer.read()
    finally:
        answer.close()
        answer.release_conn()
