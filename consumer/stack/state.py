"""State of a stack between two commands: one file, replaced as a whole.

`stack.json` is there while the stack is up, and other programs read its `environment`. When the stack is taken down
it is renamed, so that nobody takes the addresses of servers that are gone; ports and keys are in it for the next time.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from darkroom.consumer.stack.errors import StackError
from darkroom.consumer.stack.process import ProcessId

FORMAT: Final = 1
UP: Final = "stack.json"
DOWN: Final = "stack.down.json"
_BYTES_MAX: Final = 1024 * 1024


class StateUnreadable(Exception):  # noqa: N818 - an event that `up` and `down` deal with
    """The file is torn, or somebody wrote something else into it."""


class Credentials(NamedTuple):
    """Credentials with which clients reach the objects."""

    access_key: str
    secret_key: str
    bucket: str


class ServerRecord(BaseModel):
    """Record of one server."""

    model_config = ConfigDict(frozen=True)

    ports: dict[str, int]
    process: ProcessId | None = None
    """The last one that was started; it need not run."""
    version: str = ""
    """The version whose data the folder holds."""


class StackState(BaseModel):
    """The file's content. `processes` has `kafka` and `s3`; an environment that is empty was never up."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = FORMAT
    environment: dict[str, str]
    """The variables that reach the stack, for `Settings` and for shells."""
    processes: dict[str, ServerRecord]

    @property
    def credentials(self) -> Credentials:
        """The keys and the bucket."""
        return Credentials(
            self.environment["DARKROOM_S3__ACCESS_KEY"],
            self.environment["DARKROOM_S3__SECRET_KEY"],
            self.environment["DARKROOM_S3__BUCKET"],
        )

    def with_record(self, name: str, record: ServerRecord) -> StackState:
        """The state with one server's record replaced."""
        return self.model_copy(update={"processes": {**self.processes, name: record}})

    def with_addresses(self, *, kafka: str, s3: str) -> StackState:
        """The state with an environment that leads to these addresses (`host:port`)."""
        addresses = {"DARKROOM_KAFKA__BOOTSTRAP_SERVERS": kafka, "DARKROOM_S3__ENDPOINT": f"http://{s3}"}
        return self.model_copy(update={"environment": addresses | {**self.environment, **addresses}})


def new_state(bucket: str) -> StackState:
    """The state of a folder that has never been used: fresh keys, nothing started."""
    return StackState(
        environment={
            "DARKROOM_S3__ACCESS_KEY": f"darkroom{secrets.token_hex(6)}",
            "DARKROOM_S3__SECRET_KEY": secrets.token_urlsafe(30),
            "DARKROOM_S3__BUCKET": bucket,
        },
        processes={},
    )


def read(directory: Path) -> StackState | None:
    """The folder's state, whether up or down; None where there is none.

    Raises `StateUnreadable`, or `StackError` where the file is another release's.
    """
    for path in (directory / UP, directory / DOWN):
        try:
            with path.open("rb") as file:
                content = file.read(_BYTES_MAX)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StackError(f"{path} cannot be read: {error}. Run as the user who started the stack.") from error
        return _parsed(path, content)
    return None


def write(directory: Path, state: StackState, *, up: bool) -> None:
    """Replace the file, readable for its owner alone. Raises `StackError` where the folder cannot be written."""
    path, other = (directory / UP, directory / DOWN) if up else (directory / DOWN, directory / UP)
    try:
        descriptor, part = tempfile.mkstemp(prefix=".state-", dir=directory)  # mode 0600
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(state.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(part).replace(path)
        other.unlink(missing_ok=True)
    except OSError as error:
        raise StackError(f"{path} cannot be written: {error}. Make room or rights there, or use --dir.") from error


def set_aside(directory: Path) -> Path:
    """Take an unreadable file out of the way; where to."""
    broken = directory / "stack.broken.json"
    for path in (directory / UP, directory / DOWN):
        if path.exists():
            path.replace(broken)
            break
    return broken


def _parsed(path: Path, content: bytes) -> StackState:
    try:
        loose = json.loads(content)
        found = loose["format"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise StateUnreadable(str(error)) from error
    if found != FORMAT:
        raise StackError(
            f"{path} is of format {found}, and this release of darkroom knows {FORMAT}: the data is another release's. "
            "Use that release, another --dir, or remove the folder with its data."
        )
    try:
        state = StackState.model_validate(loose)
        state.credentials  # noqa: B018 - they must be there
    except (ValidationError, KeyError) as error:
        raise StateUnreadable(str(error)) from error
    return state
