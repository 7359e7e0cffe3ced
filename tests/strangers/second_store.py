"""S3 servers beside the embedded one: moto, which the lock file installs, and MinIO, where its program is here.

MinIO is no package of an index that pip reads and takes five minutes of processor time to build: `make proofs` builds
it once, into the folder of the environment's programs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest
import urllib3

from darkroom.consumer.stack.ports import LOOPBACK, free_ports

ROOT: Final = Path(__file__).parents[2]
READY_S_MAX: Final = 30.0
KEYS: Final = ("store-of-a-stranger", "its-secret-key")


def minio_program() -> str | None:
    """The program, where there is one."""
    folders = [os.environ.get("PATH", ""), str(Path(sys.executable).parent), str(Path.home() / "go" / "bin")]
    return shutil.which("minio", path=os.pathsep.join(folders))


@contextlib.contextmanager
def minio_server(folder: Path) -> Iterator[dict[str, str]]:
    """Run MinIO with its data in `folder`. Yields the variables that reach it."""
    program = minio_program()
    if program is None:
        pytest.fail("MinIO's program is not on the PATH, in .venv/bin or in ~/go/bin: `make proofs` builds it")
    port, console = free_ports(2)
    command = [
        program,
        "server",
        f"--address={LOOPBACK}:{port}",
        f"--console-address={LOOPBACK}:{console}",
        str(folder / "data"),
    ]
    environment = {
        "MINIO_ROOT_USER": KEYS[0],
        "MINIO_ROOT_PASSWORD": KEYS[1],
        "HOME": str(folder),
        "MINIO_UPDATE": "off",
    }
    with _running(command, environment, folder, port, "/minio/health/ready") as variables:
        yield variables


@contextlib.contextmanager
def moto_server(folder: Path) -> Iterator[dict[str, str]]:
    """Run moto, which keeps everything in memory and takes any keys. Yields the variables that reach it."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "tests.strangers.moto_program", LOOPBACK, str(port)]
    with _running(command, {"HOME": str(folder), "PYTHONPATH": str(ROOT)}, folder, port, "/moto-api/") as variables:
        yield variables


@contextlib.contextmanager
def _running(
    command: list[str], environment: Mapping[str, str], folder: Path, port: int, ready: str
) -> Iterator[dict[str, str]]:
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=dict(environment), stdout=log, stderr=log)
    endpoint = f"http://{LOOPBACK}:{port}"
    try:
        _until_ready(f"{endpoint}{ready}", server)
        yield {
            "DARKROOM_S3__ENDPOINT": endpoint,
            "DARKROOM_S3__ACCESS_KEY": KEYS[0],
            "DARKROOM_S3__SECRET_KEY": KEYS[1],
        }
    finally:
        server.kill()
        server.wait()


def _until_ready(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_S_MAX
    while time.monotonic() < deadline:
        assert server.poll() is None, f"the server of {address} ended at its start"
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            if urllib3.request("GET", address, timeout=1.0, retries=False).status == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"{address} did not answer after {READY_S_MAX:.0f} s")
