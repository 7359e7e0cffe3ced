"""Proves that settings which contradict the cluster are told within seconds, by the setting or property to change."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import re
import resource
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaClient, AIOKafkaProducer
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.group import JoinGroupRequest, SyncGroupRequest
from click.testing import CliRunner, Result

from darkroom import main
from darkroom.consumer.core.events import Refusal
from darkroom.inference.engine import LaneEngine
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.schemas.events.completion import Status
from darkroom.schemas.rights import Role
from tests.cluster import roles
from tests.cluster.brokers import Brokers
from tests.integration.by_hand import CountingDevice
from tests.integration.in_process import Producer, running_worker
from tests.producer.deployments import deployment_on

if TYPE_CHECKING:
    from pathlib import Path

    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

LIMIT_S = 120.0
"""A request's time limit here: what is told in less was not waited for."""
DAY_S = 86_400.0
ADVERTISED = "PLAINTEXT://127.0.0.1:1"
"""An address at which nobody listens."""
PARTITIONS = 150
FILES = 256
"""Fewer than a worker of so many partitions opens."""


@pytest.fixture(scope="module")
def environment(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with Brokers(tmp_path_factory.mktemp("one")) as brokers:
        yield roles.admin_environment(brokers, stack.environment) | {
            "DARKROOM_S3__BUCKET": "contradictions",
            "DARKROOM_KAFKA__REQUEST_TIMEOUT_MS": str(int(LIMIT_S * 1000)),
            "DARKROOM_TOPICS__REPLICATION_FACTOR": "1",
        }


def ran(environment: Mapping[str, str], *arguments: str) -> Result:
    begun = time.monotonic()
    done = CliRunner().invoke(main, list(arguments), env=dict(environment))
    assert time.monotonic() - begun < LIMIT_S
    return done


def test_a_listener_that_sends_clients_to_nowhere_is_named(stack: Stack, tmp_path: Path) -> None:
    with Brokers(tmp_path / "redirecting", properties={"advertised.listeners": ADVERTISED}) as brokers:
        made = roles.admin_environment(brokers, stack.environment)
        made["DARKROOM_KAFKA__REQUEST_TIMEOUT_MS"] = str(int(LIMIT_S * 1000))
        for command in (("init",), ("send", "--prompt", "x"), ("doctor", "--role", "doctor"), ("audit",)):
            done = ran(made, *command)
            assert done.exit_code == 1
            assert re.search(r"sends clients on to 127\.0\.0\.1:1, .*advertised\.listeners", done.output), done.output
        ended = roles.act(Role.WORKER, made, tmp_path)
        assert ended.code == 1
        assert "advertised.listeners" in ended.said


def test_a_log_in_that_the_broker_has_not_is_named(stack: Stack, tmp_path: Path) -> None:
    with Brokers(tmp_path / "plain", users_log_in=True) as brokers:
        made = roles.user_environment(brokers, stack.environment, Role.WORKER, 1)
        made["DARKROOM_KAFKA__SASL_MECHANISM"] = "SCRAM-SHA-512"
        for command in (("init",), ("send", "--prompt", "x"), ("doctor", "--role", "doctor")):
            done = ran(made, *command)
            assert done.exit_code == 1
            assert "no log-in by SCRAM-SHA-512. Let DARKROOM_KAFKA__SASL_MECHANISM name one" in done.output


async def test_a_group_of_another_kind_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    made = environment | {"DARKROOM_KAFKA__GROUP_ID": "connectors", "DARKROOM_WORKER__METRICS_PORT": "1"}
    says = "the group connectors has members of another kind"
    async with connector(made["DARKROOM_KAFKA__BOOTSTRAP_SERVERS"], "connectors"):
        done = await asyncio.to_thread(ran, made, "init")
        assert done.exit_code == 1
        assert says in done.output
        assert "DARKROOM_KAFKA__GROUP_ID" in done.output
        doctor = await asyncio.to_thread(ran, made, "doctor", "--role", "gateway", "--json")
        assert says in json.loads(doctor.stdout)["group"]["says"]
        ended = await asyncio.to_thread(roles.act, Role.WORKER, made, tmp_path)
        assert ended.code == 1
        assert says in ended.said


@asynccontextmanager
async def connector(servers: str, group: str) -> AsyncIterator[None]:
    """Have a group with one member that is no consumer, as Kafka Connect's workers are."""
    client = AIOKafkaClient(bootstrap_servers=servers)
    await client.bootstrap()
    try:
        node, member, joined = 0, "", None
        while joined is None or joined.error_code:
            coordinator = await client.send(node, FindCoordinatorRequest(group, 0))
            if coordinator.error_code == 0:
                asked = JoinGroupRequest(group, 60_000, 60_000, member, None, "connect", [("sessioned", b"")])
                joined = await client.send(coordinator.coordinator_id, asked)
                member = joined.member_id
            await asyncio.sleep(0.1)
        sync: Any = SyncGroupRequest(group, joined.generation_id, joined.member_id, None, [(joined.member_id, b"")])
        assert (await client.send(node, sync)).error_code == 0
        yield
    finally:
        await client.close()


def be_a_day_ahead(patch: pytest.MonkeyPatch) -> None:
    """Let every record have the time of a machine whose clock is a day ahead: that stamp is made in compiled code."""
    send = AIOKafkaProducer.send

    @functools.wraps(send)
    async def sent(*arguments: Any, **named: Any) -> Any:
        given = inspect.signature(send).bind(*arguments, **named)
        given.arguments["timestamp_ms"] = int((time.time() + DAY_S) * 1000)
        return await send(*given.args, **given.kwargs)

    patch.setattr(AIOKafkaProducer, "send", sent)


def test_a_sender_whose_clock_is_a_day_ahead_of_the_broker_s_is_told(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ran(environment, "send", "--prompt", "x").exit_code == 0
    be_a_day_ahead(monkeypatch)
    done = ran(environment, "send", "--prompt", "x")
    assert done.exit_code == 1
    assert "clock" in done.output
    assert "NTP" in done.output


async def test_a_worker_whose_clock_is_a_day_ahead_says_so_and_goes_on_when_it_is_set(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = deployment_on(environment)(topics__requests_partitions=1)
    await ensure_topics(settings)
    async with (
        running_worker(settings, LaneEngine(CountingDevice(step_ms=20), rows_max=8)) as worker,
        Producer(settings) as producer,
    ):
        place = await producer.put(json.dumps({"request_id": "r-1", "prompt": "a figure", "steps": 8}).encode())
        with monkeypatch.context() as shifted:
            be_a_day_ahead(shifted)
            async with asyncio.timeout(60):
                while not worker.driver.refusals:
                    await asyncio.sleep(0.02)
            (refused,) = worker.driver.refusals.values()
            assert refused.refusal is Refusal.OTHER
            assert any("clock" in reason for reason in worker._ready().reasons)
        answers = await producer.answers({place})
        assert [one.status for one in answers[place]] == [Status.SUCCEEDED]


def test_a_worker_opens_more_partitions_than_the_soft_limit_of_files(
    environment: dict[str, str], tmp_path: Path
) -> None:
    wide = environment | {
        "DARKROOM_TOPICS__PREFIX": "wide.",
        "DARKROOM_TOPICS__REQUESTS_PARTITIONS": str(PARTITIONS),
        "DARKROOM_KAFKA__GROUP_ID": "wide",
    }
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))  # the worker is a child, and so inherits it
    try:
        ended = roles.act(Role.WORKER, wide, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert ended.code == 0, ended
