"""A stack survives crashes, restarts, two starts at once, taken ports and a torn state, and stops only its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from darkroom.consumer.stack import Stack, StackError, StackSettings, process, state
from darkroom.consumer.stack.state import ServerRecord
from tests.stack.clients import first_value, get, make_topic, produce, put

pytestmark = pytest.mark.stack
PROGRAM = "from darkroom.consumer.cli.stack import up; up()"
LIMIT_S = 120


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, stack: Stack) -> Iterator[Stack]:
    """A stack that these tests may break, started by two commands at once. The shared one has fetched Kafka."""
    folder = tmp_path_factory.mktemp("own-stack")
    commands = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "--json", "--dir", str(folder)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    own = Stack(folder)
    try:
        printed = [command.communicate(timeout=LIMIT_S)[0] for command in commands]
        assert [command.returncode for command in commands] == [0, 0]
        assert json.loads(printed[0]) == json.loads(printed[1]) == own.environment
        yield own
    finally:
        own.down()


def processes_of(folder: Path) -> list[int]:
    """Every process that has the folder on its command line."""
    return [
        each.pid for each in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(each.info["cmdline"] or ())
    ]


def test_two_ups_at_once_start_one_stack_which_outlives_them(own: Stack) -> None:
    status = own.status()
    assert status.running
    assert sorted(processes_of(own.directory)) == sorted(server.pid or 0 for server in status.servers.values())


async def test_servers_that_crash_come_back_where_they_were_with_their_data(own: Stack) -> None:
    environment = own.environment
    bootstrap = environment["DARKROOM_KAFKA__BOOTSTRAP_SERVERS"]
    await make_topic(bootstrap, "kept")
    await produce(bootstrap, "kept", b"before the crash")
    put(environment, "kept", b"an object")
    own.kill_kafka()
    own.kill_s3()
    crashed = own.status()
    assert not any(server.running for server in crashed.servers.values())
    assert crashed.environment == {}
    own.start_s3()
    own.start_s3()
    half = own.status()
    assert [server.ready for server in half.servers.values()] == [False, True]
    own.start_kafka()
    assert own.status().environment == environment
    assert await first_value(bootstrap, "kept") == b"before the crash"
    assert get(environment, "kept") == b"an object"


def test_a_crashed_server_whose_port_is_taken_says_so(own: Stack) -> None:
    host, _, port = own.environment["DARKROOM_S3__ENDPOINT"].removeprefix("http://").partition(":")
    own.kill_s3()
    with socket.create_server((host, int(port))), pytest.raises(StackError, match=rf"Port {port}.*darkroom up"):
        own.start_s3()
    lines: list[str] = []
    kafka = own.status().servers["kafka"].pid
    own.up(lines.append)
    assert own.status().running
    assert own.status().servers["kafka"].pid == kafka
    assert [line.partition(" ready")[0] for line in lines] == ["S3"]


async def test_a_restart_keeps_the_data_and_moves_from_a_taken_port(own: Stack) -> None:
    before = own.environment
    host, _, port = before["DARKROOM_KAFKA__BOOTSTRAP_SERVERS"].partition(":")
    assert own.down() == ["kafka", "s3"]
    assert processes_of(own.directory) == []
    assert own.down() == []
    assert not (own.directory / "stack.json").exists()
    lines: list[str] = []
    with socket.create_server((host, int(port))):
        after = own.up(lines.append).environment
    assert f"port {port} is taken by another program: Kafka gets new ports" in lines
    moved = {name for name in before if before[name] != after[name]}
    assert moved == {"DARKROOM_KAFKA__BOOTSTRAP_SERVERS"}
    assert await first_value(after["DARKROOM_KAFKA__BOOTSTRAP_SERVERS"], "kept") == b"before the crash"
    assert get(after, "kept") == b"an object"


def test_a_copied_folder_is_not_the_original(own: Stack, tmp_path: Path) -> None:
    """Its state names the original's processes, which are none of its business."""
    copy = Stack(tmp_path / "copy")
    copy.directory.mkdir()
    for name in ("stack.json", "lock"):
        shutil.copy(own.directory / name, copy.directory)
    assert not any(server.running for server in copy.status().servers.values())
    assert copy.down() == []
    copy.directory.joinpath("stack.down.json").rename(copy.directory / "stack.json")
    copy.kill_kafka()
    assert own.status().running


