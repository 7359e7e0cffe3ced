"""Waits for the completions of some requests and shows how far they are, where somebody looks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from darkroom.producer.tasks import TaskSupervisor
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from darkroom.producer.client.client import Client

BARS_MAX: Final = 8
"""Requests whose steps are shown at a time: what fits under a prompt. The first bar counts all of them."""

Identity = tuple[str, str]


class Display:
    """One bar for all requests and one for each of a few that are being rendered. On stderr; a context manager."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        import sys

        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._bars: Bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console or Console(stderr=True),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # what is piped is none of the bars' business
        )
        self._all: TaskID = self._bars.add_task("requests", total=total)
        self._steps: dict[Identity, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def refresh(self) -> None:
        """Draw now rather than ten times a second."""
        self._bars.refresh()

    def on_progress(self, progress: Progress) -> None:
        """A request is so far."""
        identity = (progress.tenant, progress.request_id)
        if identity not in self._steps:
            if len(self._steps) >= BARS_MAX:
                return
            self._steps[identity] = self._bars.add_task(progress.request_id, total=progress.steps_total)
        self._bars.update(self._steps[identity], completed=progress.steps_done)

    def on_completion(self, completion: Completion) -> None:
        """A request is over."""
        self._bars.advance(self._all)
        bar = self._steps.pop((completion.tenant, completion.request_id), None)
        if bar is not None:
            self._bars.remove_task(bar)


async def follow(
    client: Client,
    waiting: Collection[Identity],
    on_completion: Callable[[Completion], None],
    *,
    timeout_s: float,
    watched: bool,
) -> set[Identity]:
    """Report the completion of each request once, as it comes. Returns the requests that had none in `timeout_s`."""
    missing = set(waiting)
    if not missing:
        return missing
    async with contextlib.AsyncExitStack() as open_:
        display = open_.enter_context(Display(len(missing))) if watched else None
        if display is not None:
            tasks = await open_.enter_async_context(TaskSupervisor())
            tasks.keep("progress_bars", partial(_watch, client, missing, display))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), contextlib.aclosing(client.completions()) as completions:
                async for completion in completions:
                    identity = (completion.tenant, completion.request_id)
                    if identity not in missing:
                        continue
                    missing.discard(identity)
                    if display is not None:
                        display.on_completion(completion)
                    on_completion(completion)
                    if not missing:
                        break
    return missing


async def _watch(client: Client, missing: Collection[Identity], display: Display) -> None:
    """Show the progress of what is still missing, until cancelled. A display that fails costs nobody a completion."""
    async with contextlib.aclosing(client.progress()) as events:
        async for event in events:
            if (event.tenant, event.request_id) in missing:
                display.on_progress(event)
