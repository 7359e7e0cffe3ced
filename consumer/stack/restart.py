"""Carries over from a server's last run to the next its ports and its data, where they can be used."""

from __future__ import annotations

from darkroom.consumer.stack.errors import StackError
from darkroom.consumer.stack.ports import is_free
from darkroom.consumer.stack.server import Report, Server
from darkroom.consumer.stack.state import ServerRecord


def next_record(server: Server, last: ServerRecord | None, report: Report) -> ServerRecord:
    """The ports to start on: the last ones, so that clients find the server again, where they are free."""
    ports = last.ports if last is not None else {}
    taken = [port for port in ports.values() if not is_free(port)]
    if taken:
        report(f"port {taken[0]} is taken by another program: {server.title} gets new ports")
    if taken or not ports:
        ports = server.choose_ports()
    return ServerRecord(ports=ports, version=server.version)


def check_ports(server: Server, last: ServerRecord) -> None:
    """That the server can start where its clients look for it. Raises `StackError`."""
    taken = [port for port in last.ports.values() if not is_free(port)]
    if taken:
        raise StackError(
            f"Port {taken[0]}, which {server.title} had, is taken by another program. Stop that program, or run "
            f"`darkroom up`, which moves {server.title} to a free port."
        )


def check_version(server: Server, last: ServerRecord | None) -> None:
    """That the data is not of a newer release than the server, which would misread it. Raises `StackError`."""
    if last is not None and _release(last.version) > _release(server.version) > ():
        raise StackError(
            f"{server.folder} holds data of {server.title} {last.version}, which {server.version} cannot read. Use the "
            "release of darkroom that wrote it, another --dir, or remove the folder with its data."
        )


def _release(version: str) -> tuple[int, ...]:
    """Major and minor: data moves between patch releases in both directions."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
