"""What the commands that talk to Kafka or the store have in common: their settings, and errors as one sentence."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import tempfile
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from darkroom.schemas.rights import Role
    from darkroom.schemas.settings import Settings

ASKING_S_MAX: Final = 5.0
"""How long a command that failed asks which rights it lacks."""

ResultT = TypeVar("ResultT")
CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def config_option(command: CommandT) -> CommandT:
    """Adds `--config FILE`, the settings file, as the argument `config`."""
    return click.option(
        "--config", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="A TOML file of settings."
    )(command)


def settings_of(config: Path | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings in force. Says on stderr where a stack that runs in this folder was found and is used.

    Raises `click.ClickException`, which click shows as one sentence with exit code 1.
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
    """Run a command's work to its end, its failures translated into `click.ClickException`.

    Where Kafka is what failed, and the `role` lacks rights on it, the sentence names all of them. What nobody foresaw
    is one sentence as well; its traceback is kept in a file for the report.
    """
    from darkroom.producer.kafka.connection import KafkaUnavailable
    from darkroom.producer.kafka.topics import TopicRefused
    from darkroom.producer.store.objects import ObjectsError
    from darkroom.producer.tasks import described
    from darkroom.schemas.errors import RequestRejected, SettingsError

    _speak_in_sentences()
    try:
        return asyncio.run(work)
    except (KafkaUnavailable, TopicRefused) as error:
        raise click.ClickException(_lacking(error, settings, role) or str(error)) from error
    except (ObjectsError, SettingsError) as error:
        raise click.ClickException(str(error)) from error
    except RequestRejected as error:
        raise click.ClickException(error.message) from error
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise  # click's own ways to end, and a reader of the output that has seen enough
    except Exception as error:
        raise click.ClickException(
            f"The command ended unexpectedly with {described(error)}. The traceback is in {_kept_traceback(error)}: "
            "please report it."
        ) from error


def _lacking(error: Exception, settings: Settings | None, role: Role | None) -> str | None:
    """Return the sentence for the rights that the role lacks; None where it has all, or where that is not known."""
    from aiokafka.errors import KafkaConnectionError

    from darkroom.producer.kafka.connection import KafkaUnavailable
    from darkroom.producer.kafka.rights_check import missing_rights, said

    if settings is None or role is None or isinstance(error.__cause__, KafkaConnectionError):
        return None

    async def ask() -> str | None:
        async with asyncio.timeout(ASKING_S_MAX):
            missing = await missing_rights(settings, role)
        return said(settings, role, missing) if missing else None

    try:
        return asyncio.run(ask())
    except (KafkaUnavailable, TimeoutError):
        return None


def _kept_traceback(error: Exception) -> str:
    """Write a traceback to a file. Returns its path."""
    with tempfile.NamedTemporaryFile("w", prefix="darkroom-", suffix=".log", delete=False, encoding="utf-8") as file:
        file.write("".join(traceback.format_exception(error)))
        return file.name


@contextlib.asynccontextmanager
async def telling_of_outages() -> AsyncIterator[None]:
    """Say on stderr when Kafka or the store goes away and comes back, while a command follows what they have.

    From here on, not from the command's beginning: one that cannot begin ends with a sentence of its own.
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


def is_watched() -> bool:
    """Whether a person looks at stderr: then there are progress bars."""
    return sys.stderr.isatty()


def _speak_in_sentences() -> None:
    """Whoever reads a command's stderr reads sentences of ours; the libraries' lines before them say the same worse."""
    for name in ("aiokafka", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Sentences())
        root.addHandler(handler)
        logging.getLogger("darkroom.producer.outages").setLevel(logging.INFO)


class _Sentences(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return the message without the traceback that may come with it."""
        return record.getMessage()
