"""Proves that a command says what went wrong in one sentence, foreseen or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import pytest

from darkroom.producer.kafka.connection import KafkaUnavailable
from darkroom.producer.terminal import run


async def raising(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "error",
    [
        UnicodeDecodeError("utf-8", b"caf\xe9", 3, 4, "invalid continuation byte"),
        TypeError("a bytes-like object is required, not 'NoneType'"),
        ExceptionGroup("several", [KeyError("x")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_nobody_foresaw_is_a_sentence_and_its_traceback_is_kept(error: Exception) -> None:
    with pytest.raises(click.ClickException) as caught:
        run(raising(error))
    sentence = caught.value.message
    assert type(error).__name__ in sentence
    assert "\n" not in sentence
    file = Path(sentence.partition("The traceback is in ")[2].partition(": please")[0])
    try:
        assert "Traceback" in file.read_text()
        assert "raise error" in file.read_text()
    finally:
        file.unlink()


def test_what_is_foreseen_is_its_own_sentence() -> None:
    with pytest.raises(click.ClickException, match=r"^Kafka is away\.$"):
        run(raising(KafkaUnavailable("Kafka is away.")))


@pytest.mark.parametrize(
    "ends",
    [lambda: click.UsageError("no"), click.Abort, BrokenPipeError, lambda: click.exceptions.Exit(3)],
    ids=["usage", "abort", "pipe", "exit"],
)
def test_click_s_own_ways_to_end_are_left_to_it(ends: Callable[[], Exception]) -> None:
    error = ends()
    with pytest.raises(type(error)) as caught:
        run(raising(error))
    assert caught.value is error
