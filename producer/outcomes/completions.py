"""Completions as values: how a request ended, and what another record of the same request is told. Pure.

An outcome belongs to a request id and is decided once. A completion answers one record. `for_record` is the step
between them:

- the record that the outcome was decided for gets the completion as it was decided, whoever publishes it;
- another record that asks for the same thing gets the same outcome, marked `replayed`. What the pictures are is
  repeated; what the work took is not (no cost, no batch, no stage's time), so that sums over completions are right;
- another record that asks for something else fails with `request_id_conflict`;
- every record of a request that was erased ends as `erased`, and says nothing else of the request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from darkroom.schemas.errors import MESSAGE_CHARACTERS_MAX, ErrorCode, bounded, describe
from darkroom.schemas.events.completion import (
    BatchSeen,
    Completion,
    CompletionError,
    ContentCredentials,
    Cost,
    Flag,
    ImageRef,
    ModelRef,
    PromptRead,
    Source,
    Status,
    Timings,
)
from darkroom.schemas.events.pose import FoundPerson
from darkroom.schemas.names import image_key

WARNINGS_MAX: Final = 32
"""The schema's bound on warnings: a request that is odder than that has been told enough."""

BY_CHARACTERS_MAX: Final = 200
"""The schema's bound on a completion's `worker`."""
NO_RECORD: Final = Source(topic="-", partition=0, offset=0)
"""The source of a tombstone of a request that was erased before a record of it was answered."""


class ImageContent(Protocol):
    """An encoded picture. `darkroom.inference.types.RenderedImage` is one."""

    @property
    def content(self) -> bytes:
        """The file's bytes."""

    @property
    def width(self) -> int:
        """In pixels."""

    @property
    def height(self) -> int:
        """In pixels."""

    @property
    def seed(self) -> int:
        """Return the seed that the picture was painted from."""

    @property
    def content_type(self) -> str:
        """`image/png` or another."""

    @property
    def extension(self) -> str:
        """Return the extension of the object's key, without a dot."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The part of a completion that names the record it answers and who answers it."""

    request_id: str
    tenant: str
    event_id: str
    """The event's own id, or topic-partition-offset where it has none."""
    source: Source
    request_digest: str | None
    worker: str
    requested_at: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """Work done for a request, as far as it got. The default is a request that was never begun."""

    timings: Timings = field(default_factory=Timings)
    """`total` is filled in from the record's time when it is left out."""
    attempts: int = 0
    """How often rendering was begun."""
    batch: BatchSeen | None = None
    prompt: PromptRead | None = None
    model: ModelRef | None = None
    found: tuple[FoundPerson, ...] = ()
    """The people in the pose's photo."""
    full_steps: int | None = None
    """Steps of each image that ran the whole model."""
    render_digest: str | None = None
    cost: Cost | None = None
    provenance: ContentCredentials | None = None
    """The pictures' content credentials."""
    flagged: tuple[Flag, ...] | None = None
    """What a classifier saw in the pictures; None where none looked."""


NO_WORK: Final = Work()


def image_refs(
    images: Sequence[ImageContent],
    *,
    bucket: str,
    prefix: str = "",
    tenant: str,
    request_id: str,
    unsigned: Sequence[str] = (),
) -> tuple[ImageRef, ...]:
    """Where the pictures of a request are to be stored: each under a key that holds its own digest.

    `unsigned`: the digest of each before it was signed; empty if none was. Raises `ValueError` for an identity that
    cannot be part of a key.
    """
    refs = []
    for index, image in enumerate(images):
        sha256 = hashlib.sha256(image.content).hexdigest()
        refs.append(
            ImageRef(
                bucket=bucket,
                key=image_key(tenant, request_id, index, sha256, image.extension, prefix=prefix),
                width=image.width,
                height=image.height,
                seed=image.seed,
                content_type=image.content_type,
                size_bytes=len(image.content),
                sha256=sha256,
                unsigned_sha256=unsigned[index] if unsigned else None,
            )
        )
    return tuple(refs)


def cost(device_seconds: float, usd_per_device_hour: float) -> Cost:
    """The cost of so many seconds of the device at a price an hour."""
    return Cost(device_seconds=device_seconds, usd=device_seconds * usd_per_device_hour / 3600)


def succeeded(answered: Answered, images: Sequence[ImageRef], work: Work, *, completed_at: datetime) -> Completion:
    """The request was rendered: all of its pictures."""
    return _completion(answered, Status.SUCCEEDED, work, completed_at, images=tuple(images))


