"""Proves that every background task of a worker and of a gateway comes back from an exception that nobody expected.

Each is ended in turn, in a real worker and a real gateway on a real Kafka and S3: it is logged, counted and named by
readiness, started again, and then does its work. What may not be started again ends the process with a sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import urllib3

from darkroom.consumer.cli.serve import run_worker
from darkroom.consumer.core.jobs import Verdict, VerdictKind
from darkroom.consumer.core.partition_key import JobKey, PartitionKey
from darkroom.consumer.kafka.broker import KafkaBroker
from darkroom.consumer.worker.delivery import Delivery as RequestDelivery
from darkroom.consumer.worker.health import Health, HealthServer
from darkroom.consumer.worker.intake import Intake
from darkroom.consumer.worker.payload import Payload
from darkroom.consumer.worker.ports import Delivery, Opened, OutgoingRecord, Record
from darkroom.consumer.worker.worker import Worker
from darkroom.inference.engine import LaneEngine
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.producer.client.client import Client
from darkroom.producer.gateway.access.assembly import access_of
from darkroom.producer.gateway.app import create_app
from darkroom.producer.gateway.metrics import Metrics
from darkroom.producer.kafka.connection import KafkaUnavailable
from darkroom.producer.kafka.reader import TopicReader
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.store.memory_objects import MemoryObjects
from darkroom.producer.tasks import Backoff, TaskSupervisor
from darkroom.schemas.events.completion import Completion, Status
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import Settings, load_settings
from tests.integration.in_process import Producer, running_worker
from tests.producer.deployments import deployment_on

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

LIMIT_S = 30.0
HASTY = Backoff(s_min=0.3, s_max=0.3, proven_s=0.3, steady_s=60.0)
BENT = "a bytes-like object is required, not 'NoneType'"


class Saboteur:
    """Ends the kept tasks of a supervisor, one at a time, by an exception that they never raise themselves."""

    def __init__(self) -> None:
        self._strikes: dict[str, asyncio.Event] = {}
        self.runs: dict[str, int] = {}

    @property
    def names(self) -> set[str]:
        """All tasks that were kept."""
        return set(self.runs)

    def strike(self, name: str) -> None:
        """End a task now."""
        self._strikes[name].set()

    def around(self, name: str, work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """The work, until it is struck."""
        self.runs[name] = 0

        async def run() -> None:
            self._strikes[name] = asyncio.Event()
            self.runs[name] += 1
            working = asyncio.ensure_future(work())
            striking = asyncio.ensure_future(self._strikes[name].wait())
            try:
                await asyncio.wait({working, striking}, return_when=asyncio.FIRST_COMPLETED)
                if working.done():
                    working.result()
                raise TypeError(BENT)
            finally:
                for one in (working, striking):
                    one.cancel()
                await asyncio.gather(working, striking, return_exceptions=True)

        return run

    def supervisor(self, **arguments: Any) -> TaskSupervisor:
        """As `make_tasks` makes one."""
        return _Sabotaged(self, **arguments)


class _Sabotaged(TaskSupervisor):
    def __init__(self, saboteur: Saboteur, **arguments: Any) -> None:
        super().__init__(**arguments, backoff=HASTY)
        self._saboteur = saboteur

    def keep(self, name: str, work: Callable[[], Awaitable[None]], *, matters: str | None = None) -> None:
        super().keep(name, self._saboteur.around(name, work), matters=matters)


async def asked(port: int, path: str) -> urllib3.BaseHTTPResponse:
    return await asyncio.to_thread(urllib3.request, "GET", f"http://127.0.0.1:{port}{path}", retries=False, timeout=5.0)


async def restarts_at(port: int) -> dict[str, float]:
    """The counter's values, by task."""
    return restarts_in((await asked(port, "/metrics")).data.decode())


