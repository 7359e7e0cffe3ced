"""A gateway on stores in memory, with a Kafka that only notes what it was given, and callers with two keys."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import httpx
import uvicorn
from fastapi import APIRouter, FastAPI
from PIL import Image
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection

from darkroom.producer.gateway.access.assembly import AccessControl
from darkroom.producer.gateway.access.middleware import InputLimits
from darkroom.producer.gateway.app import create_app
from darkroom.producer.gateway.bounded_store import BoundedStore
from darkroom.producer.gateway.gateway import Gateway
from darkroom.producer.gateway.jobs.catalogue import Catalogue
from darkroom.producer.gateway.jobs.queue import Backlog
from darkroom.producer.gateway.metrics import Metrics
from darkroom.producer.gateway.principal import ALL_SCOPES, Principal, Scope
from darkroom.producer.gateway.problems import Problem
from darkroom.producer.gateway.server import Server
from darkroom.producer.gateway.services import Services, new_hub
from darkroom.producer.kafka.connection import KafkaUnavailable
from darkroom.producer.outcomes.completions import Answered, ImageContent, cancelled, failed, image_refs, succeeded
from darkroom.producer.outcomes.outcomes import Outcomes
from darkroom.producer.store.memory_objects import MemoryObjects
from darkroom.producer.store.objects import StoreUnavailable
from darkroom.producer.tasks import TaskSupervisor
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import Completion, Source
from darkroom.schemas.events.progress import Progress
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import GatewaySettings, Settings
from darkroom.schemas.wire.digests import request_digest
from tests.constants import section_with
from tests.producer.examples import Picture, work

KEYS = {"studio-key": "studio", "rival-key": "rival"}
STUDIO = {"authorization": "Bearer studio-key"}
RIVAL = {"authorization": "Bearer rival-key"}
PARTITION = 0


class Doorkeeper:
    """Knows two keys."""

    async def identify(self, connection: HTTPConnection, scope: Scope) -> Principal:
        tenant = KEYS.get(connection.headers.get("authorization", "").removeprefix("Bearer "))
        if tenant is None:
            raise Problem(HTTPStatus.UNAUTHORIZED, "key_unknown", "No key.", "Send one.")
        return Principal(tenant, f"{tenant}-key", ALL_SCOPES)


class Counting:
    """Quotas that note who is unfinished."""

    def __init__(self) -> None:
        self.unfinished: set[tuple[str, str]] = set()
        self.jobs_max = 1000

    async def take_call(self, principal: Principal) -> None:
        """Not counted."""

    async def begin_job(self, principal: Principal, request_id: str) -> None:
        identity = (principal.tenant, request_id)
        if identity not in self.unfinished and len(self.unfinished) >= self.jobs_max:
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, "too_many_jobs", "Too many.", "Wait.")
        self.unfinished.add(identity)

    async def end_job(self, tenant: str, request_id: str) -> None:
        self.unfinished.discard((tenant, request_id))


class FallibleObjects(MemoryObjects):
    """A store that can be away, or slow."""

    def __init__(self, *, prefix: str = "") -> None:
        super().__init__(prefix=prefix)
        self.is_away = False
        self.delay_s = 0.0
        self.calls: defaultdict[str, int] = defaultdict(int)

    async def get(self, key: str, *, bucket: str | None = None, bytes_max: int) -> bytes | None:
        await self._pass("get")
        return await super().get(key, bucket=bucket, bytes_max=bytes_max)

    async def put_if_absent(self, key: str, content: bytes, content_type: str) -> bool:
        await self._pass("put_if_absent")
        return await super().put_if_absent(key, content, content_type)

    async def _pass(self, call: str) -> None:
        self.calls[call] += 1
        await asyncio.sleep(self.delay_s)
        if self.is_away:
            raise StoreUnavailable("The store is away.")


class NotedKafka:
    """What was published, in order; and a backlog that a test sets."""

    def __init__(self) -> None:
        self.sent: list[GenerationRequest] = []
        self.cancelled: list[tuple[str, str]] = []
        self.committed = 0
        self.workers: int | None = None
        self.is_away = False

    async def publish(self, request: GenerationRequest) -> Source:
        self._reach()
        self.sent.append(request)
        return Source(topic="generation.requests", partition=PARTITION, offset=len(self.sent) - 1)

    async def cancel(self, tenant: str, request_id: str, reason: str | None) -> None:
        self._reach()
        self.cancelled.append((tenant, request_id))

    async def backlog(self) -> Backlog:
        self._reach()
        return Backlog({PARTITION: len(self.sent)}, {PARTITION: self.committed}, self.workers)

    async def partition_of(self, request_id: str) -> int:
        self._reach()
        return PARTITION

    async def offset_at(self, partition: int, moment: datetime) -> int:
        self._reach()
        return len(self.sent)

    def _reach(self) -> None:
        if self.is_away:
            raise KafkaUnavailable("Kafka is away.")


class House:
    """One deployment: a store, a Kafka, and any number of gateways on them."""

    def __init__(self, **gateway: Any) -> None:
        self.objects = FallibleObjects()
        self.kafka = NotedKafka()
        self.quotas = Counting()
        self.policy: Callable[[GenerationRequest], Problem | None] = lambda _request: None
        section = section_with(GatewaySettings, **{"store_timeout_s": 1.0, **gateway})
        self.settings = Settings().model_copy(update={"gateway": section})

    @contextlib.asynccontextmanager
    async def _services(
        self, settings: Settings, on_completion: Callable[[Completion], None], tasks: TaskSupervisor
    ) -> AsyncIterator[Services]:
        hub = new_hub(settings)
        hub.is_following = True
        store = BoundedStore(self.objects, settings.gateway.store_timeout_s)
        catalogue = Catalogue(hub, kept_max=settings.gateway.jobs_listed_max)
        catalogue.unready = None
        yield Services(store, self.kafka, self.kafka, hub, catalogue, list)

    async def _policy(self, request: GenerationRequest) -> Problem | None:
        return self.policy(request)

    @contextlib.asynccontextmanager
    async def gateway(self) -> AsyncIterator[Replica]:
        """One more replica, without a network."""
        limits = Middleware(InputLimits, settings=self.settings.access)
        access = AccessControl(Doorkeeper(), self.quotas, self._policy, APIRouter(), inside=[limits])
        app = create_app(self.settings, access, Metrics(), open_services=self._services)
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=STUDIO) as client:
                yield Replica(app, client)

    async def decide(self, request: GenerationRequest, completion: Completion | None = None) -> Completion:
        """As a worker does: the picture and the outcome into the store. Nobody is told."""
        picture = Picture(content=png(64, 48))
        completion = completion or success_of(request, picture)
        return await Outcomes(self.objects).decide(completion, [picture] if completion.images else [])


class Replica:
    """One gateway and a caller of it."""

    def __init__(self, app: FastAPI, client: httpx.AsyncClient) -> None:
        self.app = app
        self.client = client

    @property
    def gateway(self) -> Gateway:
        """What its routes work with."""
        gateway: Gateway = self.app.state.gateway
        return gateway

    async def post(self, body: dict[str, Any], **more: Any) -> httpx.Response:
        """A request as JSON."""
        return await self.client.post("/v1/generations", json=body, **more)

    @contextlib.asynccontextmanager
    async def on_a_port(self) -> AsyncIterator[str]:
        """The same application behind uvicorn, which does what no ASGI client does: send as it comes."""
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        server = Server(
            uvicorn.Config(self.app, lifespan="off", log_config=None, timeout_graceful_shutdown=5), self.app
        )
        task = asyncio.create_task(server._serve([listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.end()
            await asyncio.wait_for(task, 15)


def _about(request: GenerationRequest) -> Answered:
    return Answered(
        request_id=request.request_id,
        tenant=request.tenant,
        event_id="event",
        source=Source(topic="generation.requests", partition=PARTITION, offset=0),
        request_digest=request_digest(request),
        worker="worker",
    )


def success_of(request: GenerationRequest, *pictures: ImageContent) -> Completion:
    """A request that was rendered."""
    refs = image_refs(pictures, bucket="darkroom", tenant=request.tenant, request_id=request.request_id)
    return succeeded(_about(request), refs, work(), completed_at=datetime.now(UTC))


def failure_of(request: GenerationRequest, code: ErrorCode) -> Completion:
    """One that was not."""
    if code is ErrorCode.CANCELLED:
        return cancelled(_about(request), completed_at=datetime.now(UTC))
    return failed(_about(request), code, "it failed", completed_at=datetime.now(UTC))


def progress_of(request: GenerationRequest, steps_done: int, preview: str | None = None) -> Progress:
    """It is so far."""
    return Progress.model_validate(
        {
            "request_id": request.request_id,
            "tenant": request.tenant,
            "stage": "denoise",
            "steps_done": steps_done,
            "steps_total": 22,
            "preview": None if preview is None else {"inline": preview},
            "at": datetime.now(UTC),
        }
    )


def png(width: int, height: int, *, form: str = "PNG") -> bytes:
    """A picture's file: a red limb on black."""
    buffer = io.BytesIO()
    drawn = Image.new("RGB", (width, height))
    drawn.paste((200, 30, 30), (width // 4, height // 8, width // 4 + max(1, width // 12), height * 7 // 8))
    drawn.save(buffer, form)
    return buffer.getvalue()


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem of an answer that is one."""
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["code"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert body["status"] == status
    assert body["detail"]
    assert body["remedy"]
    return body
