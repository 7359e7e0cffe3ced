"""One at a time in a folder: a lock on a file, which the kernel takes back from whoever dies."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from darkroom.consumer.stack.errors import StackError

_POLL_S: Final = 0.05


@contextmanager
def held(path: Path, *, limit_s: float, activity: str) -> Iterator[None]:
    """Hold the lock, made if need be; its folder must exist.

    Raises `StackError` when another process holds it for longer than `limit_s`, naming the `activity` that waited.
    """
    end = time.monotonic() + limit_s
    try:
        file = path.open("a")
    except OSError as error:
        raise StackError(f"{path} cannot be opened: {error}. Check the folder and the rights to it.") from error
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise StackError(
                        f"{activity} waited {limit_s:.0f} s for another process that holds {path}. "
                        "Wait until it ends, or stop it, and try again."
                    ) from error
                time.sleep(_POLL_S)
        yield
