"""A bucket of somebody else's stays as it is, to the byte, whatever command of ours is pointed at it.

Every command runs as a process, as its user starts it. What is compared is all that the server shows: the bucket's
documents, and of each version of each object its bytes, headers and tags.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from darkroom.consumer.stack import Stack
from darkroom.producer.store.lifecycle import read_lifecycle
from darkroom.schemas.settings import load_settings
from tests.integration.fleet import WorkerProcess
from tests.integration.gateways import GatewayProcess
from tests.strangers.conftest import Place
from tests.strangers.foreign_bucket import ForeignBucket, differences
from tests.strangers.test_buckets import DATED, OF_AN_OWNER, OURS_NEW, document

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND_S_MAX = 120.0
PREFIX = "team/darkroom/"
OLD_VERSIONS = (
    "<Rule><ID>old-versions</ID><Filter><Prefix>raw/</Prefix></Filter><Status>Enabled</Status>"
    "<NoncurrentVersionExpiration><NoncurrentDays>3</NoncurrentDays></NoncurrentVersionExpiration></Rule>"
)
_OURS_EVERYWHERE = (".boots/", ".darkroom/", ".dead-letters/")

pytestmark = pytest.mark.stack


def command(environment: Mapping[str, str], *arguments: str, folder: Path | None = None) -> str:
    """Run a command of ours to its end, which must be a good one; what it says on stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "darkroom", *arguments],
        env={**os.environ, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=COMMAND_S_MAX,
        check=False,
    )
    assert done.returncode == 0, f"darkroom {' '.join(arguments)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def variables(kafka: Mapping[str, str], place: Place, **more: str) -> dict[str, str]:
    """What leads the commands to Kafka, and to a bucket of a name that nobody has, on a server of the table."""
    name = uuid.uuid4().hex[:8]
    return {
        **kafka,
        **place.environment,
        "DARKROOM_S3__BUCKET": f"theirs-{name}",
        "DARKROOM_TOPICS__PREFIX": f"t{name}.",
        "DARKROOM_TOPICS__REQUESTS_PARTITIONS": "1",
        "DARKROOM_KAFKA__GROUP_ID": f"group-{name}",
        **more,
    }


def use_everything(environment: Mapping[str, str], folder: Path) -> list[str]:
    """Every command that has to do with the bucket, and a picture by each way in. Returns the keys of the pictures."""
    command(environment, "init", "--json")
    worker = WorkerProcess(environment, folder, "worker", "--simulated-device", "0")
    gateway = GatewayProcess(environment, folder, "gateway")
    try:
        worker.wait_ready()
        gateway.wait_ready()
        sent = ["send", "--prompt", "a dancer", "--request-id", "by-kafka", "--steps", "2", "--wait", "--json"]
        command(environment, *sent)
        order = {"request_id": "by-http", "prompt": "a dancer", "steps": 2}
        accepted = httpx.post(f"{gateway.url}/v1/generations", json=order, timeout=60, trust_env=False)
        assert accepted.status_code == 202, accepted.text
        job = f"{gateway.url}/v1/generations/by-http"
        done = httpx.get(job, params={"wait": 40}, timeout=60, trust_env=False).json()
        assert done["status"] == "succeeded", done
        assert httpx.get(f"{job}/images/0", timeout=60, trust_env=False).status_code == 200
        watched = command(
            environment, "watch", "--from-beginning", "--limit", "2", "--save", str(folder / "saved"), "--json"
        )
        command(environment, "audit")
        command(environment, "dlq", "list")
        assert worker.drain() == 0
        assert gateway.end() == 0
    finally:
        for process in (worker.process, gateway.process):
            if process.poll() is None:
                process.kill()
                process.wait()
    completions = [json.loads(line) for line in watched.splitlines()]
    assert len([path for path in (folder / "saved").rglob("*") if path.is_file()]) == len(completions) == 2
    return [image["key"] for one in completions for image in one["images"]]


def test_nothing_of_a_bucket_changes_but_what_is_ours(stack: Stack, place: Place, tmp_path: Path) -> None:
    environment = variables(stack.environment, place)
    theirs = ForeignBucket(load_settings(environ=environment))
    theirs.fill(OF_AN_OWNER, is_locked=True)
    ours = (*_OURS_EVERYWHERE, "default/by-kafka/", "default/by-http/")
    before = theirs.state(ours)
    keys = use_everything(environment, tmp_path)
    command(environment, "doctor", "--json")
    assert all(key.startswith(("default/by-kafka/0-", "default/by-http/0-")) for key in keys), keys
    assert differences(before, theirs.state(ours)) == {}


def test_with_a_prefix_and_days_one_rule_comes_and_nothing_else(stack: Stack, place: Place, tmp_path: Path) -> None:
    environment = variables(
        stack.environment, place, DARKROOM_S3__PREFIX=PREFIX.rstrip("/"), DARKROOM_S3__RETENTION_DAYS="9"
    )
    theirs = ForeignBucket(load_settings(environ=environment))
    theirs.fill(document(OLD_VERSIONS, DATED))
    rules, before = theirs.rules(), theirs.state((PREFIX,))
    keys = use_everything(environment, tmp_path)
    assert all(key.startswith(f"{PREFIX}default/") for key in keys), keys
    assert differences(before, theirs.state((PREFIX,))).keys() == {"lifecycle"}
    assert read_lifecycle(theirs.rules()).others(PREFIX) == read_lifecycle(rules).others(PREFIX)
    if place.name == "seaweedfs":  # which keeps the very bytes
        assert theirs.rules().replace(OURS_NEW.replace("d/", PREFIX, 1).encode(), b"") == rules


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    """An embedded stack that this test stops and starts again."""
    made = Stack(tmp_path / "stack")
    try:
        yield made
    finally:
        made.down()


def test_demo_down_and_up_leave_the_other_buckets_of_the_embedded_server(own_stack: Stack, tmp_path: Path) -> None:
    folder = str(own_stack.directory)
    reached: dict[str, str] = json.loads(command({}, "up", "--dir", folder, "--json"))
    environment = {**reached, "DARKROOM_S3__BUCKET": "somebody-elses"}
    theirs = ForeignBucket(load_settings(environ=environment))
    theirs.fill(OF_AN_OWNER)
    before = theirs.state(())
    command(environment, "demo", "--dir", folder, "--out", str(tmp_path / "out"))
    assert differences(before, theirs.state(())) == {}
    command({}, "down", "--dir", folder)
    again: dict[str, str] = json.loads(command({}, "up", "--dir", folder, "--json"))
    found_again = ForeignBucket(load_settings(environ={**again, "DARKROOM_S3__BUCKET": "somebody-elses"}))
    assert differences(before, found_again.state(())) == {}
