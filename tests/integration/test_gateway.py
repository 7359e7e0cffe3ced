"""Proves the gateway on a real Kafka, a real S3 server and a real worker: nothing that it accepted is ever lost."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
import urllib3
from PIL import Image

from darkroom.producer.gateway.access.assembly import access_of
from darkroom.producer.gateway.app import create_app
from darkroom.producer.gateway.jobs.claims import Claim
from darkroom.producer.gateway.metrics import Metrics
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.names import request_key
from darkroom.schemas.settings import Settings
from darkroom.schemas.wire.digests import request_digest
from tests.chaos.proxy import Link
from tests.integration.behind_proxies import kafka_behind_a_proxy, store_behind_a_proxy
from tests.integration.fleet import Fleet
from tests.integration.gateways import GatewayProcess
from tests.producer.deployments import deployment_on

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

LIMIT_S = 60
HURRIED = {
    "DARKROOM_GATEWAY__KAFKA_TIMEOUT_S": "2",
    "DARKROOM_GATEWAY__REPAIR_AFTER_S": "2.5",
    "DARKROOM_GATEWAY__GENERATE_TIMEOUT_S": "20",
}


class Street:
    """One worker and two gateways of one deployment."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet = fleet
        self._folder = folder
        self.gateways = [self.start() for _ in range(2)]

    def start(self) -> GatewayProcess:
        """One more gateway."""
        environment = {**self.fleet.environment, **HURRIED}
        return GatewayProcess(environment, self._folder, f"gateway-{time.monotonic_ns()}")


