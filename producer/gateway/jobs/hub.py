"""What this process knows of all jobs by following their events, and who waits for news of which.

One per process: completions and progress are read once, whatever the number of callers. Everything is bounded; what is
forgotten is in the store, so nobody who was told wrongly of nothing stays without an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from statistics import fmean, median
from typing import Final

from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.progress import Progress

Identity = tuple[str, str]
"""Tenant and request id."""

RATE_WINDOW_S: Final = 60.0
"""The span over which the fleet's rate is measured: some dozens of pictures of a small fleet."""
RECENT_MAX: Final = 10_000
"""Completions that the rate is counted from: 160 a second for a minute, beyond which the span gets shorter."""
ACTIVE_S: Final = 30.0
"""A job of which nothing was heard for so long does not count as being painted."""


class Watch:
    """The latest of one job, for one who waits. What came between two looks is passed over."""

    __slots__ = ("_event", "completion", "progress")

    def __init__(self, completion: Completion | None, progress: Progress | None) -> None:
        self.completion = completion
        self.progress = progress
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Have whoever waits look."""
        self._event.set()

    async def changed(self, timeout_s: float) -> bool:
        """Wait for news since the last call. False where there was none within `timeout_s`."""
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Recent:
    """What the last completions say of the fleet."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int | None, float | None]] = deque(maxlen=RECENT_MAX)
        self._since = clock()

    def add(self, completion: Completion) -> None:
        """One more, unless it only repeats an outcome."""
        if not completion.replayed:
            rows = None if completion.batch is None else completion.batch.rows_max
            self._seen.append((self._clock(), rows, completion.timings_ms.queued))

    def per_second(self) -> float | None:
        """Completions a second; None where too few were seen to say."""
        self._forget()
        if len(self._seen) < 2:
            return None
        # From the first that is counted, so that a fleet that just began is not thought to be slow.
        span_s = max(1.0, self._clock() - self._seen[0][0])
        return len(self._seen) / span_s

    def batch_rows_mean(self) -> float | None:
        """Images that shared a step at the most, on average over the requests."""
        self._forget()
        rows = [rows for _, rows, _ in self._seen if rows is not None]
        return fmean(rows) if rows else None

    def queued_ms_p50(self) -> float | None:
        """The median of what requests waited before a worker took them."""
        self._forget()
        queued = [queued for _, _, queued in self._seen if queued is not None]
        return median(queued) if queued else None

    def _forget(self) -> None:
        horizon = self._clock() - RATE_WINDOW_S
        while self._seen and self._seen[0][0] < horizon:
            self._seen.popleft()


class Hub:
    """For one event loop. `clock` is monotonic, in seconds."""

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
        self.is_following = False
        """Whether events come in: what a look into the store found is believed only while they do."""

    # --- What comes in -----------------------------------------------------------------------------------

    def on_completion(self, completion: Completion) -> None:
        """A record was answered: with its job's outcome, with a repetition of it, or with a conflict.

        A conflict is another record's end, and says nothing of the job. A repetition adds nothing to what is known.
        """
        self.recent.add(completion)
        if completion.error is not None and completion.error.code is ErrorCode.REQUEST_ID_CONFLICT:
            return
        if not (completion.replayed and (completion.tenant, completion.request_id) in self._completions):
            self.learn(completion)

    def learn(self, completion: Completion) -> None:
        """The outcome that stands, from wherever it is known."""
        identity = (completion.tenant, completion.request_id)
        self._drop_progress(identity)
        self._completions[identity] = completion
        if len(self._completions) > self._completions_max:
            self._completions.popitem(last=False)
        for watch in self._watches.get(identity, ()):
            watch.completion = completion
            watch.wake()

    def on_progress(self, progress: Progress) -> None:
        """A job is so far. What comes after its outcome, from another topic, is of no interest."""
        identity = (progress.tenant, progress.request_id)
        if identity in self._completions:
            return
        earlier = self._progress.get(identity)
        if progress.preview is None and earlier is not None and earlier[0].preview is not None:
            # The last preview is shown until there is another.
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

    # --- What is asked -----------------------------------------------------------------------------------

    def completion(self, identity: Identity) -> Completion | None:
        """The outcome, where it was seen and not forgotten."""
        return self._completions.get(identity)

    def progress(self, identity: Identity) -> Progress | None:
        """The latest progress, where it was seen and not forgotten."""
        found = self._progress.get(identity)
        return None if found is None else found[0]

    @property
    def active(self) -> int:
        """Jobs that are being painted, of those that tell their progress."""
        horizon = self._clock() - ACTIVE_S
        return sum(at >= horizon for _, at in self._progress.values())

    @property
    def watches(self) -> int:
        """How many wait."""
        return sum(len(watches) for watches in self._watches.values())

    @contextlib.contextmanager
    def watching(self, identity: Identity) -> Iterator[Watch]:
        """Keep a watch on a job. Begin it before looking elsewhere, so that nothing falls between."""
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
        """Have everyone who waits look: the process is about to end."""
        for watches in self._watches.values():
            for watch in watches:
                watch.wake()


def _bytes_of(progress: Progress) -> int:
    return 0 if progress.preview is None else len(progress.preview.inline)
