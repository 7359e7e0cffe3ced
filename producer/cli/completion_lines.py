"""Completions as lines for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from darkroom.schemas.events.completion import Completion


def in_words(completion: Completion) -> str:
    """Return when and how a request ended, in one line."""
    images = f"{len(completion.images)} image{'' if len(completion.images) == 1 else 's'}"
    total_ms = completion.timings_ms.total
    parts = [
        f"{completion.completed_at:%Y-%m-%dT%H:%M:%SZ}",
        f"{completion.status.value:9}",
        f"{completion.tenant}/{completion.request_id}",
        images if completion.error is None else f"{completion.error.code.value}: {completion.error.message}",
    ]
    if total_ms is not None:
        parts.append(f"{total_ms / 1000:.1f} s")
    if completion.replayed:
        parts.append("replayed")
    return "  ".join(parts)
