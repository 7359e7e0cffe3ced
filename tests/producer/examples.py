"""Completions, pictures and records to test with; each argument changes one thing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from darkroom.producer.outcomes.completions import Answered, Work, image_refs, succeeded
from darkroom.schemas.events.completion import BatchSeen, Completion, Cost, ModelRef, PromptRead, Source, Timings

NOON = datetime(2027, 1, 31, 12, 0, 0, tzinfo=UTC)
DIGEST = "sha256:" + hashlib.sha256(b"what was asked").hexdigest()
OTHER_DIGEST = "sha256:" + hashlib.sha256(b"something else").hexdigest()


@dataclass(frozen=True)
class Picture:
    """A picture as an engine gives it."""

    content: bytes = b"picture"
    width: int = 64
    height: int = 48
    seed: int = 7
    content_type: str = "image/png"
    extension: str = "png"


def source(offset: int = 17, partition: int = 0, topic: str = "generation.requests") -> Source:
    """Where a record stands."""
    return Source(topic=topic, partition=partition, offset=offset)


def answered(**changes: Any) -> Answered:
    """What a completion says of its record."""
    values: dict[str, Any] = {
        "request_id": "hello-1",
        "tenant": "studio",
        "event_id": "event-1",
        "source": source(),
        "request_digest": DIGEST,
        "worker": "worker-0",
        "requested_at": NOON.replace(minute=0, second=0, hour=11),
        "labels": {"campaign": "spring"},
        "warnings": ("unknown field ignored: colour",),
    }
    return Answered(**values | changes)


def work() -> Work:
    """What a whole rendering leaves."""
    return Work(
        timings=Timings(queued=40.0, prepare=60.0, waited=10.0, denoise=3000.0, decode=200.0),
        attempts=1,
        batch=BatchSeen(rows_min=1, rows_max=4),
        prompt=PromptRead(tokens=112, chunks=2),
        model=ModelRef(name="tiny", revision="sha256:0123456789abcdef"),
        render_digest=OTHER_DIGEST,
        cost=Cost(device_seconds=1.5, usd=0.001),
    )


def success(*pictures: Picture, bucket: str = "darkroom", **changes: Any) -> Completion:
    """A rendered request, with one picture unless others are given."""
    about = answered(**changes)
    refs = image_refs(pictures or (Picture(),), bucket=bucket, tenant=about.tenant, request_id=about.request_id)
    return succeeded(about, refs, work(), completed_at=NOON)
