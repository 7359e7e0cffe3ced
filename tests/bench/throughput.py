"""Requests a second: the worker under backlog, and beside it the bare parts that bound it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from darkroom.consumer.core import effects as do
from darkroom.consumer.core import events as on
from darkroom.consumer.kafka.broker import KafkaBroker
from darkroom.consumer.worker.ports import Broker
from darkroom.consumer.worker.worker import Worker
from darkroom.inference.engine import LaneEngine
from darkroom.inference.resolve import resolve
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.inference.types import EngineEvent, JobPrepared, JobRendered, RenderJob, RowId
from darkroom.producer.client.client import Client
from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.store.memory_objects import MemoryObjects
from darkroom.producer.store.objects import Objects
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import Settings
from tests.integration.fleet import Fleet

ROWS_MAX = 8
STEP_MS = 20.0
CONCURRENT_PUTS = 16
PICTURE_BYTES = 1_500
"""About what the simulated device's picture has."""


def mixed_load(count: int, seed: int) -> list[GenerationRequest]:
    """Requests of 20, 25, 30 and 40 steps and of several guidance scales, the same for the same seed."""
    rng = random.Random(seed)
    serial = uuid.uuid4().hex[:8]
    return [
        GenerationRequest(
            request_id=f"{serial}-{number}",
            prompt="a figure",
            steps=rng.choice((20, 25, 30, 40)),
            guidance_scale=rng.choice((1.0, 5.0, 7.5)),
        )
        for number in range(count)
    ]


async def against_memory(environment: Mapping[str, str], count: int, seed: int) -> dict[str, float]:
    """The worker's time for a backlog over the engine's for the same rows, handed to it all at once."""
    load = mixed_load(count, seed)
    settings = Fleet(environment, Path(), DARKROOM_BATCH__MAX_ROWS=str(ROWS_MAX)).settings
    engine_s = await asyncio.to_thread(_engine_alone, load, settings)
    worker = await worker_under_backlog(settings, load, STEP_MS, MinioObjects(settings.s3))
    return {
        "requests": count,
        "engine_seconds": engine_s,
        "worker_seconds": worker["seconds"],
        "ratio": engine_s / worker["seconds"],
        "device_busy_ratio": worker["busy_seconds"] / worker["seconds"],
    }


async def without_delay(environment: Mapping[str, str], count: int, seed: int, *, store: bool) -> dict[str, float]:
    """Requests a second with a device that takes no time."""
    settings = Fleet(environment, Path()).settings
    objects: Objects = MinioObjects(settings.s3) if store else MemoryObjects()
    result = await worker_under_backlog(settings, mixed_load(count, seed), 0.0, objects)
    return {
        "requests": count,
        "per_second": count / result["seconds"],
        "cpu_ms_per_request": result["cpu_seconds"] / count * 1000,
        "transactions": result["transactions"],
    }


async def worker_under_backlog(
    settings: Settings,
    load: list[GenerationRequest],
    step_ms: float,
    objects: Objects,
    make_broker: Callable[..., Broker] = KafkaBroker,
) -> dict[str, float]:
    """Fill the topic, then let a worker take it: from its first record to its last committed transaction."""
    await ensure_topics(settings)
    async with Client(settings, follow=False) as client:
        await client.send(load)
    if isinstance(objects, MinioObjects):
        await objects.ensure_bucket(retention_days=settings.s3.retention_days)
    engine = LaneEngine(SimulatedDevice(step_ms), rows_max=settings.batch.max_rows)
    worker = Worker(settings, engine, objects, make_broker=make_broker)
    clock = _Clock(len(load))
    worker.driver.observers.append(clock.observe)
    started_cpu = 0.0
    running = asyncio.create_task(worker.run())
    try:
        await clock.began.wait()
        started_cpu = sum(psutil.Process().cpu_times()[:2])
        async with asyncio.timeout(600):
            await clock.ended.wait()
        cpu_s = sum(psutil.Process().cpu_times()[:2]) - started_cpu
        busy_s = worker.metrics.registry.get_sample_value("darkroom_step_seconds_sum") or 0.0
        worker.drain()
        await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        if isinstance(objects, MinioObjects):
            objects.close()
    seconds = clock.seconds
    return {"seconds": seconds, "cpu_seconds": cpu_s, "busy_seconds": busy_s, "transactions": clock.transactions}


