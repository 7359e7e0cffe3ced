"""Configures logging: structlog, one JSON object a line on stderr, or readable lines for a person.

Client libraries log every attempt of theirs, hundreds a second while a server is away. Below level debug, their lines
are bounded here: those that tell of a lost connection count as failures of that server's
`darkroom.producer.outages.Outage`, and of all others the first is shown at once and then how many more there were, once
a minute.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

import structlog

from darkroom.producer import outages
from darkroom.producer.outages import Line, Outage
from darkroom.schemas.settings import LogSettings

OURS: Final = "darkroom"
"""The first part of our own loggers' names: their lines are never bounded."""
FIELDS: Final = ("task", "error", "in_s", "restarts")
"""What `darkroom.producer.tasks` adds to its lines."""
REPEAT_S: Final = 60.0
"""Between two lines of a library about the same thing."""
KEYS_MAX: Final = 500
"""Different lines that are remembered. Beyond it the oldest is forgotten, and may be shown once more."""

_SERVERS: Final = {"aiokafka": outages.KAFKA, "kafka": outages.KAFKA, "urllib3": outages.STORE, "minio": outages.STORE}
"""By the first part of the logger's name, or of the module that an exception's type is from."""
_CONNECTION_LOST: Final = re.compile(
    r"connect|timed ?out|timeout|broken|refused|reset|not ?ready|retry|update metadata|coordinator dead",
    re.IGNORECASE,
)
"""A library's words for a server that is not there, as aiokafka 0.14, urllib3 2 and asyncio say it. Any of them may be
the first of an outage: a broker that dies with a request on its way is met by metadata that cannot be updated, before
any connection is refused. A coordinator that is not available is none: a new cluster has none for some seconds."""

_LEFT_BEHIND: Final = ("Task was destroyed but it is pending", "Unclosed AIOKafkaConnection")
"""How asyncio's lines about aiokafka's tasks and connections begin."""


def configure(settings: LogSettings, **names: str) -> None:
    """Set up logging for this process, the libraries' own included. Every line has the names: `worker`, say."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(allow=FIELDS), *shared],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    everything = root.level <= logging.DEBUG
    if not everything:
        handler.addFilter(LibraryLines())
    for noisy in ("urllib3", "diffusers", "transformers", "PIL", "uvicorn", "httpx"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    # Kafka's client warns of every answer that it will ask for again; what matters of it our edge says itself. Below
    # that its lines hold whole requests.
    logging.getLogger("aiokafka").setLevel(logging.WARNING if everything else max(logging.ERROR, root.level))
    structlog.configure(
        # Filtered first: a line below the level must cost next to nothing.
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # A logger that was kept would stay as it was at its first use, whatever is configured later.
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(**names)
    outages.say_by(_say)


def _say(line: Line) -> None:
    structlog.get_logger("darkroom.outages").log(line.level, line.event, **line.fields)


class LibraryLines(logging.Filter):
    """Bounds what libraries log: see the module. A filter of a handler, called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._shown: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """By the line's key: when it was shown last, and how many have been left out since."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is shown. The number of those that were left out is added to its message."""
        if record.name.partition(".")[0] == OURS:
            return True
        return not (_is_an_echo(record) or _tell_of(record)) and self._is_due(record)

    def _is_due(self, record: logging.LogRecord) -> bool:
        key = _key_of(record)
        now = self._clock()
        with self._lock:
            shown_at, left_out = self._shown.get(key, (float("-inf"), 0))
            if now - shown_at < REPEAT_S:
                self._shown[key] = (shown_at, left_out + 1)
                return False
            self._shown[key] = (now, 0)
            self._shown.move_to_end(key)
            if len(self._shown) > KEYS_MAX:
                self._shown.popitem(last=False)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (and {left_out} more like this since the last one)", ()
        return True


@contextlib.contextmanager
def telling_by_libraries() -> Iterator[None]:
    """While inside, have the libraries' lost connections told of by their servers' outages, and nothing else of theirs.

    For commands, which show no library's lines.
    """
    handler = _Telling()
    loggers = {name: logging.getLogger(name) for name in ("aiokafka", "urllib3")}
    before = {name: (one.level, one.propagate) for name, one in loggers.items()}
    for one in loggers.values():
        one.setLevel(logging.WARNING)
        one.propagate = False
        one.addHandler(handler)
    try:
        yield
    finally:
        for name, one in loggers.items():
            one.removeHandler(handler)
            one.setLevel(before[name][0])
            one.propagate = before[name][1]


class _Telling(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Tell of a lost connection."""
        _tell_of(record)


def _tell_of(record: logging.LogRecord) -> bool:
    """Count a record as a failure of the server that it is about; False where it tells of no lost connection."""
    server = _server_of(record)
    if server is None or not (server.is_on or _CONNECTION_LOST.search(_said(record))):
        return False
    server.failed(record.name, _said(record), answers=False)
    return True


def _is_an_echo(record: logging.LogRecord) -> bool:
    """Return whether asyncio tells of what a client library left behind, which is nobody's business.

    aiokafka keeps a future for each batch, offset and transaction: whoever published has had the error from another. A
    connection or task of its own that was given up is told of when it is collected, often after the server's return.
    """
    if record.name != "asyncio":
        return False
    said = record.getMessage()
    if "Future exception was never retrieved" in said:
        return _server_of(record) is not None
    return said.startswith(_LEFT_BEHIND) and "aiokafka" in said.lower()


def _said(record: logging.LogRecord) -> str:
    """Return a record's message, with its exception's type and message."""
    error = record.exc_info[1] if record.exc_info else None
    message = record.getMessage().partition("\n")[0]
    return message if error is None else f"{message}: {type(error).__name__}: {error}"


def _server_of(record: logging.LogRecord) -> Outage | None:
    """Return the outage that a library's record is about, by its logger or, for asyncio's own, by its exception."""
    if record.levelno < logging.WARNING:
        return None
    server = _SERVERS.get(record.name.partition(".")[0])
    if server is None and record.name == "asyncio" and record.exc_info and record.exc_info[1] is not None:
        server = _SERVERS.get(type(record.exc_info[1]).__module__.partition(".")[0])
    return server


def _key_of(record: logging.LogRecord) -> str:
    """Return what two records about the same thing have in common: logger, template, and where an exception arose."""
    template = str(record.msg).partition("\n")[0]
    place = ""
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{type(error).__name__} {frames[-1].filename}:{frames[-1].lineno}" if frames else type(error).__name__
    return f"{record.name} {template} {place}"
