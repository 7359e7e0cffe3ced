"""Proves that sessions that end and passwords that change are taken up by clients that live, without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from darkroom.inference.engine import LaneEngine
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.schemas.events.completion import Status
from darkroom.schemas.rights import Role, rights_of
from darkroom.schemas.settings import Settings
from tests.cluster.brokers import APP, APP_PASSWORD, Brokers
from tests.cluster.rights import grant
from tests.cluster.test_refusals import request
from tests.integration.by_hand import CountingDevice, admin, until_no_lag
from tests.integration.fleet import until
from tests.integration.in_process import Producer, running_worker
from tests.producer.deployments import deployment_on

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

SESSION_MS = 3_000


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    properties = {"connections.max.reauth.ms": str(SESSION_MS)}
    with Brokers(tmp_path_factory.mktemp("brokers"), properties=properties, users_log_in=True) as started:
        yield started


@pytest.fixture
async def administrator(stack: Stack, brokers: Brokers) -> Settings:
    """Who may do everything, in a deployment whose user may do what workers may."""
    environment = {**stack.environment, "DARKROOM_KAFKA__BOOTSTRAP_SERVERS": brokers.bootstrap_servers}
    settings = deployment_on(environment)(topics__requests_partitions=2)
    await ensure_topics(settings)
    async with admin(settings) as granting:
        for right in rights_of(Role.WORKER, prefix=settings.topics.prefix, group_id=settings.kafka.group_id):
            await grant(granting, APP, right)
    return settings


def worker_settings(stack: Stack, brokers: Brokers, administrator: Settings, password: Path) -> Settings:
    environment = {
        **stack.environment,
        "DARKROOM_KAFKA__BOOTSTRAP_SERVERS": brokers.users_bootstrap_servers,
        "DARKROOM_KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "DARKROOM_KAFKA__SASL_MECHANISM": "PLAIN",
        "DARKROOM_KAFKA__SASL_USERNAME": APP,
        "DARKROOM_KAFKA__SASL_PASSWORD_FILE": str(password),
        "DARKROOM_KAFKA__SESSION_TIMEOUT_MS": "6000",
    }
    return deployment_on(environment)(
        topics__prefix=administrator.topics.prefix,
        kafka__group_id=administrator.kafka.group_id,
        s3__bucket=administrator.s3.bucket,
        topics__requests_partitions=2,
    )


async def test_sessions_that_end_do_not_touch_readiness(
    stack: Stack, brokers: Brokers, administrator: Settings, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text(APP_PASSWORD)
    settings = worker_settings(stack, brokers, administrator, password)
    engine = LaneEngine(CountingDevice(), rows_max=8)
    async with running_worker(settings, engine) as worker, Producer(administrator) as producer:
        await producer.answers({await producer.put(request())})
        await until(lambda: worker._ready().well, 30, "readiness")
        unready: set[str] = set()
        for _ in range(4 * SESSION_MS // 100):
            await asyncio.sleep(0.1)
            unready.update(worker._ready().reasons)
        assert unready == set()


async def test_a_password_that_changes_is_read_by_clients_that_live(
    stack: Stack, brokers: Brokers, administrator: Settings, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text(APP_PASSWORD)
    settings = worker_settings(stack, brokers, administrator, password)
    engine = LaneEngine(CountingDevice(), rows_max=8)
    async with running_worker(settings, engine) as worker, Producer(administrator) as producer:
        await producer.answers({await producer.put(request())})
        await until(lambda: worker._ready().well, 30, "readiness")
        password.write_text("a password that the broker does not know yet")
        await until(lambda: not worker._ready().well, 60, "the new password to be used")
        password.write_text(f"{APP_PASSWORD}\n")
        places = {await producer.put(request()) for _ in range(4)}
        answers = await producer.answers(places)
        assert {one.status for place in places for one in answers[place]} == {Status.SUCCEEDED}
        await until_no_lag(administrator)
        await until(lambda: worker._ready().well, 60, "readiness to come back")
