"""A page's figures, written down as they come: what ends a run early costs only the figure under way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class Kept:
    """The figures of one page so far."""

    def __init__(self, figures: dict[str, Any], keep: Callable[[], None]) -> None:
        """`keep` writes all figures of the run, `figures` among them."""
        self._figures = figures
        self._keep = keep

    def keep(self, figure: Any, *place: str) -> None:
        """Put a figure at its place, which is a path of names, in the place of an earlier one."""
        *outer, last = place
        inner = self._figures
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[last] = figure
        self._keep()

    def keep_one_more(self, figure: Any, name: str) -> None:
        """Add a figure to the list of that name."""
        self._figures.setdefault(name, []).append(figure)
        self._keep()

    def keep_all(self, figures: Mapping[str, Any]) -> None:
        """Put figures at their names."""
        self._figures.update(figures)
        self._keep()
