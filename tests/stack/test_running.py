"""The stack that everybody's tests share is a real Kafka and a real S3 server, and reachable from here alone."""

from __future__ import annotations

from datetime import timedelta

import psutil
import pytest
import urllib3

from darkroom.consumer.stack import Stack, state
from tests.stack.clients import first_value, make_topic, produce, s3_client

pytestmark = pytest.mark.stack


async def test_a_record_goes_through_kafka(kafka_bootstrap: str) -> None:
    await make_topic(kafka_bootstrap, "stack-test")
    await produce(kafka_bootstrap, "stack-test", b"hello")
    assert await first_value(kafka_bootstrap, "stack-test") == b"hello"


def test_a_put_on_condition_has_one_winner(s3_env: dict[str, str]) -> None:
    client, bucket = s3_client(s3_env), s3_env["DARKROOM_S3__BUCKET"]

    def put_if_absent(content: bytes) -> int:
        url = client.presigned_put_object(bucket, "stack-test/result.json", expires=timedelta(minutes=1))
        return urllib3.request("PUT", url, body=content, headers={"If-None-Match": "*"}, retries=False).status

    assert put_if_absent(b"first") == 200
    assert put_if_absent(b"second") == 412
    assert client.get_object(bucket, "stack-test/result.json").read() == b"first"


def test_strangers_are_refused(s3_env: dict[str, str]) -> None:
    url = f"{s3_env['DARKROOM_S3__ENDPOINT']}/{s3_env['DARKROOM_S3__BUCKET']}/"
    assert urllib3.request("GET", url, retries=False).status == 403


def test_readiness_leaves_nothing_in_the_bucket(s3_env: dict[str, str]) -> None:
    names = [found.object_name for found in s3_client(s3_env).list_objects(s3_env["DARKROOM_S3__BUCKET"])]
    # Workers of other tests leave their probe of conditional puts and their boots there.
    assert not [name for name in names if name and name.startswith(".") and name not in (".darkroom/", ".boots/")]


def test_buckets_do_not_run_out_with_the_disk(stack: Stack) -> None:
    """SeaweedFS takes a volume for each bucket, and by itself allows as many as full ones fit on the disk."""
    current = state.read(stack.directory)
    assert current is not None
    master = current.processes["s3"].ports["master.port"]
    status = urllib3.request("GET", f"http://127.0.0.1:{master}/dir/status", retries=False, timeout=5).json()
    assert status["Topology"]["Max"] == 10_000


def test_everything_listens_and_talks_on_loopback_only(stack: Stack) -> None:
    for server in stack.status().servers.values():
        connections = psutil.Process(server.pid).net_connections(kind="inet")
        assert any(each.status == psutil.CONN_LISTEN for each in connections)
        for each in connections:
            assert each.laddr.ip in ("127.0.0.1", "::ffff:127.0.0.1"), each
            assert not each.raddr or each.raddr.ip in ("127.0.0.1", "::ffff:127.0.0.1"), each


def test_up_again_changes_nothing(stack: Stack) -> None:
    before = stack.status()
    lines: list[str] = []
    again = Stack(stack.directory).up(lines.append)
    assert again.environment == before.environment
    assert stack.status() == before
    assert lines == []


def test_the_servers_have_sessions_of_their_own(stack: Stack) -> None:
    """So a Ctrl-C in the shell, or its end, does not reach them."""
    import os

    for server in stack.status().servers.values():
        assert server.pid is not None
        assert os.getsid(server.pid) == server.pid != os.getsid(0)
