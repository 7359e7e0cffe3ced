"""Shared parts of the commands that use Kafka or the store: their settings, and errors in one sentence."""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click
from typing_extensions import override

if TYPE_CHECKING:
    from darkroom.schemas.rights import Role
    from darkroom.schemas.settings import Settings

ASKING_S_MAX: Final = 5.0
"""Seconds that a failed command spends on asking Kafka which rights it lacks."""

ResultT = TypeVar("ResultT")
CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def config_option(command: CommandT) -> CommandT:
    """Add `--config FILE`, the settings file, as the argument `config`."""
    return click.option(
        "--config", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="A TOML file of settings."
    )(command)


def settings_of(config: Path | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings. Says on stderr if they are those of a stack that runs in this folder.

    Raises `click.ClickException`, which click prints as one sentence, with exit code 1.
    """
    from darkroom.schemas.errors import SettingsError
    from darkroom.schemas.settings import load_settings

    try:
        settings = load_settings(config, overrides)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    if settings.discovered_stack is not None:
        click.echo(
            f"Using the stack of {settings.discovered_stack}: Kafka at {settings.kafka.bootstrap_servers}, "
            f"S3 at {settings.s3.endpoint}.",
            err=True,
        )
    return settings


def run(work: Coroutine[Any, Any, ResultT], *, settings: Settings | None = None, role: Role | None = None) -> ResultT:
    """Run a command's work, and raise its failures as `click.ClickException`.

    If Kafka failed and the `role` lacks rights there, the sentence names all of them. An unforeseen failure is one
    sentence, too; its traceback is kept in a file for the report.
    """
    from darkroom.producer import tasks
    from darkroom.producer.kafka.connection import KafkaUnavailable
    from darkroom.producer.kafka.topics import TopicRefused
    from darkroom.producer.store.objects import ObjectsError
    from darkroom.schemas.errors import RequestRejected, SettingsError

    _speak_in_sentences()
    try:
        return tasks.run(work)
    except (KafkaUnavailable, TopicRefused) as error:
        raise click.ClickException(_lacking(error, settings, role) or str(error)) from error
    except (ObjectsError, SettingsError) as error:
        raise click.ClickException(str(error)) from error
    except RequestRejected as error:
        raise click.ClickException(error.message) from error
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise  # click's own ways to end, and a closed pipe behind the output
    except Exception as error:
        raise click.ClickException(
            f"The command ended unexpectedly with {tasks.described(error)}. The traceback is in "
            f"{_kept_traceback(error)}: please report it."
        ) from error


def _lacking(error: Exception, settings: Settings | None, role: Role | None) -> str | None:
    """Return a sentence with the rights that the role lacks; None if it has all, or if that is unknown."""
    import asyncio

    from aiokafka.errors import KafkaConnectionError

    from darkroom.producer import tasks
    from darkroom.producer.kafka.connection import KafkaUnavailable
    from darkroom.producer.kafka.rights_check import missing_rights, said

    if settings is None or role is None or isinstance(error.__cause__, KafkaConnectionError):
        return None

    async def ask() -> str | None:
        async with asyncio.timeout(ASKING_S_MAX):
            missing = await missing_rights(settings, role)
        return said(settings, role, missing) if missing else None

    try:
        return tasks.run(ask())
    except (KafkaUnavailable, TimeoutError):
        return None


def _kept_traceback(error: Exception) -> str:
    """Write a traceback to a file, and return its path."""
    with tempfile.NamedTemporaryFile("w", prefix="darkroom-", suffix=".log", delete=False, encoding="utf-8") as file:
        file.write("".join(traceback.format_exception(error)))
        return file.name


@contextlib.asynccontextmanager
async def telling_of_outages() -> AsyncIterator[None]:
    """Report on stderr when Kafka or the store goes away or returns, while a command follows them.

    Not used before a command has connected: one that cannot connect ends with a sentence of its own.
    """
    from darkroom.producer.logs import telling_by_libraries
    from darkroom.producer.outages import watch_outages
    from darkroom.producer.tasks import TaskSupervisor

    async with TaskSupervisor() as tasks:
        tasks.keep("outages", watch_outages)
        with telling_by_libraries():
            yield


def fail(sentence: str) -> NoReturn:
    """End the command with exit code 1 and a sentence on stderr."""
    raise click.ClickException(sentence)


def is_for_people(*, as_json: bool) -> bool:
    """Return whether a command's output is read by a person: on a terminal, and not asked for as JSON."""
    return not as_json and sys.stdout.isatty()


def is_watched() -> bool:
    """Return whether stderr is a terminal, on which progress bars are shown."""
    return sys.stderr.isatty()


def _speak_in_sentences() -> None:
    """Log to stderr in our own sentences. The libraries' lines, which say the same less clearly, are silenced."""
    for name in ("aiokafka", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Sentences())
        root.addHandler(handler)
        logging.getLogger("darkroom.producer.outages").setLevel(logging.INFO)


class _Sentences(logging.Formatter):
    @override
    def format(self, record: logging.LogRecord) -> str:
        # Without the traceback that may come with a record.
        return record.getMessage()
