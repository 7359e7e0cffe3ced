"""Turns an outage of Kafka or of the object store into three kinds of log lines, whatever happens meanwhile.

One line when it begins, one a minute while it lasts, one when it ends. Every edge of the process that reaches a server
reports its failures and its successes to that server's `Outage`, and so do the lines that client libraries log (see
`darkroom.producer.logs`). An outage lasts as long as any source fails; since failures come in bursts with successes
between them, it ends only after some seconds without one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

REPEAT_S: Final = 60.0
"""Between two lines about an outage that lasts."""
SETTLE_S: Final = 5.0
"""How long nothing may have failed before an outage is over: servers that restart answer and refuse in turns."""
QUIET_S: Final = 10.0
"""A source that reports no success is taken to be well after so long without a failure: clients try every second."""
RETRY_S_MAX: Final = 90.0
"""The same for a source that reports its successes: above every back-off of this product (30 s and a time-out)."""
TICK_S: Final = 1.0
"""How often it is looked whether a line is due."""
SOURCES_MAX: Final = 32
"""Sources that are told apart; there are about ten."""
ERROR_CHARACTERS_MAX: Final = 500
"""The length to which an error is cut in a line: a library's can quote whole responses."""


class Line(NamedTuple):
    """A line to log."""

    level: int
    """As `logging` counts it."""
    event: str
    fields: dict[str, Any]

    @property
    def sentence(self) -> str:
        """The line for a person."""
        said = {"error": self.fields.get("error"), "after": self.fields.get("lasted_s")}
        after = f" after {said['after']:.0f} s" if said["after"] is not None else ""
        return f"{self.event}{after}" + (f" ({said['error']})" if said["error"] else "") + "."


def _to_the_log(line: Line) -> None:
    """Log by the standard library: a program that embeds the client has configured nothing else."""
    logging.getLogger(__name__).log(line.level, "%s", line.sentence)


_say: Callable[[Line], None] = _to_the_log


def _as_configured(line: Line) -> None:
    _say(line)


class Outage:
    """The absence of one server, as this process sees it. May be told of by any thread.

    Invariants:

    - `a_flood_is_a_line`: however many failures come, at most one line is said at once and one every `REPEAT_S`.
    - `what_began_ends`: every first line is followed by exactly one last line, once nothing fails any more.
    """

    def __init__(
        self,
        subject: str,
        *,
        say: Callable[[Line], None] = _as_configured,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`subject` begins the sentences ("Kafka"). `clock` is monotonic, in seconds."""
        self._subject = subject
        self._say = say
        self._clock = clock
        self._lock = threading.Lock()
        self._failing: dict[str, float] = {}
        """When each source that fails is taken to be well, unless it fails again."""
        self._began_at: float | None = None
        self._failed_at = 0.0
        self._said_at = 0.0
        self._failures = 0
        self._error = ""

    @property
    def is_on(self) -> bool:
        """Return whether the server is away."""
        return self._began_at is not None

    @property
    def error(self) -> str:
        """The last failure's sentence while the server is away; empty otherwise."""
        return self._error if self.is_on else ""

    def failed(self, source: str, error: object, *, answers: bool = True) -> None:
        """Note that `source` was refused or not answered. `answers`: it calls `answered` once it is served again."""
        said = " ".join((str(error) or type(error).__name__).split())[:ERROR_CHARACTERS_MAX]
        with self._lock:
            now = self._clock()
            ended = self._due(now)
            self._failures += 1
            self._failed_at, self._error = now, said
            if source in self._failing or len(self._failing) < SOURCES_MAX:
                self._failing[source] = now + (RETRY_S_MAX if answers else QUIET_S)
            line = self._begin(source, now)
        self._tell(ended)
        self._tell(line or Line(logging.DEBUG, f"{self._subject} failed once more", {"source": source, "error": said}))

    def answered(self, source: str) -> None:
        """Note that `source` was served."""
        if self._failing:
            with self._lock:
                self._failing.pop(source, None)
            self.tick()

    def tick(self) -> None:
        """Say what is due: that it lasts, or that it is over."""
        if self._began_at is None:
            return
        with self._lock:
            line = self._due(self._clock())
        self._tell(line)

    def forget(self) -> None:
        """Be as if nothing had failed yet, and say nothing of it."""
        with self._lock:
            self._failing.clear()
            self._began_at = None

    def _tell(self, line: Line | None) -> None:
        if line is not None:
            self._say(line)

    def _begin(self, source: str, now: float) -> Line | None:
        if self._began_at is not None:
            return None
        self._began_at = self._said_at = now
        self._failures = 1
        fields = {"outage": "began", "source": source, "error": self._error}
        return Line(logging.WARNING, f"{self._subject} does not answer; it is tried again until it does", fields)

    def _due(self, now: float) -> Line | None:
        if self._began_at is None:
            return None
        self._failing = {source: until for source, until in self._failing.items() if until > now}
        fields: dict[str, Any] = {"outage": "lasts", "failures": self._failures}
        if not self._failing and now - self._failed_at >= SETTLE_S:
            fields |= {"outage": "ended", "lasted_s": round(self._failed_at - self._began_at, 1)}
            self._began_at = None
            return Line(logging.INFO, f"{self._subject} answers again", fields)
        if now - self._said_at >= REPEAT_S:
            self._said_at = now
            fields |= {"lasted_s": round(now - self._began_at, 1), "error": self._error}
            return Line(logging.WARNING, f"{self._subject} still does not answer", fields)
        return None


KAFKA: Final = Outage("Kafka")
STORE: Final = Outage("The object store")
REDIS: Final = Outage("Redis")
IDENTITY_PROVIDER: Final = Outage("The identity provider")
KUBERNETES: Final = Outage("The Kubernetes API server")
SIGNER: Final = Outage("The signer of pictures")
CLASSIFIER: Final = Outage("The classifier of pictures")
EVERY: Final = (KAFKA, STORE, REDIS, IDENTITY_PROVIDER, KUBERNETES, SIGNER, CLASSIFIER)


def say_by(say: Callable[[Line], None] | None) -> None:
    """Have the lines of this process's outages shown by `say`; None: by the standard library's logging.

    An outage that is on begins anew, so that the new log has its first line as well.
    """
    global _say  # noqa: PLW0603 - logging is the process's own as well
    _say = say or _to_the_log
    for one in EVERY:
        one.forget()


async def watch_outages() -> None:
    """Have every outage's line said when it is due, until cancelled."""
    while True:
        await asyncio.sleep(TICK_S)
        for one in EVERY:
            one.tick()
