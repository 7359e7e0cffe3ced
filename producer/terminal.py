"""What the commands that talk to Kafka or the store have in common: their settings, and errors as one sentence."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from schemas.settings import Settings

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
    from schemas.errors import SettingsError
    from schemas.settings import load_settings

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


def run(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run a command's work to its end, its foreseen failures translated into `click.ClickException`."""
    from producer.connection import KafkaUnavailable
    from producer.results.objects import ObjectsError
    from producer.topics import TopicRefused
    from schemas.errors import RequestRejected, SettingsError

    _quiet_libraries()
    try:
        return asyncio.run(work)
    except (KafkaUnavailable, TopicRefused, ObjectsError, SettingsError) as error:
        raise click.ClickException(str(error)) from error
    except RequestRejected as error:
        raise click.ClickException(error.message) from error


def fail(sentence: str) -> NoReturn:
    """End the command with exit code 1 and a sentence on stderr."""
    raise click.ClickException(sentence)


def is_watched() -> bool:
    """Whether a person looks at stderr: then there are progress bars."""
    return sys.stderr.isatty()


def _quiet_libraries() -> None:
    """Whoever reads a command's stderr reads our sentence; the libraries' lines before it say the same worse."""
    for name in ("aiokafka", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
