"""A second S3 server beside the embedded one: MinIO, where its program is on this machine.

It is no package of an index that pip reads, and takes five minutes of processor time to build, so it is not a part of
the installation: `go install github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c`, and its folder on the PATH.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import urllib3

from consumer.stack.ports import LOOPBACK, free_ports

READY_S_MAX: Final = 30.0
KEYS: Final = ("store-of-a-stranger", "its-secret-key")
MISSING: Final = "MinIO is not on the PATH nor in ~/go/bin: `go install github.com/minio/minio@latest` puts it there"


def minio_program() -> str | None:
    """The program, where there is one."""
    return shutil.which("minio", path=os.pathsep.join([os.environ.get("PATH", ""), str(Path.home() / "go" / "bin")]))


@contextlib.contextmanager
def minio_server(folder: Path) -> Iterator[dict[str, str]]:
    """Run it with its data in `folder`. Yields the variables that reach it."""
    program = minio_program()
    assert program is not None
    port, console = free_ports(2)
    endpoint = f"http://{LOOPBACK}:{port}"
    environment = {
        "MINIO_ROOT_USER": KEYS[0],
        "MINIO_ROOT_PASSWORD": KEYS[1],
        "HOME": str(folder),
        "MINIO_UPDATE": "off",
    }
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                program,
                "server",
                f"--address={LOOPBACK}:{port}",
                f"--console-address={LOOPBACK}:{console}",
                folder / "data",
            ],
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        _until_ready(endpoint, server)
        yield {
            "DARKROOM_S3__ENDPOINT": endpoint,
            "DARKROOM_S3__ACCESS_KEY": KEYS[0],
            "DARKROOM_S3__SECRET_KEY": KEYS[1],
        }
    finally:
        server.kill()
        server.wait()


def _until_ready(endpoint: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_S_MAX
    while time.monotonic() < deadline:
        assert server.poll() is None, "MinIO ended at its start"
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            if urllib3.request("GET", f"{endpoint}/minio/health/ready", timeout=1.0, retries=False).status == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"MinIO was not ready after {READY_S_MAX:.0f} s")
