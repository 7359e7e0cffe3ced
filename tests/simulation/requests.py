"""The records that a simulation sends, and how each of them may end."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.pose import SkeletonPose, StoredPicture
from darkroom.schemas.events.request import GenerationRequest, Output
from darkroom.schemas.wire.codec import encode_request

START = datetime(2030, 1, 1, tzinfo=UTC)
"""The time of day at virtual time 0."""
BUCKET = "darkroom"
POSE_KEY = "poses/pose.png"

Ending = tuple[str, str | None]
"""A completion's status, and its error code."""
OK: Ending = ("succeeded", None)
CONFLICT: Ending = ("failed", ErrorCode.REQUEST_ID_CONFLICT.value)
EXPIRED: Ending = ("expired", ErrorCode.DEADLINE_PASSED.value)
CANCELLED: Ending = ("cancelled", ErrorCode.CANCELLED.value)
CRASHED: Ending = ("failed", ErrorCode.WORKER_CRASH.value)


class Kind(Enum):
    """What is special about a request. Its name stands in the prompt, so that the device knows."""

    PLAIN = "plain"
    DEADLINE = "deadline"
    POSE = "pose"
    POSE_MISSING = "pose-missing"
    REFUSED = "refused"
    UNREADABLE = "unreadable"
    BAD_PREPARE = "bad-prepare"
    CULPRIT = "culprit"
    POISON_PREPARE = "poison-prepare"
    POISON_STEP = "poison-step"


ENDINGS: dict[Kind, frozenset[Ending]] = {
    Kind.PLAIN: frozenset({OK}),
    Kind.DEADLINE: frozenset({OK, EXPIRED}),
    Kind.POSE: frozenset({OK}),
    Kind.POSE_MISSING: frozenset({("failed", ErrorCode.POSE_NOT_FOUND.value)}),
    Kind.REFUSED: frozenset({("failed", ErrorCode.INVALID_REQUEST.value)}),
    Kind.BAD_PREPARE: frozenset({("failed", ErrorCode.POSE_UNREADABLE.value)}),
    Kind.CULPRIT: frozenset({("failed", ErrorCode.RENDER_FAILED.value)}),
    Kind.POISON_PREPARE: frozenset({CRASHED}),
    Kind.POISON_STEP: frozenset({CRASHED}),
}
POISON = (Kind.POISON_PREPARE, Kind.POISON_STEP)
ODD = (
    Kind.DEADLINE,
    Kind.POSE,
    Kind.POSE_MISSING,
    Kind.REFUSED,
    Kind.UNREADABLE,
    Kind.BAD_PREPARE,
    Kind.CULPRIT,
)
LARGE_BYTES = 3_000
"""A record that some topics of dead letters do not take whole."""
REPEATED = (Kind.PLAIN, Kind.POSE, Kind.CULPRIT, Kind.BAD_PREPARE, *POISON)


def kind_of(prompt: str) -> Kind:
    """What the device is to do with a prompt."""
    return Kind(prompt.partition(" ")[0])


@dataclass(slots=True)
class Sent:
    """One record as its producer knows it."""

    request_id: str | None
    kind: Kind
    variant: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class Requests:
    """Makes records; remembers what was asked, and so how it may end."""

    def __init__(self, rng: random.Random, *, odd: float, repeats: float, poison: int) -> None:
        self._rng = rng
        self._odd = odd
        self._repeats = repeats
        self._poison = poison
        self._sent: list[Sent] = []
        self._variants: dict[str, set[int]] = {}
        self.cancelled: set[str] = set()

    def next(self, now: float) -> Sent:
        """A record to be appended now."""
        candidates = [one for one in self._sent[-12:] if one.kind in REPEATED]
        if candidates and self._rng.random() < self._repeats:
            first = self._rng.choice(candidates)
            # Another request under an id that is taken: only where the first one has no fault of its own.
            other = first.kind is Kind.PLAIN and self._rng.random() < 0.3
            sent = self._make(first.request_id or "", first.kind, first.variant + other, now)
        else:
            kind = self._rng.choice(ODD) if self._rng.random() < self._odd else Kind.PLAIN
            if self._poison and self._rng.random() < 0.15:
                self._poison -= 1
                kind = self._rng.choice(POISON)
            sent = self._make(f"r{len(self._sent)}", kind, 0, now)
        self._sent.append(sent)
        if sent.request_id is not None:
            self._variants.setdefault(sent.request_id, set()).add(sent.variant)
        return sent

    def make(self, kind: Kind, now: float) -> Sent:
        """A new request of a kind."""
        sent = self._make(f"r{len(self._sent)}", kind, 0, now)
        self._sent.append(sent)
        if sent.request_id is not None:
            self._variants.setdefault(sent.request_id, set()).add(sent.variant)
        return sent

    def endings(self, sent: Sent) -> frozenset[Ending]:
        """How the record may end."""
        assert sent.request_id is not None
        endings = ENDINGS[sent.kind]
        if len(self._variants[sent.request_id]) > 1:
            endings |= {CONFLICT}
        if sent.request_id in self.cancelled:
            endings |= {CANCELLED}
        return endings

    def any_id(self) -> str:
        """A request id that was sent, or is about to be."""
        return f"r{self._rng.randrange(len(self._sent) + 2)}"

    def _make(self, request_id: str, kind: Kind, variant: int, now: float) -> Sent:
        if kind is Kind.UNREADABLE:
            value = self._rng.choice((None, b"", b"{", b"[]", b'{"request_id": 7}', b"\xff\x00", b"\xff" * LARGE_BYTES))
            return Sent(None, kind, 0, request_id.encode(), value, ())
        if kind is Kind.REFUSED:
            value = b'{"request_id": "%s", "prompt": "refused", "steps": 0}' % request_id.encode()
            return Sent(request_id, kind, variant, request_id.encode(), value, ())
        rng = random.Random(f"{request_id} {variant}")  # so that a repetition asks for the same
        more: dict[str, object] = {}
        if kind is Kind.DEADLINE:
            more["deadline"] = START + timedelta(seconds=now + rng.choice((-1.0, 0.3, 2.0, 30.0)))
        if kind in (Kind.POSE, Kind.POSE_MISSING):
            key = POSE_KEY if kind is Kind.POSE else "poses/none.png"
            more["pose"] = SkeletonPose(image=StoredPicture(bucket=BUCKET, key=key))
        side = rng.choice((64, 64, 64, 128))
        request = GenerationRequest(
            request_id=request_id,
            prompt=f"{kind.value} {request_id}.{variant}",
            steps=rng.randrange(1, 6),
            count=rng.choice((1, 1, 1, 2, 3)),
            width=side,
            height=side,
            priority=rng.randrange(10),
            fidelity=rng.choice(("exact", "economy")),
            output=Output(format="png"),
            **more,
        )
        event = encode_request(request, event_id=f"e-{request_id}.{variant}", time=START + timedelta(seconds=now))
        return Sent(request_id, kind, variant, event.key, event.value, tuple(event.headers))
