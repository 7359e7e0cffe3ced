"""How a bug is put into the running code: replaced attributes and handlers, for as long as a context lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from darkroom.consumer.core.core import Core
from darkroom.consumer.core.jobflow import JobFlow
from tests.simulation.faults import Focus


@dataclass(frozen=True, slots=True)
class Mutation:
    """One bug."""

    name: str
    caught_by: frozenset[str]
    focus: Focus | None
    """What its histories are to have much of."""
    apply: Callable[[], Any]
    """Makes the context in which the bug is there."""


MUTATIONS: dict[str, Mutation] = {}


def mutation(
    *caught_by: str, focus: Focus | None = None
) -> Callable[[Callable[[], Iterator[None]]], Callable[[], Iterator[None]]]:
    """Declare a generator function as a mutation; its docstring says what the bug is."""

    def declare(bug: Callable[[], Iterator[None]]) -> Callable[[], Iterator[None]]:
        MUTATIONS[bug.__name__] = Mutation(bug.__name__, frozenset(caught_by), focus, contextmanager(bug))
        return bug

    return declare


@contextmanager
def replaced(owner: Any, name: str, other: Any) -> Iterator[None]:
    """Another attribute for a while."""
    original = owner.__dict__[name]
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def handler(event: type[Any], other: Callable[[Core, Any, float], None]) -> Iterator[None]:
    """Another handler of an event, in every core that is made meanwhile."""
    init = Core.__init__

    def making(self: Core, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self._handlers[event] = lambda one, now: other(self, one, now)

    with replaced(Core, "__init__", making):
        yield


@contextmanager
def flow_handler(event: type[Any], other: Callable[[JobFlow, Any, float], None]) -> Iterator[None]:
    """The same for an event that the flow of jobs handles."""
    with handler(event, lambda core, one, now: other(core.flow, one, now)):
        yield
