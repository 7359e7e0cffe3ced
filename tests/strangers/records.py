"""The shape of a row about a record: what is published, and the answer that it must have."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests.strangers.table import Stranger


@dataclass(frozen=True, slots=True)
class Sent:
    """A record as it is published. Header names are bytes: those that are no UTF-8 are written with surrogates."""

    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    key: bytes | None = None
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A picture, a `failed` completion, or a dead letter where `request_id` is None."""

    request_id: str | None
    event_id: str | None = None
    is_refused: bool = False
    says: str = ""
    """A part of the message where the record is refused, of a warning where it is painted; no warning where empty."""
    worker_says: str = ""
    """A part of a warning that only a worker adds, since it has a clock to judge times by."""


OWN = "(the row's own)"
"""In a row that is made: the request id that `made` gave its request."""
ENVELOPE: dict[str, Any] = {
    "specversion": "1.0",
    "type": "darkroom.generation.requested.v1",
    "source": "/shop",
    "id": "event-99",
}
PAINTED = Answer(OWN)


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


def made(
    name: str, writer: str, make: Callable[[dict[str, Any], bytes], Sent | bytes], right: Answer
) -> Stranger[Sent, Answer]:
    """Return a row around a request whose id is the row's name, given to `make` as an object and as JSON."""
    request = {"request_id": name, "prompt": "a dancer", "steps": 2}
    sent = make(request, text(request))
    own = replace(right, request_id=name) if right.request_id == OWN else right
    return Stranger(name, writer, sent if isinstance(sent, Sent) else Sent(sent), own)


def refused(says: str, request_id: str | None = None) -> Answer:
    return Answer(request_id, is_refused=True, says=says)
