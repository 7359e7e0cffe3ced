"""The commands `darkroom up`, `darkroom down` and `darkroom status`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from darkroom.consumer.stack.settings import DEFAULT_DIRECTORY, DIRECTORY_VARIABLE

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _common(command: _Command) -> _Command:
    """The options that all three have."""
    as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, for machines.")
    directory = click.option(
        "--dir",
        "directory",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_DIRECTORY,
        show_default=True,
        envvar=DIRECTORY_VARIABLE,
        show_envvar=True,
        help="The stack's data folder.",
    )
    return directory(as_json(command))


def _progress(line: str) -> None:
    click.echo(line, err=True)


@click.command(epilog='Example: eval "$(darkroom up)"')
@_common
def up(directory: Path, as_json: bool) -> None:
    """Start a Kafka and an S3 server on free loopback ports; do nothing where they run.

    Prints the environment variables that lead to them, as shell commands. Darkroom's other commands find the stack by
    themselves when they run in the same folder. The first time, Kafka is fetched from Maven Central (45 MB).

    What can be set, by environment variables: DARKROOM_STACK_JAVA, DARKROOM_STACK_MAVEN_URL,
    DARKROOM_STACK_CACHE_DIR, DARKROOM_STACK_BUCKET, DARKROOM_STACK_KAFKA_HEAP_MB, DARKROOM_STACK_DOWNLOAD_LIMIT_S,
    DARKROOM_STACK_START_LIMIT_S, DARKROOM_STACK_STOP_LIMIT_S, DARKROOM_STACK_LOCK_LIMIT_S.
    """
    from darkroom.consumer.stack import Stack, StackError

    try:
        environment = Stack(directory).up(_progress).environment
    except StackError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(environment))
        return
    for name, value in environment.items():
        click.echo(f"export {name}={shlex.quote(value)}")
    click.echo(f"the stack is up; its data is in {directory}, and `darkroom down` stops it", err=True)


@click.command(epilog="Example: darkroom down")
@_common
def down(directory: Path, as_json: bool) -> None:
    """Stop the Kafka and the S3 server that `up` started. Their data stays in the folder."""
    from darkroom.consumer.stack import Stack, StackError

    try:
        stopped = Stack(directory).down(_progress)
    except StackError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps({"stopped": stopped}))
    else:
        click.echo(f"stopped: {', '.join(stopped)}" if stopped else f"nothing was running in {directory}")


@click.command(epilog="Example: darkroom status --json")
@_common
def status(directory: Path, as_json: bool) -> None:
    """Say whether the Kafka and the S3 server run, and where. Exit code 1 where one does not."""
    from darkroom.consumer.stack import Stack, StackError

    try:
        found = Stack(directory).status()
    except StackError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        servers = {name: {**server._asdict(), "log": str(server.log)} for name, server in found.servers.items()}
        click.echo(json.dumps({"running": found.running, "directory": str(directory.absolute()), "servers": servers}))
    else:
        for server in found.servers.values():
            word = "ready" if server.ready else "not answering" if server.running else "stopped"
            where = f"{server.address} (process {server.pid})" if server.running else ""
            click.echo(f"{server.title:6} {word:14} {where}".rstrip())
    if not found.running:
        raise click.exceptions.Exit(1)
