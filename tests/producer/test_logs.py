"""Proves that libraries' lines are bounded, that nothing of ours is, and that debug shows everything."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import structlog
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    ProducerFenced,
    RequestTimedOutError,
)

from darkroom.producer import outages
from darkroom.producer.logs import REPEAT_S, LibraryLines, configure
from darkroom.schemas.settings import LogSettings


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Logging is the process's: give it back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("aiokafka", "urllib3", "asyncio")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, one in levels.items():
        logging.getLogger(name).setLevel(one)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    outages.say_by(None)


class Log:
    """What a process logs with some settings."""

    def __init__(self, *, level: Literal["debug", "info"] = "info", style: Literal["json", "console"] = "json") -> None:
        configure(LogSettings(level=level, format=style), worker="w")
        self.stream = io.StringIO()
        [handler] = logging.getLogger().handlers
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(self.stream)

    @property
    def text(self) -> list[str]:
        return self.stream.getvalue().splitlines()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text]


def flood(number: int = 500) -> None:
    """As aiokafka 0.14 logs while a broker is away."""
    for attempt in range(number):
        logging.getLogger("aiokafka").error("Unable connect to node with id %s: %s", 1, f"refused {attempt}")
        logging.getLogger("aiokafka").error("Unable to update metadata from %s", [1])
        logging.getLogger("aiokafka.consumer.fetcher").error(
            "Failed fetch messages from %s: %s", 1, "NodeNotReadyError"
        )


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_flood_of_kafka_s_client_is_the_outage_s_line(style: Literal["json", "console"]) -> None:
    log = Log(style=style)
    flood()
    assert len(log.text) == 1
    assert "Kafka does not answer" in log.text[0]
    assert "refused 0" in log.text[0]
    assert "aiokafka" in log.text[0]


@pytest.mark.parametrize(
    ("logger", "template", "arguments"),
    [
        ("aiokafka", "Unable to update metadata from %s", ([1],)),
        ("aiokafka", "Unable connect to node with id %s: %s", (1, "refused")),
        ("aiokafka.consumer.fetcher", "Failed fetch messages from %s: %s", (1, RequestTimedOutError())),
        ("aiokafka.consumer.fetcher", "Failed fetch offsets from %s: %s", (1, NodeNotReadyError())),
        ("aiokafka.consumer.group_coordinator", "Heartbeat session expired - marking coordinator dead", ()),
        (
            "aiokafka.consumer.group_coordinator",
            "Heartbeat send request failed: %s. Will retry.",
            (NodeNotReadyError(),),
        ),
        ("aiokafka.producer.sender", "FindCoordinator Request failed: %s", (KafkaConnectionError("gone"),)),
    ],
)
def test_whichever_line_of_kafka_s_client_comes_first_begins_the_outage(
    logger: str, template: str, arguments: tuple[object, ...]
) -> None:
    log = Log()
    logging.getLogger(logger).error(template, *arguments)
    [line] = log.lines
    assert line["event"].startswith("Kafka does not answer")


def test_a_new_cluster_s_missing_coordinator_is_no_outage() -> None:
    log = Log()
    logging.getLogger("aiokafka.consumer.group_coordinator").error(
        "Group Coordinator Request failed: %s", GroupCoordinatorNotAvailableError()
    )
    [line] = log.lines
    assert line["logger"].startswith("aiokafka")


def test_the_store_s_client_floods_neither() -> None:
    log = Log()
    for attempt in range(200):
        logging.getLogger("urllib3.connectionpool").warning(
            "Retrying (%r) after connection broken by '%r': %s", attempt, ConnectionRefusedError(111, "refused"), "/b/k"
        )
    [line] = log.lines
    assert line["event"].startswith("The object store does not answer")
    assert line["source"] == "urllib3.connectionpool"


def test_debug_suppresses_nothing() -> None:
    log = Log(level="debug")
    flood(50)
    assert len([line for line in log.lines if line["logger"].startswith("aiokafka")]) == 150


@pytest.mark.parametrize(
    "error",
    [KafkaConnectionError("Connection closed"), ProducerFenced("There is a newer producer that may have connected")],
    ids=lambda error: type(error).__name__,
)
def test_futures_that_nobody_asked_begin_no_outage(error: KafkaError) -> None:
    log = Log()

    async def forget() -> None:
        for _ in range(20):
            future = asyncio.get_running_loop().create_future()
            future.set_exception(error)
            del future

    asyncio.run(forget())
    gc.collect()
    assert log.text == []


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Unclosed AIOKafkaConnection\nconn: <AIOKafkaConnection host=127.0.0.1 port=9092>", False),
        (
            "Task was destroyed but it is pending!\ntask: <Task coro=<Sender._sender_routine() aiokafka/sender.py>>",
            False,
        ),
        ("Task was destroyed but it is pending!\ntask: <Task coro=<Worker.run() darkroom/worker.py>>", True),
    ],
)
def test_what_a_client_left_behind_is_not_told(said: str, shown: bool) -> None:
    log = Log()
    logging.getLogger("asyncio").error(said)
    assert bool(log.text) is shown


def test_a_future_of_our_own_that_nobody_asked_is_shown() -> None:
    log = Log()

    async def forget() -> None:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(LookupError("ours"))
        del future

    asyncio.run(forget())
    [line] = log.lines
    assert "never retrieved" in line["event"]


def test_what_a_library_says_of_something_else_is_shown_once_a_minute_with_a_count() -> None:
    now = 0.0
    bounded = LibraryLines(clock=lambda: now)

    def record(name: str, number: int) -> logging.LogRecord:
        return logging.LogRecord(name, logging.ERROR, "f.py", 1, "Topic %s not found in cluster", (number,), None)

    shown = [one for one in (record("aiokafka.cluster", number) for number in range(100)) if bounded.filter(one)]
    assert [one.getMessage() for one in shown] == ["Topic 0 not found in cluster"]
    assert bounded.filter(record("another", 0))
    now = REPEAT_S
    again = record("aiokafka.cluster", 7)
    assert bounded.filter(again)
    assert again.getMessage() == "Topic 7 not found in cluster (and 99 more like this since the last one)"


def test_different_exceptions_under_one_template_are_all_shown() -> None:
    log = Log()
    for error in (TypeError("a"), TypeError("b"), KeyError("c")):
        logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=error)
    assert [line["exception"].splitlines()[-1] for line in log.lines] == ["TypeError: a", "KeyError: 'c'"]


def test_our_own_lines_are_never_bounded() -> None:
    log = Log()
    for _ in range(50):
        structlog.get_logger("darkroom.consumer.worker.delivery").info("published")
        logging.getLogger("darkroom.producer.client.client").warning("an unreadable event was passed over")
    assert len(log.text) == 100


def test_a_supervisor_s_line_has_its_fields() -> None:
    log = Log()
    logging.getLogger("darkroom.producer.tasks").error(
        "a task ended", extra={"task": "feed", "error": "TypeError", "in_s": 0.5}
    )
    [line] = log.lines
    assert (line["task"], line["error"], line["in_s"], line["worker"]) == ("feed", "TypeError", 0.5, "w")
