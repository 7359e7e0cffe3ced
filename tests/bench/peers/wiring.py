"""Where a peer finds Kafka and the store: its environment, as any twelve-factor worker has it."""

from __future__ import annotations

import asyncio
import io
import json
import os
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from minio import Minio

from tests.bench.peers.painting import Request


def consumer() -> AIOKafkaConsumer:
    """A member of the group, which commits by itself when its work is done: at least once."""
    return AIOKafkaConsumer(
        os.environ["REQUESTS_TOPIC"],
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        group_id=os.environ["GROUP_ID"],
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )


class Publisher:
    """Puts a picture into the bucket, then its completion on the topic."""

    def __init__(self) -> None:
        """On a running event loop."""
        self._minio = Minio(
            os.environ["S3_ENDPOINT"],
            os.environ["S3_ACCESS_KEY"],
            os.environ["S3_SECRET_KEY"],
            secure=False,
        )
        self._bucket = os.environ["S3_BUCKET"]
        self._topic = os.environ["COMPLETIONS_TOPIC"]
        self._producer = AIOKafkaProducer(bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"], acks="all")

    async def __aenter__(self) -> Publisher:
        await self._producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()

    async def publish(self, request: Request, picture: bytes) -> None:
        """Returns when both are there."""
        key = f"peers/{request['request_id']}.png"
        await asyncio.to_thread(
            self._minio.put_object, self._bucket, key, io.BytesIO(picture), len(picture), "image/png"
        )
        value: dict[str, Any] = {"request_id": request["request_id"], "status": "succeeded", "key": key}
        await self._producer.send_and_wait(self._topic, json.dumps(value).encode(), key=request["request_id"].encode())


def say_ready() -> None:
    """For whoever waits for it in the log."""
    print("ready", flush=True)
