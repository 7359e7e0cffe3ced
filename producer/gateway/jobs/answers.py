"""What the gateway answers, as models: the shapes of its OpenAPI, and the state of a job as one value."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from darkroom.schemas.errors import describe
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.fields import Timestamp
from darkroom.schemas.events.progress import Progress

State = Literal["queued", "running", "succeeded", "failed", "expired", "cancelled"]


class ProblemBody(BaseModel):
    """An error (RFC 9457). Further members depend on `code`."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="urn:darkroom:problem: and the code.")
    title: str = Field(description="The status's phrase.")
    status: int = Field(description="The HTTP status.")
    code: str = Field(description="For programs; never changes its meaning.")
    detail: str = Field(description="What happened.")
    remedy: str = Field(description="What the caller can do.")
    request_id: str | None = Field(default=None, description="The job that it is about, where there is one.")


class Accepted(BaseModel):
    """A job that was accepted."""

    request_id: str = Field(description="The job's id.")
    status_url: str = Field(description="Where its state is.")
    events_url: str = Field(description="Where its events are (text/event-stream).")
    status: State = Field(description="Its state: queued, or what an earlier request of the same id came to.")


class Cancelled(BaseModel):
    """What a cancellation found."""

    request_id: str = Field(description="The job's id.")
    status: State = Field(description="Its state at this moment; it ends as cancelled unless it ended before.")


class PoseFound(BaseModel):
    """A pose that was read from somebody's file."""

    pose: dict[str, Any] = Field(description="As a request's `pose`.")
    notes: list[str] = Field(description="What was left out or taken for granted; for people.")


class ProgressSeen(BaseModel):
    """How far a job is."""

    steps_done: int = Field(ge=0, description="Steps that its slowest image took.")
    steps_total: int = Field(ge=1, description="Steps that each image needs.")
    preview: str | None = Field(default=None, description="A small JPEG as a data: URL; where previews were asked.")


class JobState(BaseModel):
    """A job, as far as it is known."""

    request_id: str = Field(description="Its id.")
    status: State = Field(description="running once progress was seen; queued before.")
    accepted_at: Timestamp | None = Field(description="When it was accepted; null where it came by Kafka.")
    ahead: int | None = Field(
        description="While queued: records before it in its partition that are not committed, an estimate; null where "
        "Kafka does not say."
    )
    eta_s: float | None = Field(
        description="While queued: seconds until it should be done, at the rate of the last minute; null if unknown."
    )
    progress: ProgressSeen | None = Field(description="Its latest progress, while it runs.")
    completion: dict[str, Any] | None = Field(
        description="Its Completion (v1), each of whose images has a `url` besides, and whose error a `remedy`; null "
        "while there is none."
    )
    request: dict[str, Any] | None = Field(
        description="The GenerationRequest (v1) as it was accepted; null where it came by Kafka."
    )


class Fleet(BaseModel):
    """All workers together, of all tenants."""

    lag_records: int = Field(ge=0, description="Requests that no worker has finished.")
    eta_s: float | None = Field(description="Seconds until they should be done at that rate; null if unknown.")
    completions_per_minute: float = Field(ge=0, description="Measured over the last minute.")
    batch_rows_mean: float | None = Field(description="Images that shared a step at the most, on average.")
    queued_ms_p50: float | None = Field(description="The median of what requests waited for a worker.")
    active: int = Field(ge=0, description="Jobs that are being painted, of those that tell their progress.")


class Probe(BaseModel):
    """The answer to a probe."""

    well: bool = Field(description="Whether all is well.")
    reasons: list[str] = Field(description="If not: why.")


def progress_seen(progress: Progress | None) -> ProgressSeen | None:
    """A progress event as callers see it."""
    if progress is None:
        return None
    preview = None if progress.preview is None else f"data:image/jpeg;base64,{progress.preview.inline}"
    return ProgressSeen(steps_done=progress.steps_done, steps_total=progress.steps_total, preview=preview)


class Addresses:
    """The addresses in answers: paths, or below `gateway.public_url` where one is set."""

    def __init__(self, public_url: str | None) -> None:
        self._before = "" if public_url is None else public_url.rstrip("/")

    def status(self, request_id: str) -> str:
        """Of a job. Ids need no escaping: they are of A-Za-z0-9._-."""
        return f"{self._before}/v1/generations/{request_id}"

    def events(self, request_id: str) -> str:
        """Of its events."""
        return f"{self.status(request_id)}/events"

    def image(self, request_id: str, number: int) -> str:
        """Of one of its pictures."""
        return f"{self.status(request_id)}/images/{number}"

    def completion(self, completion: Completion) -> dict[str, Any]:
        """A completion with the addresses of its pictures, and with what can be done where it has none."""
        document = completion.model_dump(mode="json")
        if completion.error is not None:
            document["error"]["remedy"] = describe(completion.error.code).remedy
        for number, image in enumerate(document["images"]):
            image["url"] = self.image(completion.request_id, number)
        return document


def utc_text(moment: datetime | None) -> str | None:
    """RFC 3339."""
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
