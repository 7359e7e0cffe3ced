"""What each role does with exactly the rights of `darkroom.schemas.rights`, and what it says when one of them is
missing.

Every act is a process of its own, as a user who logs in and has only what is granted; a worker and a topic's first
records are there already, made by an administrator. `make proofs` runs all of it, `make test` a part.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from darkroom.consumer.stack.ports import free_ports
from darkroom.producer.kafka.denials import named
from darkroom.schemas.rights import Right, Role, rights_of
from tests.cluster.brokers import APP, APP_PASSWORD, Brokers

GROUP: Final = "darkroom"
IDLE_GROUP: Final = "idle"
"""A group without members: `init` writes no offsets beside live ones."""
ACT_S_MAX: Final = 90.0
"""No act takes longer, whatever is missing: on a machine that does ten other things an interpreter takes seconds."""
READY_S_MAX: Final = 120.0
SEES_S_MAX: Final = 15.0
"""Within this time of its start a process that misses a right has to say so."""

ACTS: Final[Mapping[Role, tuple[str, ...]]] = {
    Role.SEND: ("send", "--prompt", "x"),
    Role.SEND_WAIT: ("send", "--prompt", "x", "--steps", "1", "--wait", "--timeout", "30"),
    Role.CANCEL: ("cancel", "r-1"),
    Role.WATCH: ("watch", "--from-beginning", "--limit", "1"),
    Role.AUDIT: ("audit",),
    Role.DLQ_LIST: ("dlq", "list"),
    Role.DLQ_REPLAY: ("dlq", "replay", "--all", "--yes"),
    Role.INIT: ("init",),
    Role.INIT_GROW: ("init", "--grow-partitions"),
    Role.DOCTOR: ("doctor", "--role", "doctor"),
}


class Ended(NamedTuple):
    """What came of an act."""

    code: int | None
    """None where it ran, and only was not ready."""
    said: str
    seconds: float


def table(role: Role) -> tuple[Right, ...]:
    """Return the rights that the role is said to need."""
    group = IDLE_GROUP if role in (Role.INIT, Role.INIT_GROW) else GROUP
    return rights_of(role, prefix="", group_id=group)


def says(right: Right, ended: Ended) -> bool:
    """Return True if the output names the right, on what, and for whom."""
    said = " ".join(ended.said.split())
    return f"The Kafka user {APP} lacks" in said and named(right) in said


def admin_environment(brokers: Brokers, store: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an administrator, who may do everything."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")},
        **store,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "DARKROOM_KAFKA__BOOTSTRAP_SERVERS": brokers.bootstrap_servers,
        "DARKROOM_KAFKA__GROUP_ID": GROUP,
        "DARKROOM_TOPICS__REQUESTS_PARTITIONS": "2",
        "DARKROOM_TOPICS__COMPLETIONS_PARTITIONS": "1",
        "DARKROOM_S3__BUCKET": "rights",
        "DARKROOM_SIMULATED__STEP_MS": "1",
    }


def user_environment(brokers: Brokers, store: Mapping[str, str], role: Role, partitions: int) -> dict[str, str]:
    """Return the environment of the user who has only what is granted, and wants so many partitions of requests."""
    return {
        **admin_environment(brokers, store),
        "DARKROOM_KAFKA__BOOTSTRAP_SERVERS": brokers.users_bootstrap_servers,
        "DARKROOM_KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "DARKROOM_KAFKA__SASL_MECHANISM": "PLAIN",
        "DARKROOM_KAFKA__SASL_USERNAME": APP,
        "DARKROOM_KAFKA__SASL_PASSWORD": APP_PASSWORD,
        "DARKROOM_KAFKA__GROUP_ID": IDLE_GROUP if role in (Role.INIT, Role.INIT_GROW) else GROUP,
        "DARKROOM_TOPICS__REQUESTS_PARTITIONS": str(partitions),
    }


def act(role: Role, environment: Mapping[str, str], folder: Path) -> Ended:
    """Do what the role does, to its end, or until a process that stays is ready or says why it is not."""
    begun = time.monotonic()
    if role in (Role.WORKER, Role.GATEWAY, Role.HOOKS):
        with serving(role, environment, folder) as (process, port, out):
            code, said = _ready(process, port)
            said += out.read_text()
        return Ended(code, said, time.monotonic() - begun)
    done = subprocess.run(
        [sys.executable, "-m", "darkroom", *ACTS[role]],
        env=dict(environment),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=ACT_S_MAX,
        check=False,
    )
    return Ended(done.returncode, done.stdout + done.stderr, time.monotonic() - begun)


def works(role: Role, ended: Ended) -> bool:
    """Return True if the role did its work."""
    # The audit's own verdict may be bad while requests are under way.
    return ended.code == 0 or (role is Role.AUDIT and '"records"' in ended.said)


@contextmanager
def serving(
    role: Role, environment: Mapping[str, str], folder: Path
) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    """Run what serves while the block runs: the process, its port, and the file with what it prints."""
    (port,) = free_ports(1)
    out = folder / f"{role.value}-{port}.out"
    environment = dict(environment)
    command = ["gateway", "--port", str(port)]
    if role is not Role.GATEWAY:
        command = ["serve" if role is Role.WORKER else "hooks", "--metrics-port", str(port)]
    if role is Role.HOOKS:
        callbacks = folder / "callbacks.toml"
        callbacks.write_text(f'[tenants.default]\nsecrets = ["whsec_{"A" * 32}"]\n')
        environment["DARKROOM_HOOKS__FILE"] = str(callbacks)
    with out.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "darkroom", *command], env=environment, cwd=folder, stdout=file, stderr=file
        )
    try:
        yield process, port, out
    finally:
        process.kill()
        process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], port: int, out: Path) -> None:
    """Wait for a process that has all it needs. Raises `AssertionError` with its output otherwise."""
    deadline = time.monotonic() + READY_S_MAX
    while (answer := _readiness(port))[0] != 200:
        assert process.poll() is None, (answer, out.read_text())
        assert time.monotonic() < deadline, (answer, out.read_text())
        time.sleep(0.1)


def _ready(process: subprocess.Popen[bytes], port: int) -> tuple[int | None, str]:
    """Return the exit code, 0 for a process that is ready, None for one that names a missing right."""
    deadline = time.monotonic() + READY_S_MAX
    while process.poll() is None:
        status, said = _readiness(port)
        if status == 200:
            return 0, said
        if "lacks" in said or time.monotonic() > deadline:
            return None, said
        time.sleep(0.1)
    return process.returncode, ""


def _readiness(port: int) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, "\n".join(json.loads(error.read()).get("reasons", ()))
    except OSError as error:
        return 0, repr(error)
