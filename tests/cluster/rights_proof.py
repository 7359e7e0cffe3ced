"""Removes every right of every role, one at a time, on a real broker.

`python -m tests.cluster.rights_proof [ROLE ...]` says how long each sentence took. Exit code 1 if a role does not work
with all of its rights, works without one of them, does not name it, or takes too long to.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from darkroom.producer.kafka.administrator import Administrator
from darkroom.producer.kafka.reader import TopicReader
from darkroom.producer.kafka.rights_check import missing_rights
from darkroom.schemas.rights import Right, Role
from darkroom.schemas.settings import load_settings
from tests.cluster import roles
from tests.cluster.brokers import APP, Brokers
from tests.cluster.rights import grant, withdraw
from tests.cluster.roles import Ended
from tests.integration.in_process import Producer

SEEN_S_MAX = 10.0
"""How long a broker may take to act on a rule that it has accepted."""


class Proof:
    """A broker with an authorizer, a worker of an administrator's, and one user whose rights are given and taken."""

    def __init__(self, brokers: Brokers, store: Mapping[str, str], folder: Path) -> None:
        self._brokers = brokers
        self._store = store
        self._folder = folder
        self._open = ExitStack()
        self._granted: set[Right] = set()
        self._partitions = 2

    def __enter__(self) -> Self:
        environment = roles.admin_environment(self._brokers, self._store)
        worker = self._open.enter_context(roles.serving(Role.WORKER, environment, self._folder))
        roles.wait_until_ready(*worker)
        done = roles.act(Role.SEND_WAIT, environment, self._folder)
        assert done.code == 0, done
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def rights_of(self, role: Role) -> tuple[Right, ...]:
        """Return the rights of a role in this deployment."""
        return roles.table(role)

    def tried(self, role: Role, *, without: Right | None) -> str | None:
        """Do the role's work with all of its rights but one; return what was wrong with what it did, or None."""
        self._have(role, set(self.rights_of(role)) - {without})
        if role is Role.INIT_GROW:
            self._partitions += 1  # or there would be nothing to grow
        if role is Role.DLQ_REPLAY:
            asyncio.run(self._set_a_record_aside())  # or there would be nothing to replay
        ended = roles.act(role, self._user_environment(role), self._folder)
        if without is None:
            return None if roles.works(role, ended) else f"does not work with all of its rights: {ended}"
        if roles.works(role, ended):
            return "works all the same"
        if not roles.says(without, ended):
            return f"does not name it: {ended}"
        return None if ended.seconds < roles.ACT_S_MAX / 2 else f"takes {ended.seconds:.0f} s to name it"

    def missing(self, role: Role, *, granted: Sequence[Right]) -> tuple[Right, ...]:
        """Return what the check finds missing while the user has these rights."""
        self._have(role, set(granted))
        return self._missing(role)

    def run_with(self, command: tuple[str, ...], *, granted: Sequence[Right]) -> Ended:
        """Run a command while the user has these rights."""
        self._have(Role.WORKER, set(granted))
        environment = self._user_environment(Role.WORKER)
        done = subprocess.run(
            [sys.executable, "-m", "darkroom", *command],
            env=environment,
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=roles.ACT_S_MAX,
            check=False,
        )
        return Ended(done.returncode, done.stdout + done.stderr, 0.0)

    def _missing(self, role: Role) -> tuple[Right, ...]:
        return asyncio.run(missing_rights(load_settings(environ=self._user_environment(role)), role))

    def _user_environment(self, role: Role) -> dict[str, str]:
        return roles.user_environment(self._brokers, self._store, role, self._partitions)

    async def _set_a_record_aside(self) -> None:
        """Send what is no request, and wait until the worker has made a dead letter of it."""
        settings = load_settings(environ=roles.admin_environment(self._brokers, self._store))
        async with (
            TopicReader(settings.kafka, [settings.topics.dead_letters]) as reader,
            Producer(settings) as producer,
        ):
            before = sum((await reader.stable_ends()).values())
            await producer.put(b"no request", key=None)
            async with asyncio.timeout(roles.READY_S_MAX):
                while sum((await reader.stable_ends()).values()) <= before:
                    await asyncio.sleep(0.1)

    def _have(self, role: Role, wanted: set[Right | None]) -> None:
        """Grant exactly these, and wait until the broker acts on it."""
        meant = {one for one in wanted if one is not None}
        taken, given = self._granted - meant, meant - self._granted
        self._administer(lambda admin: _change(admin, taken, given))
        self._granted = meant
        expected = set(self.rights_of(role)) - meant
        deadline = time.monotonic() + SEEN_S_MAX
        while (found := set(self._missing(role))) != expected:
            assert time.monotonic() < deadline, (role, found, expected)

    def _administer(self, work: Callable[[Administrator], Awaitable[None]]) -> None:
        async def do() -> None:
            admin = Administrator(bootstrap_servers=self._brokers.bootstrap_servers)
            await admin.start()
            try:
                await work(admin)
            finally:
                await admin.close()

        asyncio.run(do())


async def _change(admin: Any, taken: set[Right], given: set[Right]) -> None:
    for right in taken:
        await withdraw(admin, APP, right)
    for right in given:
        await grant(admin, APP, right)


def main() -> int:
    """Remove every right, and return the exit code."""
    from darkroom.consumer.stack import Stack

    wrong = 0
    with tempfile.TemporaryDirectory() as name, ExitStack() as open_:
        folder = Path(name)
        stack = Stack(folder / "stack")
        stack.up()
        open_.callback(stack.down)
        brokers = open_.enter_context(Brokers(folder / "brokers", users_log_in=True))
        proof = open_.enter_context(Proof(brokers, stack.environment, folder))
        for role in map(Role, sys.argv[1:] or Role):
            for right in (None, *proof.rights_of(role)):
                begun = time.monotonic()
                trouble = proof.tried(role, without=right)
                wrong += trouble is not None
                without = "with all" if right is None else f"without {right.operation} on {right.name}"
                print(f"{time.monotonic() - begun:5.1f} s  {role.value} {without}: {trouble or 'ok'}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