class _Clock:
    """From the first record that arrives to the publication of the last."""

    def __init__(self, count: int) -> None:
        self.began, self.ended = asyncio.Event(), asyncio.Event()
        self.transactions = 0
        self.seconds = 0.0
        self._left = count
        self._started = 0.0
        self._publishing: dict[tuple[Any, int], int] = {}

    def observe(self, event: on.Event, effects: tuple[do.Effect, ...]) -> None:
        if isinstance(event, on.RecordArrived) and not self.began.is_set():
            self._started = time.perf_counter()
            self.began.set()
        if isinstance(event, on.Published):
            self.transactions += 1
            self._left -= self._publishing.pop((event.partition, event.epoch), 0)
            if self._left == 0:
                self.seconds = time.perf_counter() - self._started
                self.ended.set()
        for effect in effects:
            if isinstance(effect, do.Publish):
                self._publishing[effect.partition, effect.epoch] = len(effect.jobs)


def _engine_alone(load: list[GenerationRequest], settings: Settings) -> float:
    """The same rows from memory: prepared and admitted at once, in order."""
    engine = LaneEngine(SimulatedDevice(STEP_MS), rows_max=ROWS_MAX)
    done = threading.Semaphore(0)

    def listen(event: EngineEvent) -> None:
        if isinstance(event, JobPrepared):
            engine.admit([RowId(event.job_id, 0)])
        elif isinstance(event, JobRendered):
            done.release()

    engine.start(listen)
    started = time.perf_counter()
    for number, request in enumerate(load):
        engine.prepare(RenderJob(str(number), resolve(request, engine.info, settings.limits)))
    for _ in load:
        done.acquire()
    seconds = time.perf_counter() - started
    engine.close()
    return seconds


async def bare_transactions(environment: Mapping[str, str], count: int) -> dict[str, float]:
    """Consume, produce and commit in transactions of up to 64 records a partition, as the worker does, and no more."""
    settings = Fleet(environment, Path()).settings
    await ensure_topics(settings)
    async with Client(settings, follow=False) as client:
        await client.send(mixed_load(count, 1))
    arguments, group = kafka_arguments(settings.kafka), settings.kafka.group_id
    consumer = AIOKafkaConsumer(
        settings.topics.requests,
        **arguments,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await consumer.start()
    producers: dict[TopicPartition, AIOKafkaProducer] = {}
    value = _completion_bytes()
    for partition in consumer.assignment():
        name = f"{group}-{partition.topic}-{partition.partition}"
        producers[partition] = AIOKafkaProducer(**arguments, transactional_id=name)
        await producers[partition].start()
    done, transactions = 0, 0
    started = time.perf_counter()
    while done < count:
        batches = await consumer.getmany(timeout_ms=200, max_records=64 * len(producers))
        publications = [
            _publish(producers[partition], settings.topics.completions, records[at : at + 64], group, partition, value)
            for partition, records in batches.items()
            for at in range(0, len(records), 64)
        ]
        # A partition's transactions are serial; those of different partitions are not.
        for one in publications:
            await one
        done += sum(len(records) for records in batches.values())
        transactions += len(publications)
    seconds = time.perf_counter() - started
    for producer in producers.values():
        await producer.stop()
    await consumer.stop()
    return {"requests": count, "per_second": count / seconds, "transactions": transactions}


async def _publish(
    producer: AIOKafkaProducer, topic: str, records: list[Any], group: str, partition: TopicPartition, value: bytes
) -> None:
    async with producer.transaction():
        sent = [await producer.send(topic, value=value, key=record.key) for record in records]
        offset = OffsetAndMetadata(records[-1].offset + 1, "")
        await producer.send_offsets_to_transaction({partition: offset}, group)
        await asyncio.gather(*sent)


def _completion_bytes() -> bytes:
    example = Completion.model_json_schema()["examples"][0]
    return Completion.model_validate_json(json.dumps(example)).model_dump_json().encode()


async def bare_puts(environment: Mapping[str, str], count: int) -> dict[str, float]:
    """The store's own speed: plain puts, and the three calls that a request takes (look up, picture, outcome)."""
    settings = Fleet(environment, Path()).settings
    objects = MinioObjects(settings.s3)
    serial = uuid.uuid4().hex[:8]
    picture = random.Random(1).randbytes(PICTURE_BYTES)
    outcome = _completion_bytes()

    async def put(number: int) -> None:
        await objects.put(f"bench/{serial}/{number}.png", picture, "image/png")

    async def request(number: int) -> None:
        await objects.get(f"bench/{serial}/{number}/result.json", bytes_max=1 << 20)
        await objects.put(f"bench/{serial}/{number}/0.png", picture, "image/png")
        await objects.put_if_absent(f"bench/{serial}/{number}/result.json", outcome, "application/json")

    with contextlib.closing(objects):
        return {
            "requests": count,
            "puts_per_second": await _rate(put, count),
            "requests_per_second": await _rate(request, count),
        }


async def _rate(work: Any, count: int) -> float:
    numbers = iter(range(count))

    async def lane() -> None:
        for number in numbers:
            await work(number)

    started = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(CONCURRENT_PUTS)))
    return count / (time.perf_counter() - started)