@pytest.fixture(scope="module")
def street(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    """Ready to be called."""
    folder = tmp_path_factory.mktemp("gateways")
    fleet = Fleet(stack.environment, folder, DARKROOM_BATCH__MAX_ROWS="4")
    asyncio.run(fleet.make_topics())
    worker = fleet.start("--simulated-device", "5")
    street = Street(fleet, folder)
    try:
        worker.wait_ready()
        for gateway in street.gateways:
            gateway.wait_ready()
        yield street
    finally:
        for gateway in street.gateways:
            if gateway.process.poll() is None:
                gateway.kill()
        fleet.stop()


@pytest.fixture
def settings(stack: Stack) -> Settings:
    """Of a deployment of its own, for gateways in the test's process."""
    return deployment_on(stack.environment)()


@contextlib.asynccontextmanager
async def calling(*gateways: GatewayProcess) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A caller of each."""
    async with contextlib.AsyncExitStack() as open_:
        yield [
            await open_.enter_async_context(httpx.AsyncClient(base_url=one.url, timeout=LIMIT_S, trust_env=False))
            for one in gateways
        ]


async def test_from_a_form_to_the_picture_by_whichever_replica(street: Street) -> None:
    order = {"request_id": f"{street.fleet.serial}-form", "prompt": "a dancer", "progress": "previews"}
    path = f"/v1/generations/{order['request_id']}"
    skeleton = io.BytesIO()
    drawn = Image.new("RGB", (64, 64))
    drawn.paste("red", (16, 8, 20, 56))
    drawn.save(skeleton, "PNG")
    async with calling(*street.gateways) as (one, other):
        form = {"files": {"pose": ("p.png", skeleton.getvalue())}, "data": {"request": json.dumps(order)}}
        accepted = await one.post("/v1/generations", **form)  # type: ignore[arg-type]
        assert accepted.status_code == 202, accepted.text
        async with other.stream("GET", path + "/events") as stream:
            seen = [line async for line in stream.aiter_lines() if line.startswith("event: ")]
        assert seen[0] == "event: status"
        assert seen[-1] == "event: completion"
        done = (await one.get(path)).json()
        assert done["status"] == "succeeded", done
        assert done["request"]["pose"]["image"]["key"].endswith("/pose.png")
        [image] = done["completion"]["images"]
        for caller in (one, other):
            picture = await caller.get(image["url"])
            assert hashlib.sha256(picture.content).hexdigest() == image["sha256"]
            assert picture.headers["etag"] == f'"{image["sha256"]}"'
        again = await other.post("/v1/generations", **form)  # type: ignore[arg-type]
        assert (again.status_code, again.json()["status"]) == (202, "succeeded")
        conflict = await other.post("/v1/generations", json={**order, "prompt": "another"})
        assert (conflict.status_code, conflict.json()["code"]) == (409, "request_id_conflict")


async def test_a_claim_that_a_dead_replica_left_is_sent_by_a_retry_and_by_a_poll(street: Street) -> None:
    retried, polled = street.fleet.requests(2, progress="steps")
    async with MinioObjects(street.fleet.settings.s3) as objects:
        for request in (retried, polled):
            claim = Claim(request, request_digest(request), datetime.now(UTC))
            await objects.put(request_key(*claim.identity), claim.to_json(), "application/json")
    async with calling(*street.gateways) as (one, other):
        body = retried.model_dump(mode="json", exclude_unset=True)
        assert (await one.post("/v1/generations", json=body)).status_code == 202
        for request in (retried, polled):
            answer = await other.get(f"/v1/generations/{request.request_id}", params={"wait": 40})
            assert answer.json()["status"] == "succeeded", answer.text
    assert street.gateways[1].events("the missing event of a claim was sent")


async def test_a_job_is_taken_back(street: Street) -> None:
    async with calling(*street.gateways) as (one, other):
        # More than the worker has rows for, and the last behind all others: it is not begun while they are painted.
        ids = [f"{street.fleet.serial}-many-{number}" for number in range(24)]
        orders = [{"request_id": name, "prompt": "a dancer", "steps": 150, "priority": 9} for name in ids]
        orders[-1]["priority"] = 0
        await asyncio.gather(*(one.post("/v1/generations", json=order) for order in orders))
        last = f"/v1/generations/{ids[-1]}"
        queued = (await other.get(last)).json()
        assert queued["status"] == "queued"
        assert isinstance(queued["ahead"], int)
        assert (await other.delete(last)).status_code == 202
        ended = (await one.get(last, params={"wait": 40})).json()
        assert ended["status"] == "cancelled", ended
        # A replica may hear of an outcome a moment after another one.
        assert (await other.get(last, params={"wait": 40})).json()["status"] == "cancelled"
        assert (await other.delete(last)).status_code == 200
        done = (await one.get(f"/v1/generations/{ids[0]}", params={"wait": 40})).json()
        assert done["status"] == "succeeded", done
        fleet = (await one.get("/v1/fleet")).json()
        assert fleet["completions_per_minute"] > 0
        assert fleet["workers"] == 1
        assert fleet["last_work_s"] < LIMIT_S
        await asyncio.gather(*(one.delete(f"/v1/generations/{name}") for name in ids[1:-1]))


async def test_the_guide_s_own_call_answers_with_the_picture_or_with_the_job(street: Street) -> None:
    settings = street.fleet.settings
    hasty = settings.model_copy(update={"gateway": settings.gateway.model_copy(update={"generate_timeout_s": 1.0})})
    async with calling(street.gateways[0]) as (patient,), in_process(hasty) as other:
        answer = await patient.post("/generate", data={"prompt": "a dancer", "seed": "7"}, files={"unused": b""})
        assert answer.status_code == 422, "a file that is nobody's"
        answer = await patient.post("/generate", params={"prompt": "a dancer", "seed": 7})
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-seed"] == "7"
        assert Image.open(io.BytesIO(answer.content)).size[0] > 0
        backlog = [{"prompt": "a dancer", "steps": 150, "count": 8, "priority": 9} for _ in range(4)]
        await asyncio.gather(*(patient.post("/v1/generations", json=order) for order in backlog))
        late = await other.post("/generate", params={"prompt": "a dancer", "steps": 150})
        assert (late.status_code, late.json()["code"]) == (504, "not_finished_in_time"), late.text
        done = await patient.get(late.json()["status_url"], params={"wait": 40})
        assert done.json()["status"] == "succeeded"


async def test_openai_s_client_generates_and_streams_through_a_real_worker(street: Street) -> None:
    async with (
        httpx.AsyncClient(trust_env=False) as http,
        openai.AsyncOpenAI(base_url=f"{street.gateways[0].url}/v1", api_key="any", http_client=http) as client,
    ):
        answer = await client.images.generate(prompt="a dancer", n=2, size="256x256", output_format="webp")
        pictures = [Image.open(io.BytesIO(base64.b64decode(one.b64_json or ""))) for one in answer.data or []]
        assert [picture.format for picture in pictures] == ["WEBP", "WEBP"]
        stream = await client.images.generate(prompt="a dancer", stream=True, extra_body={"seed": 7})
        [last] = [event async for event in stream]
        assert last.type == "image_generation.completed"
        assert Image.open(io.BytesIO(base64.b64decode(last.b64_json))).format == "PNG"


async def test_a_gateway_that_is_killed_in_the_middle_loses_nothing(street: Street) -> None:
    """Half of the answers are lost with the process; whoever has none asks again, elsewhere, under the same id."""
    doomed = street.start()
    street.gateways.append(doomed)
    await asyncio.to_thread(doomed.wait_ready)
    ids = [f"{street.fleet.serial}-killed-{number}" for number in range(40)]
    answered: list[str] = []
    at_once = asyncio.Semaphore(8)  # so that not all have their answers before the process is dead

    async def ask(caller: httpx.AsyncClient, name: str) -> None:
        async with at_once:
            order = {"request_id": name, "prompt": "a dancer", "steps": 5, "labels": {"test": "killed"}}
            answer = await caller.post("/v1/generations", json=order)
        if answer.status_code == 202:
            answered.append(name)
        if len(answered) == 10:
            doomed.process.kill()

    async with calling(doomed, street.gateways[0]) as (victim, survivor):
        await asyncio.gather(*(ask(victim, name) for name in ids), return_exceptions=True)
        await asyncio.to_thread(doomed.process.wait)
        assert 10 <= len(answered) < len(ids), "it died in the middle"
        for name in answered:
            done = await survivor.get(f"/v1/generations/{name}", params={"wait": 40})
            assert done.json()["status"] == "succeeded", done.text
        for name in set(ids) - set(answered):
            await ask(survivor, name)
            done = await survivor.get(f"/v1/generations/{name}", params={"wait": 40})
            assert done.json()["status"] == "succeeded", done.text
        await every_replica_lists(street, ids)
    report = await street.fleet.audit()
    assert report.is_clean, report.as_dict()


async def every_replica_lists(street: Street, ids: list[str]) -> None:
    """The jobs of a dead replica are in the lists of one that saw them come, and of one that is started afterwards."""
    late = street.start()
    street.gateways.append(late)
    await asyncio.to_thread(late.wait_ready)
    async with calling(street.gateways[0], late) as callers:
        for caller in callers:
            async with asyncio.timeout(LIMIT_S):
                while await listed_by(caller) != dict.fromkeys(ids, "succeeded"):
                    await asyncio.sleep(0.1)


async def listed_by(caller: httpx.AsyncClient) -> dict[str, str]:
    """Read the whole list, a few jobs at a time, and return each job's status."""
    found: dict[str, str] = {}
    cursor: str | None = None
    while True:
        asked = {"limit": 15, "label": "test=killed", **({} if cursor is None else {"cursor": cursor})}
        answer = await caller.get("/v1/generations", params=asked)
        if answer.status_code == 503:
            return {}
        page = answer.json()
        names = [job["request_id"] for job in page["jobs"]]
        assert not found.keys() & set(names), "no job is in two pages"
        found |= {job["request_id"]: job["status"] for job in page["jobs"]}
        if (cursor := page["next_cursor"]) is None:
            return found


async def test_a_gateway_that_is_told_to_end_ends_its_streams_and_exits_with_zero(street: Street) -> None:
    gateway = street.start()
    street.gateways.append(gateway)
    await asyncio.to_thread(gateway.wait_ready)
    async with calling(gateway, street.gateways[0]) as (leaving, other):
        orders = [{"prompt": "a dancer", "steps": 150, "count": 8} for _ in range(4)]
        answers = await asyncio.gather(*(other.post("/v1/generations", json=order) for order in orders))
        async with leaving.stream("GET", answers[-1].json()["events_url"]) as stream:
            lines = stream.aiter_lines()
            await anext(lines)
            assert await asyncio.to_thread(gateway.end) == 0
            assert "event: completion" not in [line async for line in lines]


# --- Kafka or the store away -----------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def in_process(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway in the test's own process, ready."""
    metrics = Metrics()
    app = create_app(settings, access_of(settings, metrics.registry), metrics)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=LIMIT_S) as client:
            await ready(client)
            yield client


