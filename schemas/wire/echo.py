"""Headers of a request's record that come back on its completion's: correlation ids and the trace's context.

A requester finds its completion by the header that its own framework wrote, and often knows no other way. Names are
compared without regard to case, and what comes back is the record's own: spelling, bytes, order, repetitions, and the
absence of a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from darkroom.schemas.errors import bounded

ECHOED_BY_DEFAULT: Final = (
    "kafka_correlationId",  # Spring for Apache Kafka's ReplyingKafkaTemplate; NestJS
    "REPLY_CORRELATION_ID",  # SmallRye Reactive Messaging's KafkaRequestReply (Quarkus)
    "correlation_id",  # FastStream
    "correlation-id",
    "correlationId",
    "x-correlation-id",
    "cap-corr-id",  # DotNetCore.CAP
    "rbs2-corr-id",  # Rebus
    "tracestate",  # W3C Trace Context, section 3.3
    "baggage",  # W3C Baggage
)
ECHOED_HEADERS_MAX: Final = 32
"""Three times the names above: a header may be repeated."""
ECHOED_BYTES_MAX: Final = 16 * 1024
"""Of names and values together: twice W3C Baggage's 8,192 bytes, so that ids and tracestate fit beside it."""
NAME_CHARACTERS_MAX: Final = 100
_OURS: Final = ("ce_", "ce-", "cloudevents:", "cloudevents_", "darkroom_")
"""How attributes of a CloudEvent and Darkroom's own headers begin."""
_OUR_NAMES: Final = frozenset({"content-type", "traceparent"})
_WARNING_NAMES_CHARACTERS_MAX: Final = 200


def check_name(name: str) -> str:
    """Return the name of a header that may be echoed.

    Raises `ValueError` for one that a completion has of its own: a requester must not be able to replace what the
    completion says of itself. `traceparent` is passed on by itself, where it is valid.
    """
    if not (0 < len(name) <= NAME_CHARACTERS_MAX and name.isascii() and name.isprintable()):
        raise ValueError(
            f"echo_headers has {bounded(name, 40)!r}; a name is 1-{NAME_CHARACTERS_MAX} of printable ASCII"
        )
    if name.lower() in _OUR_NAMES or name.lower().startswith(_OURS):
        raise ValueError(f"echo_headers has {name!r}, which completions have of their own; leave it out")
    if "*" in name:
        raise ValueError(f"echo_headers has {name!r}; name each header, there are no wildcards")
    return name


def echoed(
    headers: Iterable[tuple[str, bytes | None]], names: Sequence[str]
) -> tuple[tuple[tuple[str, bytes | None], ...], str | None]:
    """Return those of a record's headers that come back, and a warning where not all did.

    `names` are the settings'. Headers beyond `ECHOED_HEADERS_MAX` and `ECHOED_BYTES_MAX` are left out, the later ones
    first; one that is too large by itself does not keep out a smaller one behind it.
    """
    wanted = {name.lower() for name in names}
    kept: list[tuple[str, bytes | None]] = []
    left_out: dict[str, None] = {}
    size_bytes = 0
    for name, value in headers:
        if name.lower() not in wanted:
            continue
        own_bytes = len(name.encode("utf-8", "surrogateescape")) + len(value or b"")
        if len(kept) == ECHOED_HEADERS_MAX or size_bytes + own_bytes > ECHOED_BYTES_MAX:
            left_out[name] = None
            continue
        size_bytes += own_bytes
        kept.append((name, None if value is None else bytes(value)))
    if not left_out:
        return tuple(kept), None
    listed = bounded(", ".join(left_out), _WARNING_NAMES_CHARACTERS_MAX)
    limits = f"{ECHOED_HEADERS_MAX} headers and {ECHOED_BYTES_MAX} bytes"
    return tuple(kept), f"headers were not all sent back ({listed}): a completion echoes at most {limits}"
