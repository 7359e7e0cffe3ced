"""Settings of the embedded stack: where its parts come from, and how long each step may take.

The variables begin with `DARKROOM_STACK_` (one underscore): they are about the stack itself, while the settings of
everything that uses it are `DARKROOM_<SECTION>__<NAME>`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pydantic import Field, HttpUrl, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from darkroom.consumer.stack.errors import StackError
from darkroom.schemas.faults import said

ENV_PREFIX: Final = "DARKROOM_STACK_"
DIRECTORY_VARIABLE: Final = f"{ENV_PREFIX}DIR"
DEFAULT_DIRECTORY: Final = Path(".darkroom")


def user_cache() -> Path:
    """The folder for what can be fetched again: `$XDG_CACHE_HOME/darkroom`, else `~/.cache/darkroom`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "darkroom"


def remote_repositories(maven_url: HttpUrl | None) -> dict[str, str] | None:
    """Return what jgo takes as the repositories to fetch from; None for its own default, Maven Central."""
    return None if maven_url is None else {"maven": str(maven_url).rstrip("/")}


class StackSettings(BaseSettings):
    """Where the parts come from, and the limits. Each field is also a variable: `DARKROOM_STACK_JAVA`."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_prefix=ENV_PREFIX, env_ignore_empty=True)

    java: Path | None = Field(
        default=None, description="The java program, 17 or newer. When not set: the installed package's, then JAVA_HOME"
    )
    maven_url: HttpUrl | None = Field(
        default=None, description="A mirror of Maven Central to fetch Kafka from. When not set: Maven Central itself."
    )
    cache_dir: Path = Field(
        default_factory=user_cache, description="Where Kafka is kept once it is fetched, for all data folders."
    )
    bucket: str = Field(
        default="darkroom",
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        description="The bucket of a new folder.",
    )
    kafka_heap_mb: int = Field(
        default=384, ge=256, le=65_536, description="Kafka's heap. The default carries thousands of small records/s."
    )
    download_limit_s: float = Field(
        default=300, gt=0, le=3_600, description="For fetching Kafka, 45 MB: enough at 150 KB/s."
    )
    start_limit_s: float = Field(
        default=90,
        gt=0,
        le=3_600,
        description="For both servers to answer: 3 s on an idle machine, 30 s on a busy one.",
    )
    stop_limit_s: float = Field(
        default=20, gt=0, le=600, description="For a server to stop by itself; then it is killed. It takes 1 s."
    )
    lock_limit_s: float = Field(
        default=420,
        gt=0,
        le=7_200,
        description="For another `up` or `down` in the folder to end: a download and a start.",
    )


def load_settings() -> StackSettings:
    """The settings in the environment. Raises `StackError` where one cannot be used."""
    try:
        return StackSettings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ENV_PREFIX + str(first["loc"][0]).upper()
        raise StackError(f"{name} cannot be used: {said(first)}. Correct or unset it.") from error