async def ready(client: httpx.AsyncClient, status: int = 200) -> None:
    async with asyncio.timeout(LIMIT_S):
        while (await client.get("/readyz")).status_code != status:
            await asyncio.sleep(0.1)


def hurried(settings: Settings) -> Settings:
    gateway = settings.gateway.model_copy(
        update={"kafka_timeout_s": 1.0, "store_timeout_s": 1.0, "repair_after_s": 1.5, "probe_s": 0.3}
    )
    return settings.model_copy(update={"gateway": gateway})


async def refused_in_time(client: httpx.AsyncClient, code: str, order: dict[str, Any]) -> None:
    started = time.monotonic()
    answer = await client.post("/v1/generations", json=order)
    assert (answer.status_code, answer.json()["code"]) == (503, code), answer.text
    assert answer.headers["retry-after"]
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("link", [Link(is_dead=True), Link(refuses=True)], ids=["silent", "refusing"])
async def test_without_kafka_callers_are_told_and_the_job_is_sent_when_it_is_back(
    settings: Settings, link: Link
) -> None:
    order = {"request_id": "hello-1", "prompt": "a dancer"}
    async with kafka_behind_a_proxy(hurried(settings)) as (behind, proxy), in_process(behind) as client:
        proxy.link = link
        if link.refuses:
            proxy.cut()
        await refused_in_time(client, "kafka_away", order)
        await ready(client, 503)
        assert (await client.get("/v1/generations/hello-1")).json()["status"] == "queued"
        proxy.link = Link()
        async with asyncio.timeout(LIMIT_S):
            while (await client.post("/v1/generations", json=order)).status_code != 202:
                await asyncio.sleep(0.2)
        await ready(client)