def restarts_in(metrics: str) -> dict[str, float]:
    prefix = 'darkroom_task_restarts_total{task="'
    lines = (line.removeprefix(prefix) for line in metrics.splitlines() if line.startswith(prefix))
    return {line.partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


async def ends_and_recovers(
    saboteur: Saboteur,
    name: str,
    reasons: Callable[[], Awaitable[list[str]]],
    caplog: pytest.LogCaptureFixture,
    *,
    matters: bool,
) -> None:
    """Strike a task, and see that readiness names it where it matters, that it is logged, and that it runs again."""
    caplog.clear()
    runs = saboteur.runs[name]
    saboteur.strike(name)
    named = f"The task {name!r}"
    async with asyncio.timeout(LIMIT_S):
        if matters:
            while not any(named in reason and BENT in reason for reason in await reasons()):
                await asyncio.sleep(0.02)
        while saboteur.runs[name] == runs:
            assert matters or not any(named in reason for reason in await reasons())
            await asyncio.sleep(0.02)
        while await reasons():
            await asyncio.sleep(0.02)
    [line] = [one for one in caplog.records if one.name == "darkroom.producer.tasks" and one.levelno == logging.ERROR]
    assert line.__dict__["task"] == name
    assert BENT in line.__dict__["error"]
    assert line.exc_info is not None


def request(**fields: Any) -> GenerationRequest:
    values = {"request_id": f"r-{uuid.uuid4().hex}", "prompt": "a figure", "steps": 2, **fields}
    return GenerationRequest.model_validate(values)


async def test_each_task_of_a_worker_comes_back(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    settings = deployment_on(stack.environment)(topics__requests_partitions=2, worker__metrics_port=0)
    await ensure_topics(settings)
    engine = LaneEngine(SimulatedDevice(0.0), rows_max=settings.batch.max_rows)
    saboteur = Saboteur()
    async with running_worker(settings, engine, make_tasks=saboteur.supervisor) as worker, Client(settings) as client:
        health = worker.serve_health()

        async def reasons() -> list[str]:
            found: list[str] = json.loads((await asked(health.port, "/readyz")).data)["reasons"]
            assert (await asked(health.port, "/livez")).status == 200
            return found

        async with asyncio.timeout(LIMIT_S):
            while await reasons():
                await asyncio.sleep(0.05)
        assert saboteur.names == {"outages", "loop_watch", "kafka_watch", "progress", "cancellations"}
        for name in sorted(saboteur.names):
            await ends_and_recovers(saboteur, name, reasons, caplog, matters=name in {"kafka_watch", "cancellations"})
        assert await restarts_at(health.port) == {**dict.fromkeys(saboteur.names, 1.0), "health": 0.0}
        # And they do their work again: progress is told, a cancellation is read.
        taken_back, painted = request(), request(progress="steps", steps=4)
        await client.cancel(taken_back.request_id)
        await asyncio.sleep(1.5)  # a cancellation that comes late is no failure of the follower
        await client.send([taken_back, painted])
        seen = [event async for event in client.watch(painted.request_id, LIMIT_S)]
        assert isinstance(seen[-1], Completion)
        assert len(seen) > 1
        [outcome] = (await client.wait([taken_back.request_id], LIMIT_S)).values()
        assert outcome.status.value == "cancelled"
        health.close()


async def test_a_cancellation_that_comes_while_its_follower_is_down_is_read(stack: Stack) -> None:
    settings = deployment_on(stack.environment)(topics__requests_partitions=1)
    await ensure_topics(settings)
    engine = LaneEngine(SimulatedDevice(20.0), rows_max=settings.batch.max_rows)
    saboteur = Saboteur()
    async with running_worker(settings, engine, make_tasks=saboteur.supervisor), Client(settings) as client:
        taken_back = request(steps=150)
        await client.send(taken_back)
        saboteur.strike("cancellations")
        await client.cancel(taken_back.request_id)
        [outcome] = (await client.wait([taken_back.request_id], LIMIT_S)).values()
        assert outcome.status.value == "cancelled"
        assert saboteur.runs["cancellations"] == 2


@contextlib.asynccontextmanager
async def gateway(settings: Settings, saboteur: Saboteur) -> AsyncIterator[httpx.AsyncClient]:
    metrics = Metrics()
    access = access_of(settings, metrics.registry)
    app = create_app(settings, access, metrics, make_tasks=saboteur.supervisor)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=LIMIT_S) as client:
            yield client


async def test_each_task_of_a_gateway_comes_back(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    settings = deployment_on(stack.environment)(topics__requests_partitions=2)
    await ensure_topics(settings)
    engine = LaneEngine(SimulatedDevice(0.0), rows_max=settings.batch.max_rows)
    saboteur = Saboteur()
    async with running_worker(settings, engine), gateway(settings, saboteur) as client:

        async def reasons() -> list[str]:
            assert (await client.get("/livez")).status_code == 200
            answer = await client.get("/readyz")
            found: list[str] = answer.json()["reasons"]
            assert (answer.status_code == 200) == (not found)
            return found

        async with asyncio.timeout(LIMIT_S):
            while await reasons():
                await asyncio.sleep(0.05)
        assert saboteur.names == {"outages", "finished", "publisher", "queue", "feed", "catalogue", "probes"}
        for name in sorted(saboteur.names):
            await ends_and_recovers(saboteur, name, reasons, caplog, matters=name != "outages")
        assert restarts_in((await client.get("/metrics")).text) == dict.fromkeys(saboteur.names, 1.0)
        accepted = await client.post("/v1/generations", json={"prompt": "a dancer", "steps": 2})
        assert accepted.status_code == 202, accepted.text
        done = await client.get(accepted.json()["status_url"], params={"wait": "20"})
        assert done.json()["status"] == "succeeded", done.text


async def test_an_event_stream_ends_well_while_its_gateway_s_feed_dies(stack: Stack) -> None:
    settings = deployment_on(stack.environment)(topics__requests_partitions=1)
    await ensure_topics(settings)
    engine = LaneEngine(SimulatedDevice(10.0), rows_max=settings.batch.max_rows)
    saboteur = Saboteur()
    async with running_worker(settings, engine), gateway(settings, saboteur) as client:
        async with asyncio.timeout(LIMIT_S):
            while (await client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.05)
            accepted = await client.post("/v1/generations", json={"prompt": "a dancer", "steps": 100})
            assert accepted.status_code == 202, accepted.text
            saboteur.strike("feed")
            async with client.stream("GET", accepted.json()["status_url"] + "/events") as stream:
                seen = [line async for line in stream.aiter_lines() if line.startswith("event: ")]
        assert seen[-1] == "event: completion"
        assert saboteur.runs["feed"] == 2


class Bent(KafkaBroker):
    """A real broker, one of whose calls raises what no port declares."""

    def __init__(self, *arguments: Any, call: str, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._call = call

    def _bend(self, call: str) -> None:
        if call == self._call:
            raise TypeError(BENT)

    async def poll(self, timeout_s: float) -> Sequence[Delivery]:
        self._bend("poll")
        return await super().poll(timeout_s)

    async def open(self, partition: PartitionKey, *, prove_ownership: bool) -> Opened:
        self._bend("open")
        return await super().open(partition, prove_ownership=prove_ownership)

    async def publish(
        self, partition: PartitionKey, records: Sequence[OutgoingRecord], offset: int, metadata: str
    ) -> None:
        self._bend("publish")
        await super().publish(partition, records, offset, metadata)


@pytest.mark.parametrize(("call", "task"), [("poll", "poll"), ("open", "partition"), ("publish", "publish")])
async def test_a_task_that_may_not_be_started_again_ends_the_process_with_a_sentence(
    stack: Stack, capsys: pytest.CaptureFixture[str], call: str, task: str
) -> None:
    settings = deployment_on(stack.environment)(
        topics__requests_partitions=1, worker__metrics_port=0, simulated__step_ms=0.0
    )
    await ensure_topics(settings)
    async with Producer(settings) as producer:
        await producer.put(json.dumps({"request_id": "r", "prompt": "a figure", "steps": 2}).encode())
    async with asyncio.timeout(2 * LIMIT_S):
        code = await run_worker(settings, partial(Worker, make_broker=partial(Bent, call=call)))
    assert code == 1
    said = capsys.readouterr().err.splitlines()
    [sentence] = [line for line in said if line.startswith("Error: ")]
    assert f"The task {task!r} ended unexpectedly with TypeError: {BENT}" in sentence
    logged = [json.loads(line) for line in said if line.startswith("{")]
    [traced] = [line for line in logged if line.get("task") == task]
    assert "Traceback" in traced["exception"]


@pytest.mark.parametrize("task", ["coordination", "fetching"])
async def test_a_consumer_whose_own_task_has_ended_is_replaced(stack: Stack, task: str) -> None:
    settings = deployment_on(stack.environment)(topics__requests_partitions=1)
    await ensure_topics(settings)
    members: list[KafkaBroker] = []

    def noted(*arguments: Any, **more: Any) -> KafkaBroker:
        members.append(KafkaBroker(*arguments, **more))
        return members[0]

    engine = LaneEngine(SimulatedDevice(0.0), rows_max=8)
    async with running_worker(settings, engine, make_broker=noted), Producer(settings) as producer:
        dead = members[0]._consumer
        ending = dead._fetcher._fetch_task if task == "fetching" else dead._coordinator._coordination_task
        ending.cancel()
        place = await producer.put(b'{"request_id": "after", "prompt": "a figure", "steps": 1}')
        answers = await producer.answers({place})
        assert [answer.status for answer in answers[place]] == [Status.SUCCEEDED]
        assert members[0]._consumer is not dead


async def test_a_reader_whose_client_has_ended_says_so(stack: Stack) -> None:
    settings = deployment_on(stack.environment)()
    await ensure_topics(settings)
    async with TopicReader(settings.kafka, [settings.topics.completions]) as reader:
        reader.start_at(await reader.stable_ends())
        assert await reader.read(0.1) == []
        reader._consumer._fetcher._fetch_task.cancel()
        await asyncio.sleep(0)
        with pytest.raises(KafkaUnavailable, match="its fetching task ended"):
            await reader.read(0.1)


class BentObjects(MemoryObjects):
    """A store whose look-up of some requests' outcomes raises what no port declares."""

    async def get(self, key: str, *, bucket: str | None = None, bytes_max: int) -> bytes | None:
        if "/bent-" in key:
            raise TypeError(BENT)
        return await super().get(key, bucket=bucket, bytes_max=bytes_max)


async def test_a_request_whose_look_up_fails_unexpectedly_has_an_outcome_and_the_others_are_painted(
    stack: Stack,
) -> None:
    settings = deployment_on(stack.environment)(topics__requests_partitions=1)
    await ensure_topics(settings)
    engine = LaneEngine(SimulatedDevice(0.0), rows_max=settings.batch.max_rows)
    worker = Worker(settings, engine, BentObjects())
    running = asyncio.create_task(worker.run())
    try:
        async with Producer(settings) as producer:
            places = {}
            for name in ("bent-1", "well-1", "bent-2", "well-2"):
                value = {"request_id": name, "prompt": "a figure", "steps": 2}
                places[name] = await producer.put(json.dumps(value).encode())
            answers = await producer.answers(set(places.values()))
        outcomes = {name: answers[place] for name, place in places.items()}
        for name, [answer] in outcomes.items():
            if name.startswith("well"):
                assert answer.status.value == "succeeded"
            else:
                assert answer.error.code.value == "render_failed"
                assert answer.error.retryable
                assert BENT in answer.error.message
        worker.drain()
        assert await asyncio.wait_for(running, LIMIT_S)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class StubbornObjects(MemoryObjects):
    """A store in which deciding some requests' outcomes raises what no port declares."""

    async def put_if_absent(self, key: str, content: bytes, content_type: str) -> bool:
        if "/bent-" in key:
            raise TypeError(BENT)
        return await super().put_if_absent(key, content, content_type)


async def test_what_every_worker_would_decide_alike_is_published_where_deciding_fails_unexpectedly(
    stack: Stack,
) -> None:
    settings = deployment_on(stack.environment)(topics__requests_partitions=1)
    await ensure_topics(settings)
    engine = LaneEngine(SimulatedDevice(0.0), rows_max=settings.batch.max_rows)
    worker = Worker(settings, engine, StubbornObjects())
    running = asyncio.create_task(worker.run())
    sent: dict[str, dict[str, Any]] = {
        "bent-refused": {"steps": 9_999},
        "bent-late": {"deadline": "2026-01-01T00:00:00Z"},
        "well": {"steps": 2},
    }
    try:
        async with Producer(settings) as producer:
            places = {}
            for name, more in sent.items():
                value = {"request_id": name, "prompt": "a figure", **more}
                places[name] = await producer.put(json.dumps(value).encode())
            answers = await producer.answers(set(places.values()))
        statuses = {name: [answer.status.value for answer in answers[place]] for name, place in places.items()}
        assert statuses == {"bent-refused": ["failed"], "bent-late": ["expired"], "well": ["succeeded"]}
        worker.drain()
        assert await asyncio.wait_for(running, LIMIT_S)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("is_crash", [True, False], ids=["workers died of it", "it failed once"])
async def test_the_verdict_of_a_crash_is_published_where_deciding_fails_unexpectedly(is_crash: bool) -> None:
    settings = load_settings(environ={})
    delivery = RequestDelivery(settings, StubbornObjects(), lambda _: None)
    value = json.dumps({"request_id": "bent-1", "prompt": "a figure"}).encode()
    partition = PartitionKey(settings.topics.requests, 0)
    key = JobKey(*partition, 7)
    intake = Intake(lambda: SimulatedDevice(0.0).info, settings.limits, request_bytes_max=len(value))
    _, received = intake.take(partition, Record(7, None, value, (), -1), now=0.0, wall=datetime.now(UTC))
    payload = Payload(received)
    verdict = Verdict(VerdictKind.FAILED, "worker_crash" if is_crash else "render_failed", "2 workers died")
    if not is_crash:
        with pytest.raises(TypeError, match=BENT):
            await delivery.settle(key, payload, verdict)
        return
    await delivery.settle(key, payload, verdict)
    assert payload.completion is not None
    assert payload.completion.error is not None
    assert payload.completion.error.code.value == "worker_crash"
    records = await delivery.records([key], {key: payload})
    assert {record.topic for record in records} == {settings.topics.completions, settings.topics.dead_letters}


async def test_a_probe_that_cannot_be_made_is_an_answer_and_the_server_goes_on() -> None:
    from prometheus_client import CollectorRegistry

    def broken() -> Health:
        raise RuntimeError("dictionary changed size during iteration")

    server = HealthServer("127.0.0.1", 0, CollectorRegistry(), lambda: Health(True), broken)
    server.start()
    try:
        answer = await asked(server.port, "/readyz")
        assert answer.status == 500
        assert "dictionary changed size" in json.loads(answer.data)["reasons"][0]
        assert (await asked(server.port, "/livez")).status == 200
    finally:
        server.close()
