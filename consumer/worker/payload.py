"""The content of a job: what was received, which never changes, and what became of it, which changes only here.

The core decides about jobs without seeing their content. The driver keeps a payload from the record's arrival to the
job's end; every change of one is a method of `Payload`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from darkroom.consumer.core.partition_key import JobKey
from darkroom.consumer.provenance.signing import Signed
from darkroom.consumer.worker.ports import Record
from darkroom.inference.types import JobPrepared, JobRendered, RenderedImage, RenderRequest
from darkroom.schemas.errors import RequestRejected
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.pose import FoundPerson
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.names import DEFAULT_TENANT


@dataclass(frozen=True, slots=True)
class Received:
    """One record as it was understood against the loaded model and the deployment's limits."""

    record: Record
    event_id: str
    request_digest: str
    requested_at: datetime | None
    """When it was asked for; None where no believable time says so."""
    request: GenerationRequest | None = None
    """With its recipe's fields in place of the recipe."""
    render: RenderRequest | None = None
    traceparent: str | None = None
    tenant: str = DEFAULT_TENANT
    request_id: str | None = None
    warnings: tuple[str, ...] = ()
    refusal: RequestRejected | None = None


@dataclass(slots=True)
class Payload:
    """A received record and what became of it. Moments are seconds of the core's clock."""

    received: Received
    taken_at: datetime | None = None
    """When a worker first looked the request up."""
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    """The stored pictures that the request names, by field, from their fetching to the outcome."""
    attempts: int = 0
    """How often it was handed to the engine."""
    prepared: JobPrepared | None = None
    prepared_at: float | None = None
    joined_at: float | None = None
    rendered: JobRendered | None = None
    """The last rendering with its pictures, until its outcome is decided."""
    signed: Signed | None = None
    """The same pictures signed, in place of those of the rendering: a signature is made once."""
    device_seconds: float = 0.0
    completion: Completion | None = None
    """What will be published: made from the outcome that stands."""
    is_small: bool = False
    """The broker found what was published for it too large: a letter goes to the store, a completion is trimmed."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of the completion: those of the record, of preparing it, and of signing its pictures."""
        received, prepared = self.received.warnings, () if self.prepared is None else self.prepared.warnings
        signed = () if self.signed is None else self.signed.warnings
        return received + tuple(one for one in prepared if one not in received) + signed

    @property
    def images(self) -> tuple[RenderedImage, ...]:
        """The pictures, until they are stored."""
        if self.signed is not None:
            return self.signed.images
        return () if self.rendered is None else self.rendered.images

    @property
    def found(self) -> tuple[FoundPerson, ...]:
        """The people in the pose's photo."""
        return () if self.prepared is None else self.prepared.found

    @property
    def queued_ms(self) -> float | None:
        """Milliseconds from the request's event to a worker's beginning with it; None where either is unknown."""
        if self.taken_at is None or self.received.requested_at is None:
            return None
        return max(0.0, (self.taken_at - self.received.requested_at).total_seconds() * 1000)

    @property
    def waited_ms(self) -> float | None:
        """Milliseconds from the end of preparing to the first step, where both came."""
        if self.prepared_at is None or self.joined_at is None:
            return None
        return max(0.0, (self.joined_at - self.prepared_at) * 1000)

    def take(self) -> None:
        """Note that a worker begins with the request; only the first time counts."""
        self.taken_at = self.taken_at or datetime.now(UTC)

    def note_prepared(self, event: JobPrepared, now: float) -> None:
        """Note that the rows may join the device; only the first time counts for the timings."""
        self.prepared = event
        self.prepared_at = now if self.prepared_at is None else self.prepared_at

    def note_joined(self, at: float) -> None:
        """Note when the first row took its first step."""
        self.joined_at = at if self.joined_at is None else self.joined_at

    def note_rendered(self, event: JobRendered) -> int:
        """Take the pictures of a rendering. Return their size in bytes."""
        self.rendered, self.signed = event, None
        self.device_seconds += event.device_seconds
        return sum(len(image.content) for image in event.images)

    def note_signed(self, signed: Signed) -> None:
        """Keep the signed pictures, and the others no longer."""
        assert self.rendered is not None
        self.rendered, self.signed = replace(self.rendered, images=()), signed

    def decide(self, completion: Completion) -> None:
        """Note the completion of the outcome that stands. The pictures are stored, or another's stand."""
        self.completion = completion
        self.rendered = self.signed = None
        self.pictures = {}


Payloads = dict[JobKey, Payload]