def failed(
    answered: Answered, code: ErrorCode | str, message: str, work: Work = NO_WORK, *, completed_at: datetime
) -> Completion:
    """The request failed. Raises `ValueError` for a code that is not in the list, or is no failure's."""
    error = CompletionError.of(code, message)
    return _completion(answered, Status.FAILED, work, completed_at, error=error)


def expired(answered: Answered, work: Work = NO_WORK, *, completed_at: datetime) -> Completion:
    """The deadline passed first."""
    code = ErrorCode.DEADLINE_PASSED
    error = CompletionError.of(code, describe(code).sentence)
    return _completion(answered, Status.EXPIRED, work, completed_at, error=error)


def cancelled(
    answered: Answered, reason: str | None = None, work: Work = NO_WORK, *, completed_at: datetime
) -> Completion:
    """The requester took it back, with a reason or without."""
    code = ErrorCode.CANCELLED
    error = CompletionError.of(code, reason or describe(code).sentence)
    return _completion(answered, Status.CANCELLED, work, completed_at, error=error)


def erased(tenant: str, request_id: str, standing: Completion | None, *, by: str, completed_at: datetime) -> Completion:
    """Return the tombstone that takes the place of an outcome: who erased it and when, and nothing of the request.

    `standing` is the outcome that stood; None where none was decided.
    """
    code = ErrorCode.ERASED
    return Completion(
        request_id=request_id,
        tenant=tenant,
        event_id=code.value,
        status=Status.ERASED,
        error=CompletionError.of(code, describe(code).sentence),
        worker=bounded(by, BY_CHARACTERS_MAX),
        attempts=0,
        source=NO_RECORD if standing is None else standing.source,
        completed_at=completed_at,
    )


def for_record(standing: Completion, answered: Answered, *, now: datetime) -> Completion:
    """Return the completion for a record whose request id has an outcome already. The module's docstring has the rule.

    `standing` is what `Outcomes.find` or `Outcomes.decide` returned for the record's tenant and request id; `now`
    is the time of day. The result for the record that was decided is `standing` itself, unless that is a tombstone.
    """
    if standing.status is Status.ERASED:
        return standing.model_copy(
            update={
                "event_id": answered.event_id,
                "source": answered.source,
                "worker": answered.worker,
                "requested_at": answered.requested_at,
                "replayed": standing.source not in (answered.source, NO_RECORD),
            }
        )
    if standing.source == answered.source:
        return standing
    if standing.request_digest != answered.request_digest:
        code = ErrorCode.REQUEST_ID_CONFLICT
        first = standing.source
        message = f"{describe(code).sentence} The first is {first.topic}-{first.partition}-{first.offset}."
        return failed(answered, code, message, completed_at=now)
    return standing.model_copy(
        update={
            "event_id": answered.event_id,
            "source": answered.source,
            "worker": answered.worker,
            "requested_at": answered.requested_at,
            "labels": dict(answered.labels),
            "warnings": _bounded(answered.warnings),
            "replayed": True,
            "attempts": 0,
            "timings_ms": _timed(Timings(), answered.requested_at, now),
            "batch": None,
            "cost": None if standing.cost is None else Cost(device_seconds=0.0, usd=0.0),
        }
    )


def _completion(
    answered: Answered,
    status: Status,
    work: Work,
    completed_at: datetime,
    *,
    images: tuple[ImageRef, ...] = (),
    error: CompletionError | None = None,
) -> Completion:
    return Completion(
        request_id=answered.request_id,
        tenant=answered.tenant,
        event_id=answered.event_id,
        status=status,
        images=images,
        error=error,
        timings_ms=_timed(work.timings, answered.requested_at, completed_at),
        batch=work.batch,
        prompt=work.prompt,
        model=work.model,
        worker=answered.worker,
        attempts=work.attempts,
        warnings=_bounded(answered.warnings),
        found=work.found,
        provenance=work.provenance,
        flagged=work.flagged,
        full_steps=work.full_steps,
        request_digest=answered.request_digest,
        render_digest=work.render_digest,
        cost=work.cost,
        source=answered.source,
        labels=dict(answered.labels),
        requested_at=answered.requested_at,
        completed_at=completed_at,
    )


def _timed(timings: Timings, requested_at: datetime | None, completed_at: datetime) -> Timings:
    """The timings with a total. A requester's clock that is ahead of ours must not make it negative."""
    if timings.total is not None or requested_at is None:
        return timings
    total_ms = max(0.0, (completed_at - requested_at).total_seconds() * 1000)
    return timings.model_copy(update={"total": total_ms})


def _bounded(warnings: Sequence[str]) -> tuple[str, ...]:
    return tuple(bounded(warning, MESSAGE_CHARACTERS_MAX) for warning in warnings[:WARNINGS_MAX])
