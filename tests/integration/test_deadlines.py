"""Proves that a request which is taken back, or whose deadline passes, ends so at once and costs no more of the device.

On a real Kafka and S3, with `darkroom cancel` as people use it: before the request, while it waits, and on the device;
a deadline that passed before the request came, while it waits, and between two steps.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from darkroom.consumer.worker.worker import Worker
from darkroom.inference.engine import LaneEngine
from darkroom.producer.cli.send import cancel
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.settings import Settings
from tests.integration.by_hand import LIMIT_S, CountingDevice
from tests.integration.fleet import until
from tests.integration.in_process import Producer, running_worker
from tests.producer.deployments import deployment_on

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

STEP_MS = 20.0
LONG = 150
"""Steps: three seconds of the device."""


@dataclass
class Deployment:
    """A worker that takes one request at a time, and whoever sends and cancels."""

    settings: Settings
    environment: dict[str, str]
    device: CountingDevice
    worker: Worker
    producer: Producer

    async def send(self, prompt: str, **fields: Any) -> tuple[int, int]:
        """The prompt is the request id."""
        value = {"request_id": prompt, "prompt": prompt, "steps": 2, **fields}
        return await self.producer.put(json.dumps(value).encode(), key=prompt.encode())

    async def answer(self, place: tuple[int, int]) -> Completion:
        """The one completion of a record."""
        [completion] = (await self.producer.answers({place}, LIMIT_S))[place]
        assert isinstance(completion, Completion)
        return completion

    async def cancel(self, request_id: str, *arguments: str) -> None:
        """`darkroom cancel`."""
        done = await asyncio.to_thread(CliRunner().invoke, cancel, [request_id, *arguments], env=self.environment)
        assert done.exit_code == 0, done.output

    async def occupy(self) -> tuple[int, int]:
        """Let a long request have the device to itself."""
        place = await self.send("long", steps=LONG)
        await until(lambda: self.device.steps["long"] > 0, LIMIT_S, "the device to be busy")
        return place


@pytest.fixture
async def deployment(stack: Stack) -> AsyncIterator[Deployment]:
    name = f"t{uuid.uuid4().hex[:12]}."
    more = {"topics__requests_partitions": 1, "batch__max_rows": 1, "topics__prefix": name}
    settings = deployment_on(stack.environment)(**more)
    environment = {
        **stack.environment,
        "DARKROOM_TOPICS__PREFIX": name,
        "DARKROOM_TOPICS__REQUESTS_PARTITIONS": "1",
        "DARKROOM_S3__BUCKET": settings.s3.bucket,
    }
    await ensure_topics(settings)
    device = CountingDevice(STEP_MS)
    async with running_worker(settings, LaneEngine(device, rows_max=1)) as worker, Producer(settings) as producer:
        yield Deployment(settings, environment, device, worker, producer)


def assert_untouched(completion: Completion, status: str, code: str) -> None:
    """It ended so, and no step was taken for it."""
    assert completion.status.value == status
    assert completion.error is not None
    assert completion.error.code.value == code
    assert completion.timings_ms.denoise is None
    assert completion.cost is None or completion.cost.device_seconds == 0


async def test_a_cancellation_may_come_before_its_request(deployment: Deployment) -> None:
    await deployment.cancel("early", "--reason", "thought better of it")
    identities = deployment.worker.driver._core.flow.identities
    await until(lambda: identities.is_cancelled(("default", "early")), LIMIT_S, "the cancellation to be read")
    completion = await deployment.answer(await deployment.send("early"))
    assert_untouched(completion, "cancelled", "cancelled")
    assert completion.error is not None
    assert completion.error.message == "thought better of it"
    assert deployment.device.prepared["early"] == 0


async def test_a_waiting_request_is_cancelled_without_device_time(deployment: Deployment) -> None:
    long = await deployment.occupy()
    waiting = await deployment.send("waiting", steps=LONG)
    await deployment.cancel("waiting")
    assert_untouched(await deployment.answer(waiting), "cancelled", "cancelled")
    assert deployment.device.steps["waiting"] == 0
    assert (await deployment.answer(long)).status.value == "succeeded", "the one on the device went on"


async def test_a_request_on_the_device_is_cancelled_at_a_step_boundary(deployment: Deployment) -> None:
    long = await deployment.occupy()
    await deployment.cancel("long", "--reason", "too slow")
    completion = await deployment.answer(long)
    assert completion.status.value == "cancelled"
    assert completion.error is not None
    assert completion.error.message == "too slow"
    assert 0 < deployment.device.steps["long"] < LONG
    assert (await deployment.answer(await deployment.send("next"))).status.value == "succeeded"


async def test_a_finished_request_stays_as_it_is(deployment: Deployment) -> None:
    done = await deployment.send("done")
    assert (await deployment.answer(done)).status.value == "succeeded"
    await deployment.cancel("done")
    again = await deployment.answer(await deployment.send("done"))
    assert (again.status.value, again.replayed) == ("succeeded", True)


async def test_a_deadline_that_passed_before_costs_no_device_time(deployment: Deployment) -> None:
    passed = datetime.now(UTC) - timedelta(seconds=1)
    completion = await deployment.answer(await deployment.send("late", deadline=passed.isoformat()))
    assert_untouched(completion, "expired", "deadline_passed")
    assert deployment.device.prepared["late"] == 0


async def test_a_deadline_that_passes_while_waiting_costs_no_device_time(deployment: Deployment) -> None:
    long = await deployment.occupy()
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    completion = await deployment.answer(await deployment.send("waiting", deadline=soon.isoformat()))
    assert_untouched(completion, "expired", "deadline_passed")
    assert completion.completed_at >= soon
    assert deployment.device.steps["waiting"] == 0
    assert (await deployment.answer(long)).status.value == "succeeded"


async def test_a_deadline_that_passes_on_the_device_ends_it_between_two_steps(deployment: Deployment) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    completion = await deployment.answer(await deployment.send("long", steps=LONG, deadline=soon.isoformat()))
    assert completion.status.value == "expired"
    assert completion.completed_at >= soon
    assert 0 < deployment.device.steps["long"] < LONG
    assert (await deployment.answer(await deployment.send("next"))).status.value == "succeeded"
