"""Proves that with one broker of three dead every command and start succeeds, and a worker's log stays quiet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from darkroom import main
from darkroom.schemas.rights import Role
from tests.cluster import roles
from tests.cluster.brokers import Brokers

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

SENDS = 20
"""Each asks some brokers: were one asked once, a third of all questions would fail."""
LINES_MAX = 10
"""What a worker may say of a dead broker within the seconds that this takes: a line or two of each kind a minute."""


@pytest.fixture(scope="module")
def environment(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with Brokers(tmp_path_factory.mktemp("three"), count=3) as brokers:
        made = roles.admin_environment(brokers, stack.environment) | {"DARKROOM_S3__BUCKET": "wounded"}
        folder = tmp_path_factory.mktemp("worker")
        with roles.serving(Role.WORKER, made, folder) as worker:
            roles.wait_until_ready(*worker)
            answered = roles.act(Role.SEND_WAIT, made, folder)
            assert answered.code == 0, answered
            said = worker[2].read_text()
            brokers.kill(1)
            yield made | {"WORKER_OUT": str(worker[2]), "SAID_BEFORE": str(len(said))}


def ran(environment: Mapping[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env=dict(environment))


def test_with_one_broker_of_three_dead_every_command_succeeds(environment: dict[str, str]) -> None:
    for _ in range(SENDS):
        done = ran(environment, "send", "--prompt", "a dancer")
        assert done.exit_code == 0, done.output
    for command in (("init",), ("watch", "--from-beginning", "--limit", "1"), ("cancel", "r-1"), ("dlq", "list")):
        done = ran(environment, *command)
        assert done.exit_code == 0, (command, done.output)
    rights = ran(environment, "doctor", "--role", "cancel", "--json")
    checks = json.loads(rights.stdout)
    assert {name: one["passed"] for name, one in checks.items()} == {"kafka": True, "rights": True, "topics": True}
    assert ran(environment, "send", "--prompt", "a dancer", "--steps", "1", "--wait", "--timeout", "60").exit_code == 0
    audit = ran(environment, "audit", "--json")
    report = json.loads(audit.stdout)
    assert (report["missing"], report["duplicated"], report["objects_missing"]) == ([], [], []), report


def test_a_worker_and_a_gateway_start_beside_a_dead_broker(environment: dict[str, str], tmp_path: Path) -> None:
    for role in (Role.WORKER, Role.GATEWAY):
        ended = roles.act(role, environment, tmp_path)
        assert ended.code == 0, ended


def test_a_worker_says_little_of_a_dead_broker(environment: dict[str, str]) -> None:
    said = Path(environment["WORKER_OUT"]).read_text()[int(environment["SAID_BEFORE"]) :]
    lines = [line for line in said.splitlines() if '"level": "warning"' in line or '"level": "error"' in line]
    assert len(lines) <= LINES_MAX, said


def test_topics_have_the_brokers_default_of_replicas(environment: dict[str, str]) -> None:
    done = ran(environment | {"DARKROOM_TOPICS__PREFIX": "three."}, "init", "--json")
    assert not [one for one in json.loads(done.stdout)["differences"] if "replica" in one["says"]]
    one = environment | {"DARKROOM_TOPICS__PREFIX": "one.", "DARKROOM_TOPICS__REPLICATION_FACTOR": "1"}
    done = ran(one, "init", "--json")
    told = [one for one in json.loads(done.stdout)["differences"] if "has one replica, and the cluster" in one["says"]]
    assert len(told) == 5
