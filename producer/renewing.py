"""Holds something that ends, such as keys or a token, and renews it before it does.

Services of temporary keys and tokens leave three things to their clients: that a thousand callers ask once, that what
is held serves while the service is away, and that a service that hangs holds up nobody who could go on. Each fetch runs
on a daemon thread of its own, so neither a caller with a valid lease nor the end of the process ever waits for one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

log = logging.getLogger(__name__)

EARLY_S_MAX: Final = 300.0
"""How long before its end a lease is renewed: longer than a service's restart, and within the last 10 minutes, in which
botocore (1.44) raises a failure instead of logging it."""
EARLY_SHARE: Final = 1 / 3
"""Of a lease's life, where that is less: a token of a minute is renewed 20 s before its end."""
WAIT_S_MAX: Final = 10.0
"""How long a caller without a valid lease waits for one."""
PAUSE_S_MIN: Final = 1.0
"""Between a fetch that failed and the next one. It doubles up to `PAUSE_S_MAX` with each failure in a row."""
PAUSE_S_MAX: Final = 30.0
REFUSED_S_MIN: Final = 10.0
"""Between two fetches that were begun because a lease was refused: a server that refuses everybody for another reason
must not turn each request into a fetch."""

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class Lease(Generic[ValueT]):
    """A value and when it ends."""

    value: ValueT
    ends_at: float | None = None
    """Seconds since 1970; None where it does not end by itself."""


class Renewing(Generic[ValueT]):
    """One lease for any number of threads. Begins its first fetch when it is first asked."""

    def __init__(
        self,
        name: str,
        fetch: Callable[[bool], Lease[ValueT]],
        *,
        failure: Callable[[Exception], Exception],
        wait_s: float = WAIT_S_MAX,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`fetch` is called with True where what is held was refused, and may raise anything.

        `failure` makes of that, or of a `TimeoutError`, the exception that callers get: one sentence with the remedy.
        """
        self._name = name
        self._fetch = fetch
        self._failure = failure
        self._wait_s = wait_s
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._held: Lease[ValueT] | None = None
        self._early_s = 0.0
        self._under_way: threading.Event | None = None
        self._error: Exception | None = None
        self._failures = 0
        self._not_before = 0.0
        self._refused_not_before = 0.0

    def current(self) -> ValueT:
        """Return a valid value; where none is held, wait for one. Raise what `failure` makes of it otherwise."""
        with self._lock:
            lease, under_way = self._look()
            if lease is not None:
                return lease.value
        if under_way is not None and not under_way.wait(self._wait_s):
            raise self._failure(TimeoutError(f"no answer for {self._wait_s:.0f} s"))
        return self._after()

    def held(self) -> ValueT:
        """Return a valid value without waiting. Raise where none is held, and begin to fetch one."""
        with self._lock:
            lease, _ = self._look()
            if lease is not None:
                return lease.value
        return self._after()

    @property
    def error(self) -> Exception | None:
        """The failure that keeps callers from a value; None while a valid one is held, or none was asked for yet."""
        with self._lock:
            lease = self._held
            is_valid = lease is not None and (lease.ends_at is None or lease.ends_at > self._clock())
            return None if is_valid else self._error

    def renewed(self, refused: ValueT) -> bool:
        """Return whether another value than the refused one is held by now, fetched for this call if need be."""
        under_way = self.renew(refused)
        if under_way is not None:
            under_way.wait(self._wait_s)
        with self._lock:
            return self._held is not None and self._held.value != refused

    def renew(self, refused: ValueT) -> threading.Event | None:
        """Return the fetch that is under way for another value than the refused one; None where none is needed or due.

        A fetch is begun for this call if need be. Does not wait for it.
        """
        with self._lock:
            if self._under_way is not None or (self._held is not None and self._held.value != refused):
                return self._under_way
            if self._monotonic() < self._refused_not_before:
                return None
            self._refused_not_before = self._monotonic() + REFUSED_S_MIN
            return self._begin(anew=True)

    def _look(self) -> tuple[Lease[ValueT] | None, threading.Event | None]:
        """Return what is held and valid, and the fetch that is under way; begins one where it is time for it."""
        lease = self._held
        left_s = None if lease is None or lease.ends_at is None else lease.ends_at - self._clock()
        if left_s is not None and left_s <= 0:
            lease = None
        is_due = lease is None or (left_s is not None and left_s <= self._early_s)
        if is_due and self._under_way is None and self._monotonic() >= self._not_before:
            self._begin(anew=False)
        return lease, self._under_way

    def _after(self) -> ValueT:
        with self._lock:
            lease = self._held
            if lease is not None and (lease.ends_at is None or lease.ends_at > self._clock()):
                return lease.value
            raise self._error or self._failure(TimeoutError("the first answer is still waited for"))

    def _begin(self, *, anew: bool) -> threading.Event:
        self._under_way = under_way = threading.Event()
        threading.Thread(target=self._run, args=(anew, under_way), name=self._name, daemon=True).start()
        return under_way

    def _run(self, anew: bool, under_way: threading.Event) -> None:
        try:
            lease = self._fetch(anew)
        except BaseException as error:  # whatever a provider raises, callers get a sentence and the next try comes
            failed = error if isinstance(error, Exception) else RuntimeError(f"it ended with {error!r}")
            self._settle(under_way, None, failed)
        else:
            self._settle(under_way, lease, None)

    def _settle(self, under_way: threading.Event, lease: Lease[ValueT] | None, error: Exception | None) -> None:
        now = self._clock()
        if lease is not None and lease.ends_at is not None and lease.ends_at <= now:
            error = Ended(now - lease.ends_at)
        with self._lock:
            if error is None and lease is not None:
                self._held = lease
                life_s = 0.0 if lease.ends_at is None else lease.ends_at - now
                self._early_s = min(EARLY_S_MAX, life_s * EARLY_SHARE)
                self._error, self._failures, self._not_before = None, 0, 0.0
            elif error is not None:
                self._error = self._failure(error)
                pause_s = min(PAUSE_S_MAX, PAUSE_S_MIN * 2.0 ** min(self._failures, 10))
                self._failures += 1
                self._not_before = self._monotonic() + pause_s
            told, is_held = self._error, self._held is not None
            self._under_way = None
            under_way.set()
        if told is None:
            log.info("renewed: %s", self._name)
        else:
            meanwhile = "what is held serves until it ends" if is_held else "none is held"
            log.warning("not renewed: %s; %s (%s)", self._name, meanwhile, told)


class Ended(Exception):  # noqa: N818 - named for what happened
    """Raised where a lease has ended already when it comes, by this machine's clock."""

    def __init__(self, ago_s: float) -> None:
        super().__init__(
            f"what it gave ended {ago_s:.0f} s ago by this machine's clock: one of the two clocks is wrong"
        )
