"""Lets the process open as many files as it may: each partition takes two connections to brokers."""

from __future__ import annotations

import contextlib
import resource

__all__ = ["allow_open_files"]


def allow_open_files() -> None:
    """Raise the soft limit of open files to the hard one.

    Shells and service managers start processes with 1,024, for programs that use select(2). A topic of a thousand
    partitions takes a worker 2,000.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # some systems have a hard limit that they do not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
