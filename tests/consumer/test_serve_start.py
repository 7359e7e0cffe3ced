"""Proves that a worker that is stopped while it still starts ends at once, also as the first process of a container."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

START_S_MAX = 90.0
END_S_MAX = 30.0
SERVE = [sys.executable, "-m", "darkroom", "serve", "--simulated-device", "0", "--metrics-port", "0"]
NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child"]


@pytest.fixture
def silent_kafka() -> Iterator[socket.socket]:
    """Takes connections and never answers: a worker that asks it is in the middle of its start."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(START_S_MAX)
        yield listening


def _may_make_namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("first", [False, True], ids=["a process", "process 1"])
def test_sigterm_before_there_is_work_ends_it(silent_kafka: socket.socket, tmp_path: Path, first: bool) -> None:
    if first and not _may_make_namespaces():
        pytest.skip("this user may not make process namespaces: process 1 of a container was not tried")
    environment = {
        **os.environ,
        "DARKROOM_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{silent_kafka.getsockname()[1]}",
        "DARKROOM_S3__ENDPOINT": "http://127.0.0.1:9",
    }
    command = [*NAMESPACE, *SERVE] if first else SERVE
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        try:
            connection, _ = silent_kafka.accept()
            worker = psutil.Process(process.pid).children()[0] if first else psutil.Process(process.pid)
            worker.send_signal(signal.SIGTERM)
            assert process.wait(END_S_MAX) == 0
            connection.close()
        finally:
            process.kill()
