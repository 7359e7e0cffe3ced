"""Threads for calls that may never return: a deployment's own classifier, a signature that waits for a server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
ResultT = TypeVar("ResultT")


class DaemonThreads:
    """Runs a few functions at a time, each on a daemon thread of its own.

    A pool's threads are waited for when the process ends: one function that never returns would keep a worker from
    ending. Here it keeps one of the few places, and later callers run into their time limits.
    """

    def __init__(self, number: int, name: str) -> None:
        """Run at most `number` functions at a time, on threads of that name."""
        self._free = asyncio.Semaphore(number)
        self._name = name

    async def run(
        self, function: Callable[Arguments, ResultT], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> ResultT:
        """Return what the function returns, and raise what it raises. May be cancelled; the function then goes on."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[ResultT] = loop.create_future()

        def settle(results: list[ResultT], error: BaseException | None) -> None:
            self._free.release()
            if answer.done():  # nobody waits any more
                return
            if error is None:
                answer.set_result(results[0])
            else:
                answer.set_exception(error)

        def work() -> None:
            results: list[ResultT] = []
            failure: BaseException | None = None
            try:
                results.append(function(*args, **kwargs))
            except Exception as error:
                failure = error
            except BaseException as error:  # an exit is the function's failure, not the process's end
                failure = RuntimeError(f"it ended with {error!r}")
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(settle, results, failure)

        threading.Thread(target=work, name=self._name, daemon=True).start()
        return await answer
