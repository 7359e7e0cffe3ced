"""Keeps the latest events of all jobs, and wakes those who wait for a job.

There is one hub per process: completions and progress are read once for all callers. The hub is bounded. The store
still has the outcomes that the hub has forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from statistics import fmean, median
from typing import Final

from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import Completion, Status
from darkroom.schemas.events.progress import Progress

Identity = tuple[str, str]
"""Tenant and request id."""

RATE_WINDOW_S: Final = 60.0
"""The seconds over which the fleet's rate is measured: a small fleet makes some dozens of pictures in them."""
RECENT_MAX: Final = 10_000
"""Completions that the rate is counted from: 160 a second for a minute; above that rate the span is shorter."""
ACTIVE_S: Final = 30.0
"""Seconds without an event after which a job no longer counts as running."""


class Watch:
    """The latest events of one job, for one waiting caller. Events between two looks are skipped."""

    __slots__ = ("_event", "completion", "progress")

    def __init__(self, completion: Completion | None, progress: Progress | None) -> None:
        self.completion = completion
        self.progress = progress
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Wake the waiting caller."""
        self._event.set()

    async def changed(self, timeout_s: float) -> bool:
        """Wait for an event since the last call. Return whether one came within `timeout_s` seconds."""
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Recent:
    """Statistics of the fleet's latest completions."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int | None, float | None]] = deque(maxlen=RECENT_MAX)
        self._since = clock()

    def add(self, completion: Completion) -> None:
        """Add a completion, unless it only repeats an outcome."""
        if not completion.replayed:
            rows = None if completion.batch is None else completion.batch.rows_max
            self._seen.append((self._clock(), rows, completion.timings_ms.queued))

    def per_second(self) -> float | None:
        """Return the completions per second, or None after fewer than two."""
        self._forget()
        if len(self._seen) < 2:
            return None
        # Since the first one counted, so that a fleet that just started does not look slow.
        span_s = max(1.0, self._clock() - self._seen[0][0])
        return len(self._seen) / span_s

    def batch_rows_mean(self) -> float | None:
        """Return the requests' mean of the largest batch that each was rendered in, in images."""
        self._forget()
        rows = [rows for _, rows, _ in self._seen if rows is not None]
        return fmean(rows) if rows else None

    def queued_ms_p50(self) -> float | None:
        """Return the median time until a worker took a request, in milliseconds."""
        self._forget()
        queued = [queued for _, _, queued in self._seen if queued is not None]
        return median(queued) if queued else None

    def _forget(self) -> None:
        horizon = self._clock() - RATE_WINDOW_S
        while self._seen and self._seen[0][0] < horizon:
            self._seen.popleft()


class Hub:
    """The hub of one event loop. `clock` is monotonic, in seconds."""

    def __init__(
        self, *, clock: Callable[[], float], completions_max: int, progress_max: int, progress_bytes_max: int
    ) -> None:
        self._clock = clock
        self._completions: OrderedDict[Identity, Completion] = OrderedDict()
        self._completions_max = completions_max
        self._progress: OrderedDict[Identity, tuple[Progress, float]] = OrderedDict()
        self._progress_max = progress_max
        self._progress_bytes = 0
        self._progress_bytes_max = progress_bytes_max
        self._watches: dict[Identity, set[Watch]] = {}
        self.recent = Recent(clock)
        self._worked_at: float | None = None
        self.is_following = False
        """Whether events are being followed. Only then may an older look into the store be trusted."""

    # --- Events ------------------------------------------------------------------------------------------

    def on_completion(self, completion: Completion) -> None:
        """Take the completion of a record: its job's outcome, a repetition of that, or a conflict.

        A conflict ends another record of the same id, and says nothing about the job. A repetition adds nothing.
        """
        self.recent.add(completion)
        self._worked_at = self._clock()
        if completion.error is not None and completion.error.code is ErrorCode.REQUEST_ID_CONFLICT:
            return
        is_repeated = completion.replayed and (completion.tenant, completion.request_id) in self._completions
        if not is_repeated or completion.status is Status.ERASED:
            self.learn(completion)

    def learn(self, completion: Completion) -> None:
        """Take a job's outcome from a completion or from the store. Nothing follows on an erasure."""
        identity = (completion.tenant, completion.request_id)
        known = self._completions.get(identity)
        if known is not None and known.status is Status.ERASED:
            return
        self._drop_progress(identity)
        self._completions[identity] = completion
        if len(self._completions) > self._completions_max:
            self._completions.popitem(last=False)
        for watch in self._watches.get(identity, ()):
            watch.completion = completion
            watch.wake()

    def on_progress(self, progress: Progress) -> None:
        """Take a job's progress, unless its outcome came first: they come from different topics."""
        self._worked_at = self._clock()
        identity = (progress.tenant, progress.request_id)
        if identity in self._completions:
            return
        earlier = self._progress.get(identity)
        if progress.preview is None and earlier is not None and earlier[0].preview is not None:
            # The last preview is shown until another comes.
            progress = progress.model_copy(update={"preview": earlier[0].preview})
        self._drop_progress(identity)
        self._progress[identity] = (progress, self._clock())
        self._progress_bytes += _bytes_of(progress)
        while len(self._progress) > self._progress_max or self._progress_bytes > self._progress_bytes_max:
            self._drop_progress(next(iter(self._progress)))
        for watch in self._watches.get(identity, ()):
            watch.progress = progress
            watch.wake()

    def _drop_progress(self, identity: Identity) -> None:
        gone = self._progress.pop(identity, None)
        if gone is not None:
            self._progress_bytes -= _bytes_of(gone[0])

    # --- Look-ups ----------------------------------------------------------------------------------------

    def completion(self, identity: Identity) -> Completion | None:
        """Return the outcome, if it was seen and not forgotten."""
        return self._completions.get(identity)

    def progress(self, identity: Identity) -> Progress | None:
        """Return the latest progress, if it was seen and not forgotten."""
        found = self._progress.get(identity)
        return None if found is None else found[0]

    @property
    def active(self) -> int:
        """Return the number of running jobs, of those that report progress."""
        horizon = self._clock() - ACTIVE_S
        return sum(at >= horizon for _, at in self._progress.values())

    @property
    def last_work_s(self) -> float | None:
        """Return the seconds since a worker last told of a step or of an outcome, or None if none has."""
        return None if self._worked_at is None else self._clock() - self._worked_at

    @property
    def watches(self) -> int:
        """Return the number of waiting callers."""
        return sum(len(watches) for watches in self._watches.values())

    @contextlib.contextmanager
    def watching(self, identity: Identity) -> Iterator[Watch]:
        """Watch a job. Begin before looking into the store, so that no event is missed in between."""
        watch = Watch(self.completion(identity), self.progress(identity))
        self._watches.setdefault(identity, set()).add(watch)
        try:
            yield watch
        finally:
            watches = self._watches[identity]
            watches.discard(watch)
            if not watches:
                del self._watches[identity]

    def wake_all(self) -> None:
        """Wake every waiting caller: the process is shutting down."""
        for watches in self._watches.values():
            for watch in watches:
                watch.wake()


def _bytes_of(progress: Progress) -> int:
    return 0 if progress.preview is None else len(progress.preview.inline)
