"""The embedded stack: a real Kafka and a real S3 server in one folder, started, found again, and stopped.

What holds, whatever is interrupted:
- nothing is signalled that was not started for this very folder;
- a server that runs is known: its record is written right after its start, and one whose record was lost is found by
  its command line and stopped before another takes its place;
- an `up` that fails leaves running what ran before, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from darkroom.consumer.stack import process, state
from darkroom.consumer.stack.errors import StackError
from darkroom.consumer.stack.kafka import KafkaServer
from darkroom.consumer.stack.launch import Start, launch
from darkroom.consumer.stack.lock import held
from darkroom.consumer.stack.objects import ObjectServer
from darkroom.consumer.stack.process import ProcessId
from darkroom.consumer.stack.restart import check_ports, check_version, next_record
from darkroom.consumer.stack.server import Report, Server
from darkroom.consumer.stack.settings import DEFAULT_DIRECTORY, StackSettings, load_settings
from darkroom.consumer.stack.state import ServerRecord, StackState, StateUnreadable
from darkroom.consumer.stack.tls import TlsListeners

KAFKA: Final = "kafka"
S3: Final = "s3"
LOCK: Final = "lock"


class ServerStatus(NamedTuple):
    """One server, as found."""

    title: str
    running: bool
    """Its process lives."""
    ready: bool
    """It does its work."""
    pid: int | None
    address: str | None
    log: Path


class StackStatus(NamedTuple):
    """The stack, as found. `environment` is empty unless it runs."""

    running: bool
    """Both servers do their work."""
    servers: Mapping[str, ServerStatus]
    environment: Mapping[str, str]


def silent(_line: str) -> None:
    """Takes a line of progress and shows it to nobody."""


class Stack:
    """The stack in one folder. Everything is synchronous; all but `status` wait for others at work in the folder.

    `directory` is made by `up`. `settings` are those of the environment unless given. With `tls` the servers are
    reached over TLS as well. All methods raise `StackError`.
    """

    def __init__(
        self,
        directory: Path = DEFAULT_DIRECTORY,
        settings: StackSettings | None = None,
        tls: TlsListeners | None = None,
    ) -> None:
        self.directory = directory.expanduser().resolve()
        self._tls = tls
        self._settings = load_settings() if settings is None else settings

    def up(self, report: Report = silent) -> StackState:
        """Start what does not run, and return when both servers do their work. `report` takes lines of progress.

        Ports are those of the last time, or new ones where another program has taken them.
        """
        self._make_folder()
        with self._alone("`darkroom up`"):
            current = self._read_or_new(report)
            servers = self._servers(current)
            last = {name: current.processes.get(name) for name in servers}
            missing = {name: server for name, server in servers.items() if _running(server, last[name]) is None}
            for name, server in missing.items():
                check_version(server, last[name])
                self._stop_strays(server, report)
                server.prepare(report)
            for name, server in missing.items():
                current = current.with_record(name, next_record(server, last[name], report))
            return self._launch(current, servers, report)

    def down(self, report: Report = silent) -> list[str]:
        """Stop what runs; the data stays. The names of those that ran: `kafka`, `s3`."""
        if not (self.directory / LOCK).exists():
            return []
        with self._alone("`darkroom down`"):
            current = self._read_or_new(report)
            servers = self._servers(current)
            ran = {name: process.find(server.marker) for name, server in servers.items()}
            self._stop([(servers[name], each) for name, found in ran.items() for each in found])
            for name, record in current.processes.items():
                servers[name].tidy(record.ports)
            if current.processes:
                state.write(self.directory, current, up=False)
            return [name for name, found in ran.items() if found]

    def status(self) -> StackStatus:
        """Return what runs now. Waits for nobody."""
        try:
            current = state.read(self.directory) or state.new_state(self._settings.bucket)
        except StateUnreadable as error:
            raise StackError(
                f"The state in {self.directory} cannot be understood. `darkroom up` repairs it; `darkroom down` stops "
                "what runs."
            ) from error
        servers = {
            name: self._server_status(name, server, current.processes.get(name))
            for name, server in self._servers(current).items()
        }
        running = all(server.ready for server in servers.values())
        return StackStatus(running, servers, current.environment if running else {})

    @property
    def environment(self) -> dict[str, str]:
        """The variables that reach the stack, as `up` left them; whether it runs is not looked at."""
        return dict(self._known().environment)

    def kill_kafka(self) -> None:
        """SIGKILL, as in a crash of the broker. It stays away until `start_kafka` or `up`."""
        self._kill(KAFKA)

    def start_kafka(self) -> None:
        """Start a broker that was killed, on the ports it had. Nothing happens where it runs."""
        self._start_again(KAFKA)

    def kill_s3(self) -> None:
        """SIGKILL, as in a crash of the S3 server. It stays away until `start_s3` or `up`."""
        self._kill(S3)

    def start_s3(self) -> None:
        """Start an S3 server that was killed, on the ports it had. Nothing happens where it runs."""
        self._start_again(S3)

    # --- The folder -------------------------------------------------------------------------------------

    def _make_folder(self) -> None:
        if "," in str(self.directory):
            raise StackError(
                f"{self.directory} has a comma, which the servers take for two folders. Use another --dir."
            )
        try:
            for folder in (self.directory, *(self.directory / name for name in (KAFKA, S3, "logs"))):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            ignored = self.directory / ".gitignore"
            if not ignored.exists():
                ignored.write_text("*\n", encoding="utf-8")  # keys and data do not belong in a repository
        except OSError as error:
            raise StackError(f"{self.directory} cannot be made: {error}. Use another --dir.") from error

    @contextmanager
    def _alone(self, activity: str) -> Iterator[None]:
        with held(self.directory / LOCK, limit_s=self._settings.lock_limit_s, activity=activity):
            try:
                yield
            except OSError as error:
                raise StackError(
                    f"{activity} failed: {error}. Check the disk and the rights to its folders."
                ) from error

    def _read_or_new(self, report: Report) -> StackState:
        try:
            current = state.read(self.directory)
        except StateUnreadable:
            broken = state.set_aside(self.directory)
            report(f"the state could not be read and is now {broken.name}: the data stays, keys and ports are new")
            current = None
        return current or state.new_state(self._settings.bucket)

    def _known(self) -> StackState:
        """The state of a folder that has been up."""
        try:
            current = state.read(self.directory)
        except StateUnreadable:
            current = None
        if current is None or not {KAFKA, S3} <= current.processes.keys():
            raise StackError(f"{self.directory} holds no stack. Run `darkroom up` first.")
        return current

    def _servers(self, current: StackState) -> dict[str, Server]:
        return {
            KAFKA: KafkaServer(self.directory / KAFKA, self._log(KAFKA), self._settings, self._tls),
            S3: ObjectServer(self.directory / S3, current.credentials, self._tls),
        }

    def _log(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"

    # --- The processes ----------------------------------------------------------------------------------

    def _launch(self, current: StackState, servers: Mapping[str, Server], report: Report) -> StackState:
        """Start those of `servers` that do not run, wait for all, and keep the state file true meanwhile."""
        own: list[tuple[Server, ProcessId]] = []
        starts = {
            name: Start(
                server,
                current.processes[name].ports,
                self._log(name),
                _running(server, current.processes[name]),
            )
            for name, server in servers.items()
        }

        def started(name: str, identity: ProcessId) -> None:
            nonlocal current
            own.append((servers[name], identity))
            record = current.processes[name].model_copy(update={"process": identity})
            current = current.with_record(name, record)
            state.write(self.directory, current, up=True)

        current = current.with_addresses(
            **{name: server.address(current.processes[name].ports) for name, server in self._servers(current).items()}
        )
        state.write(self.directory, current, up=True)
        try:
            launch(starts, limit_s=self._settings.start_limit_s, started=started, report=report)
        except BaseException:
            self._stop(own)
            left = [process.find(server.marker) for server in self._servers(current).values()]
            state.write(self.directory, current, up=any(left))
            raise
        return current

    def _stop(self, running: list[tuple[Server, ProcessId]]) -> None:
        for _, each in running:  # side by side: each takes a second
            process.ask_to_stop(each)
        for server, each in running:
            process.stop(each, limit_s=min(server.stop_limit_s, self._settings.stop_limit_s))

    def _stop_strays(self, server: Server, report: Report) -> None:
        """An `up` that was killed between a start and its record leaves a server that nobody knows."""
        strays = process.find(server.marker)
        if strays:
            report(f"stopping a {server.title} of this folder that was left over")
            self._stop([(server, stray) for stray in strays])

    def _kill(self, name: str) -> None:
        self._known()
        with self._alone(f"Killing {name}"):
            current = self._known()
            victim = _running(self._servers(current)[name], current.processes[name])
            if victim is not None:
                process.kill(victim)

    def _start_again(self, name: str) -> None:
        self._known()
        with self._alone(f"Starting {name}"):
            current = self._known()
            server = self._servers(current)[name]
            if _running(server, current.processes[name]) is not None:
                return
            check_ports(server, current.processes[name])
            server.prepare(silent)
            self._launch(current, {name: server}, silent)

    def _server_status(self, name: str, server: Server, record: ServerRecord | None) -> ServerStatus:
        running = _running(server, record)
        if record is None or running is None:
            return ServerStatus(server.title, False, False, None, None, self._log(name))
        ready, address = server.is_ready(record.ports), server.address(record.ports)
        return ServerStatus(server.title, True, ready, running.pid, address, self._log(name))


def _running(server: Server, record: ServerRecord | None) -> ProcessId | None:
    """The recorded process, where it lives and is this folder's: the record in a copied folder names the original's."""
    known = record.process if record is not None else None
    return known if known is not None and process.is_running(known, argument=server.marker) else None
