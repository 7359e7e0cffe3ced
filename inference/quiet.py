"""Keeps the model libraries' progress bars out of the worker's log, which machines read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers.utils.logging
import transformers.utils.logging

_LOGGING: tuple[Any, ...] = (diffusers.utils.logging, transformers.utils.logging)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Stop diffusers and transformers from drawing progress bars inside the block, and restore the previous state."""
    drawing = [logging for logging in _LOGGING if logging.is_progress_bar_enabled()]
    for logging in drawing:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging in drawing:
            logging.enable_progress_bar()
