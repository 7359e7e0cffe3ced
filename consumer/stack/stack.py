"""The embedded stack: a real Kafka and a real S3 server in one folder, started, found again, and stopped.

What holds, whatever is interrupted:
- nothing is signalled that was not started for this very folder;
- a server that runs is known: its record is written right after its start, and one whose record was lost is found by
  its command line and stopped before another takes its place;
- an `up` that fails leaves running what ran before, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from consumer.stack import process, state
from consumer.stack.errors import StackError
from consumer.stack.kafka import KafkaServer
from consumer.stack.lock import held
from consumer.stack.objects import ObjectServer
from consumer.stack.ports import is_free
from consumer.stack.server import Report, Server
from consumer.stack.settings import DEFAULT_DIRECTORY, StackSettings, load_settings
from consumer.stack.state import ServerRecord, StackState, StateUnreadable

KAFKA: Final = "kafka"
S3: Final = "s3"
_POLL_S: Final = 0.03
_TAIL_LINES: Final = 12


class ServerStatus(NamedTuple):
    """One server, as found."""

    title: str
    running: bool
    """Its process lives."""
    ready: bool
    """It answers."""
    pid: int | None
    address: str | None
    log: Path


class StackStatus(NamedTuple):
    """The stack, as found. `environment` is empty unless it runs."""

    running: bool
    """Both servers answer."""
    servers: Mapping[str, ServerStatus]
    environment: Mapping[str, str]


class _Started(NamedTuple):
    name: str
    server: Server
    process: process.ProcessId
    log_offset: int


def silent(_line: str) -> None:
    """Takes a line of progress and shows it to nobody."""


class Stack:
    """The stack in one folder. Everything is synchronous; all but `status` wait for others at work in the folder.

    `directory` is made by `up`. `settings` are those of the environment unless given. All methods raise `StackError`.
    """

    def __init__(self, directory: Path = DEFAULT_DIRECTORY, settings: StackSettings | None = None) -> None:
        self.directory = directory.expanduser().resolve()
        self._settings = load_settings() if settings is None else settings

    def up(self, report: Report = silent) -> StackState:
        """Start what does not run, and return when both servers do their work. `report` takes lines of progress.

        Ports are those of the last time, or new ones where another program has taken them.
        """
        with self._held("`darkroom up`", make=True):
            current = self._known_or_new(report)
            servers = self._servers(current)
            self._check_versions(current, servers)
            self._sweep(current, servers, report)
            for name, server in servers.items():
                current = current.with_record(name, _record_to_start(name, server, current, report))
            return self._start(current, servers, report)

    def down(self, report: Report = silent) -> list[str]:
        """Stop what runs; the data stays. The names of those that ran: `kafka`, `s3`."""
        if not self.directory.is_dir():
            return []
        with self._held("`darkroom down`"):
            try:
                current = state.read(self.directory)
            except StateUnreadable:
                report(f"{state.set_aside(self.directory)} is what was left of the state: the servers are looked for")
                current = None
            known = current if current is not None else state.new_state(self._settings.bucket)
            servers = self._servers(known)
            running = {name: self._processes(name, known, server) for name, server in servers.items()}
            self._stop_all([each for found in running.values() for each in found])
            for name, server in servers.items():
                if name in known.processes:
                    server.tidy(known.processes[name].ports)
            if current is not None:
                state.write(self.directory, current, up=False)
            return [name for name, found in running.items() if found]

    def status(self) -> StackStatus:
        """What runs now. Waits for nobody."""
        try:
            current = state.read(self.directory)
        except StateUnreadable as error:
            raise StackError(
                f"{self.directory / state.UP} cannot be understood. `darkroom up` repairs it; `darkroom down` stops "
                "what runs."
            ) from error
        known = current if current is not None else state.new_state(self._settings.bucket)
        servers = {
            name: self._server_status(name, server, known.processes.get(name))
            for name, server in self._servers(known).items()
        }
        running = all(server.ready for server in servers.values())
        return StackStatus(running, servers, known.environment if running else {})

    def kill_kafka(self) -> None:
        """SIGKILL, as a crash of the broker. It stays down until `start_kafka` or `up`."""
        self._kill(KAFKA)

    def start_kafka(self) -> None:
        """Start a killed broker on the ports it had. Nothing happens where it runs."""
        self._start_again(KAFKA)

    def kill_s3(self) -> None:
        """SIGKILL, as a crash of the S3 server. It stays down until `start_s3` or `up`."""
        self._kill(S3)

    def start_s3(self) -> None:
        """Start a killed S3 server on the ports it had. Nothing happens where it runs."""
        self._start_again(S3)

    # --- The folder -------------------------------------------------------------------------------------

    def _servers(self, current: StackState) -> dict[str, Server]:
        return {
            KAFKA: KafkaServer(self.directory / KAFKA, self._log(KAFKA), self._settings),
            S3: ObjectServer(self.directory / S3, current.credentials),
        }

    def _log(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"

    @contextmanager
    def _held(self, activity: str, *, make: bool = False) -> Iterator[None]:
        """Alone in the folder."""
        if make:
            self._make_folder()
        with held(self.directory / "lock", limit_s=self._settings.lock_limit_s, activity=activity):
            yield

    def _make_folder(self) -> None:
        if "," in str(self.directory):
            raise StackError(f"{self.directory} has a comma, which the servers take for two folders. Use another --dir.")
        try:
            for folder in (self.directory, *(self.directory / name for name in (KAFKA, S3, "logs"))):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            ignored = self.directory / ".gitignore"
            if not ignored.exists():
                ignored.write_text("*\n", encoding="utf-8")  # keys and data do not belong in a repository
        except OSError as error:
            raise StackError(f"{self.directory} cannot be made: {error}. Use another --dir.") from error

    def _known_or_new(self, report: Report) -> StackState:
        try:
            current = state.read(self.directory)
        except StateUnreadable:
            broken = state.set_aside(self.directory)
            report(f"the stack's state could not be read and is now {broken.name}: new keys and ports, the same data")
            current = None
        return current if current is not None else state.new_state(self._settings.bucket)

    def _check_versions(self, current: StackState, servers: Mapping[str, Server]) -> None:
        for name, server in servers.items():
            record = current.processes.get(name)
            if record is not None and _release(record.version) > _release(server.version) > (0, 0):
                raise StackError(
                    f"{server.folder} holds data of {server.title} {record.version}, which this {server.version} cannot "
                    "read. Install the newer release, use another --dir, or remove the folder with its data."
                )