async def test_a_torn_state_is_repaired_and_nothing_runs_twice(own: Stack) -> None:
    before = own.status()
    (own.directory / "stack.json").write_text('{"format": 1, "environ')
    with pytest.raises(StackError, match=r"`darkroom up` repairs it"):
        own.status()
    after = own.up().environment
    assert not {server.pid for server in before.servers.values()} & set(processes_of(own.directory))
    assert len(processes_of(own.directory)) == 2
    assert after["DARKROOM_S3__SECRET_KEY"] != before.environment["DARKROOM_S3__SECRET_KEY"]
    assert get(after, "kept") == b"an object"
    assert await first_value(after["DARKROOM_KAFKA__BOOTSTRAP_SERVERS"], "kept") == b"before the crash"


def test_a_torn_state_does_not_keep_down_from_stopping(own: Stack) -> None:
    (own.directory / "stack.json").write_text("")
    assert own.down() == ["kafka", "s3"]
    assert processes_of(own.directory) == []


def test_down_leaves_strangers_alone_whatever_the_state_says(tmp_path: Path) -> None:
    """After a restart of the machine the pids of the state are others' processes."""
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", f"-dir={tmp_path}/s3-other"]
    ) as stranger:
        stale = process.ProcessId(stranger.pid, psutil.Process(stranger.pid).create_time() - psutil.boot_time() - 60)
        left = state.new_state("b").with_addresses(kafka="127.0.0.1:1", s3="127.0.0.1:2")
        for name in ("kafka", "s3"):
            left = left.with_record(name, ServerRecord(ports={}, process=stale))
        state.write(tmp_path, left, up=True)
        assert not any(server.running for server in Stack(tmp_path).status().servers.values())
        assert Stack(tmp_path).down() == []
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize("server_says", ["no heap today", "java.net.BindException: Address already in use"])
def test_a_server_that_dies_at_start_shows_its_last_words_and_takes_the_other_down(
    tmp_path: Path, stack: Stack, server_says: str
) -> None:
    broken = Stack(tmp_path / "d", StackSettings(java=a_java(tmp_path, f"echo '{server_says}'; exit 3")))
    with pytest.raises(StackError, match="Kafka ended while it started") as raised:
        broken.up()
    assert server_says in str(raised.value)
    assert f"{tmp_path}/d/logs/kafka.log" in str(raised.value)
    assert ("run `darkroom up` again" in str(raised.value)) == ("already in use" in server_says)
    assert processes_of(tmp_path / "d") == []
    assert not (tmp_path / "d" / "stack.json").exists()


def test_a_server_that_never_gets_ready_ends_at_the_limit(tmp_path: Path, stack: Stack) -> None:
    settings = StackSettings(java=a_java(tmp_path, "exec sleep 60"), start_limit_s=1)
    with pytest.raises(StackError, match=r"Kafka .* does not do its work .* after 1 s.*DARKROOM_STACK_START_LIMIT_S"):
        Stack(tmp_path / "d", settings).up()
    assert processes_of(tmp_path / "d") == []


def a_java(folder: Path, instead: str) -> Path:
    """A program that says which Java it is, and does something else when it is to run Kafka."""
    java = folder / "java"
    java.write_text(f"""#!/bin/sh
if [ "$*" = -version ]; then echo 'openjdk version "21"'; else {instead}; fi
""")
    java.chmod(0o755)
    return java


def test_data_of_a_newer_kafka_is_refused(tmp_path: Path) -> None:
    newer = state.new_state("b").with_record("kafka", ServerRecord(ports={}, version="99.1.0"))
    state.write(tmp_path, newer, up=False)
    with pytest.raises(StackError, match=r"data of Kafka 99\.1\.0.*another --dir"):
        Stack(tmp_path).up()


def test_a_folder_that_two_would_be_made_of_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="comma"):
        Stack(tmp_path / "a,b").up()


def test_faults_need_a_stack(tmp_path: Path) -> None:
    for fault in (Stack(tmp_path).kill_kafka, Stack(tmp_path).start_s3, Stack(tmp_path / "none").kill_s3):
        with pytest.raises(StackError):
            fault()


def test_the_data_folder_is_private_and_ignored_by_git(stack: Stack) -> None:
    assert (stack.directory / ".gitignore").read_text() == "*\n"
    for name in ("kafka", "s3", "logs"):
        assert os.stat(stack.directory / name).st_mode & 0o077 == 0