async def test_without_the_store_callers_are_told(settings: Settings) -> None:
    order = {"request_id": "hello-1", "prompt": "a dancer"}
    async with store_behind_a_proxy(hurried(settings)) as (behind, proxy), in_process(behind) as client:
        proxy.link = Link(is_dead=True)
        await refused_in_time(client, "store_away", order)
        answer = await client.get("/v1/generations/hello-1")
        assert (answer.status_code, answer.json()["code"]) == (503, "store_away")
        await ready(client, 503)
        proxy.link = Link()
        await ready(client)
        assert (await client.post("/v1/generations", json=order)).status_code == 202


async def test_a_signed_address_is_the_picture(settings: Settings) -> None:
    async with MinioObjects(settings.s3) as objects:
        await objects.ensure_bucket(30)
        await objects.put("default/one/0-a.png", b"picture", "image/png")
        url = objects.presigned_get("default/one/0-a.png", valid_s=60)
        answer = await asyncio.to_thread(urllib3.request, "GET", url)
        assert (answer.status, answer.data) == (200, b"picture")
        asked = await asyncio.to_thread(
            urllib3.request, "HEAD", objects.presigned_head("default/one/0-a.png", valid_s=60), retries=False
        )
        assert (asked.status, asked.headers["Content-Length"]) == (200, "7")
        nobodys = await asyncio.to_thread(urllib3.request, "GET", url.replace("0-a.png", "0-b.png"))
        assert nobodys.status == 403, "it is signed for one object"


def test_a_gateway_without_kafka_and_store_starts_and_says_so(tmp_path: Path) -> None:
    environment = {
        "DARKROOM_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "DARKROOM_KAFKA__REQUEST_TIMEOUT_MS": "1000",
        "DARKROOM_S3__ENDPOINT": "http://127.0.0.1:1",
        "DARKROOM_GATEWAY__KAFKA_TIMEOUT_S": "1",
        "DARKROOM_GATEWAY__STORE_TIMEOUT_S": "1",
    }
    gateway = GatewayProcess(environment, tmp_path, "alone")
    try:
        deadline = time.monotonic() + LIMIT_S
        while not gateway.events("listening"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        probe = urllib3.request("GET", f"{gateway.url}/readyz", timeout=20, retries=5)
        assert probe.status == 503
        assert len(probe.json()["reasons"]) >= 2
        assert urllib3.request("GET", f"{gateway.url}/livez", timeout=20).status == 200
        assert gateway.end() == 0
    finally:
        if gateway.process.poll() is None:
            gateway.kill()
