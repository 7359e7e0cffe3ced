"""One line of `darkroom doctor`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check."""

    check: str
    passed: bool
    says: str
    remedy: str | None = None
    """What to do; beside a check that passed, what would be better."""
    notes: tuple[str, ...] = ()
    """Why, a sentence each."""
    details: dict[str, Any] = field(default_factory=dict)
