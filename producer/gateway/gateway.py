"""One running gateway: its services and what is built on them, as the routes find it on the application."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import HTTPConnection, Request

from darkroom.producer.gateway.jobs.acceptance import Acceptance
from darkroom.producer.gateway.jobs.answers import Addresses
from darkroom.producer.gateway.jobs.claims import Claims
from darkroom.producer.gateway.jobs.jobs import Job, Jobs
from darkroom.producer.gateway.jobs.submissions import Submissions
from darkroom.producer.gateway.metrics import Metrics
from darkroom.producer.gateway.principal import Gatekeeper, Principal, Quotas, Scope
from darkroom.producer.gateway.services import Services
from darkroom.producer.tasks import TaskSupervisor
from darkroom.schemas.recipes import Recipes
from darkroom.schemas.settings import Settings


@dataclass(slots=True)
class Gateway:
    """All that the routes need."""

    settings: Settings
    services: Services
    claims: Claims
    jobs: Jobs
    acceptance: Acceptance
    recipes: Recipes
    controls: Mapping[str, str]
    """The kinds of control pictures that workers follow, each with the name of its ControlNet."""
    submissions: Submissions
    gatekeeper: Gatekeeper
    quotas: Quotas
    addresses: Addresses
    metrics: Metrics
    tasks: TaskSupervisor
    streams_open: int = 0
    is_closing: bool = False
    """Whether event streams are to end, so that the process can exit."""

    def unready(self) -> list[str]:
        """Return the sentences that say why this process should get no calls at the moment."""
        if self.is_closing:
            return ["The process is shutting down."]
        return [*self.services.unready(), *self.tasks.unready()]

    async def admit(self, call: HTTPConnection, scope: Scope) -> Principal:
        """Return the caller, and count its call. Raises `Problem`."""
        principal = await self.gatekeeper.identify(call, scope)
        await self.quotas.take_call(principal)
        return principal

    async def waited_for(self, tenant: str, request_id: str, wait_s: float) -> Job:
        """Return a tenant's job once it has an outcome or `wait_s` seconds have passed. Raises `Problem` 404."""
        with self.services.hub.watching((tenant, request_id)) as watch:
            job = await self.jobs.found(tenant, request_id)
            await self.jobs.repair(job)
            return await self.jobs.wait(job, watch, min(wait_s, self.settings.gateway.wait_s_max))

    def close(self) -> None:
        """End every event stream and every wait: the process is shutting down."""
        self.is_closing = True
        self.services.hub.wake_all()


def gateway_of(call: Request) -> Gateway:
    """Return the gateway that serves a call."""
    gateway: Gateway = call.app.state.gateway
    return gateway
