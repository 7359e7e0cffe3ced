"""Proves that a broker of three that hangs costs no command its time limit, whichever broker is asked first."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pytest
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from click.testing import CliRunner, Result

from darkroom import main
from darkroom.producer.kafka.broker_client import harden
from darkroom.schemas.rights import Role
from tests.cluster import roles
from tests.cluster.brokers import Brokers

if TYPE_CHECKING:
    from pathlib import Path

    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

LIMIT_S = 120.0
"""The request's time limit: were a broker that hangs given all of it once, a command would take longer."""
ELECTION_S = "8000"
"""A request's time limit below Kafka's `broker.session.timeout.ms`, after which other leaders are elected."""
FROZEN = 1


@pytest.fixture(scope="module")
def environment(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with Brokers(tmp_path_factory.mktemp("three"), count=3) as brokers:
        made = roles.admin_environment(brokers, stack.environment) | {"DARKROOM_S3__BUCKET": "frozen"}
        first_init = ran(made, "init")
        assert first_init.exit_code == 0, first_init.output
        sent = ran(made, "send", "--prompt", "a dancer")
        assert sent.exit_code == 0, sent.output
        # The frozen one alone is asked first.
        servers = made["DARKROOM_KAFKA__BOOTSTRAP_SERVERS"].split(",")
        servers.insert(0, servers.pop(FROZEN))
        with brokers.frozen(FROZEN):
            yield made | {"DARKROOM_KAFKA__BOOTSTRAP_SERVERS": ",".join(servers)}


def ran(environment: Mapping[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env=dict(environment))


def test_init_outlasts_the_election_of_other_leaders(environment: dict[str, str]) -> None:
    done = ran(environment | {"DARKROOM_KAFKA__REQUEST_TIMEOUT_MS": ELECTION_S}, "init", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["offsets"]["refreshed"] == [0, 1]


@pytest.mark.parametrize(
    "command",
    [
        ("init",),
        ("send", "--prompt", "a dancer"),
        ("cancel", "r-1"),
        ("dlq", "list"),
        ("doctor", "--role", "cancel"),
        ("audit",),
    ],
    ids=lambda command: command[0],
)
def test_no_command_gives_it_the_whole_limit(environment: dict[str, str], command: tuple[str, ...]) -> None:
    patient = environment | {"DARKROOM_KAFKA__REQUEST_TIMEOUT_MS": str(int(LIMIT_S * 1000))}
    begun = time.monotonic()
    done = ran(patient, *command)
    assert time.monotonic() - begun < LIMIT_S
    assert done.exit_code == 0, done.output


async def test_who_needs_a_broker_at_the_same_time_shares_one_connection(environment: dict[str, str]) -> None:
    client = AIOKafkaClient(bootstrap_servers=environment["DARKROOM_KAFKA__BOOTSTRAP_SERVERS"])
    harden(client)
    await client.bootstrap()
    try:
        node = next(one.nodeId for one in client.cluster.brokers() if one.nodeId != FROZEN)
        asked = (
            client._get_conn(FROZEN),
            client._get_conn(node),
            client._get_conn(node, group=ConnectionGroup.DEFAULT),
        )
        frozen, first, second = await asyncio.gather(*asked)
        assert frozen is None
        assert first is second is not None
    finally:
        await client.close()


def test_a_worker_and_a_gateway_start_beside_it(environment: dict[str, str], tmp_path: Path) -> None:
    patient = environment | {"DARKROOM_KAFKA__REQUEST_TIMEOUT_MS": str(int(LIMIT_S * 1000))}
    for role in (Role.WORKER, Role.GATEWAY):
        ended = roles.act(role, patient, tmp_path)
        assert ended.code == 0, ended
