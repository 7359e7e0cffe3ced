"""The gateway's JSON responses as models, which are the schemas of its OpenAPI document."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from darkroom.schemas.errors import describe
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.fields import Timestamp
from darkroom.schemas.events.progress import Progress

if TYPE_CHECKING:
    from darkroom.producer.gateway.jobs.catalogue import Entry

State = Literal["queued", "running", "succeeded", "failed", "expired", "cancelled", "erased"]


class ProblemBody(BaseModel):
    """An error (RFC 9457). Further members depend on `code`."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="urn:darkroom:problem: and the code.")
    title: str = Field(description="The status's phrase.")
    status: int = Field(description="The HTTP status.")
    code: str = Field(description="For programs; its meaning never changes.")
    detail: str = Field(description="What happened.")
    remedy: str = Field(description="What the caller can do.")
    request_id: str | None = Field(default=None, description="The job that it is about, where there is one.")


class Accepted(BaseModel):
    """An accepted job."""

    request_id: str = Field(description="The job's id.")
    status_url: str = Field(description="The URL of its state.")
    events_url: str = Field(description="The URL of its events (text/event-stream).")
    status: State = Field(description="Its state: queued, or that of an earlier request of the same id.")


class Cancelled(BaseModel):
    """The job that a cancellation was sent for."""

    request_id: str = Field(description="The job's id.")
    status: State = Field(description="Its state at this moment. It ends as cancelled unless it has ended.")


class Erased(BaseModel):
    """The job that was erased."""

    request_id: str = Field(description="The job's id.")
    status: State = Field(description="erased, from now on.")
    deleted: int = Field(ge=0, description="Objects that were deleted now; 0 where nothing was left to delete.")


class PoseFound(BaseModel):
    """A pose read from a file of keypoints."""

    pose: dict[str, Any] = Field(description="The value for a request's `pose`.")
    notes: list[str] = Field(description="For people: what was left out or assumed.")


class ProgressSeen(BaseModel):
    """The progress of a job."""

    steps_done: int = Field(ge=0, description="Steps that its slowest image has taken.")
    steps_total: int = Field(ge=1, description="Steps that each image needs.")
    preview: str | None = Field(
        default=None, description="A small JPEG as a data: URL, if the request asked for previews."
    )


class JobState(BaseModel):
    """The state of a job."""

    request_id: str = Field(description="Its id.")
    status: State = Field(description="`queued` until progress is seen, then `running`, then the outcome.")
    accepted_at: Timestamp | None = Field(
        description="When it was accepted; null for a request that came through Kafka."
    )
    ahead: int | None = Field(
        description="While queued: estimated unfinished records before it in its partition; null if Kafka does not say."
    )
    eta_s: float | None = Field(
        description="While queued: estimated seconds until it is done, at the last minute's rate; null if unknown or "
        "without a worker."
    )
    progress: ProgressSeen | None = Field(description="Its latest progress, while it is running.")
    completion: dict[str, Any] | None = Field(
        description="Its Completion (v1), each image with its `url` and an error with its `remedy`; null until it ends."
    )
    request: dict[str, Any] | None = Field(
        description="The GenerationRequest (v1) as it was accepted; null for one that came through Kafka."
    )


class JobListed(BaseModel):
    """A job in the list."""

    request_id: str = Field(description="Its id.")
    status: State = Field(description="As in its state.")
    at: Timestamp = Field(description="When it was accepted, or its request came to Kafka.")
    completed_at: Timestamp | None = Field(description="When it ended.")
    prompt: str | None = Field(description="The first 200 characters; null where Kafka has kept the outcome alone.")
    labels: dict[str, str] = Field(description="The request's labels.")
    error: str | None = Field(description="The code of its error, if it failed.")
    images: list[str] = Field(description="The URLs of its pictures; a store may have let them go by now.")
    status_url: str = Field(description="The URL of its state, which has all the rest.")


class JobList(BaseModel):
    """A page of the caller's jobs, newest first."""

    jobs: list[JobListed] = Field(description="May be empty before the last page, where few jobs match.")
    next_cursor: str | None = Field(description="Pass it as `cursor` for the next page; null on the last one.")


class Fleet(BaseModel):
    """All workers together, for all tenants."""

    workers: int | None = Field(description="Workers in the group; null if Kafka does not say.")
    last_work_s: float | None = Field(
        description="Seconds since a worker last told of a step or of an outcome; null if this gateway saw neither."
    )
    lag_records: int = Field(ge=0, description="Unfinished requests.")
    eta_s: float | None = Field(description="An estimate of the seconds until they are done; null if unknown.")
    completions_per_minute: float = Field(ge=0, description="The rate of the last minute.")
    batch_rows_mean: float | None = Field(
        description="The requests' mean of the largest batch that each was rendered in, in images."
    )
    queued_ms_p50: float | None = Field(
        description="The median time that requests waited for a worker, in milliseconds."
    )
    active: int = Field(ge=0, description="Running jobs, of those that report progress.")


class RecipeListed(BaseModel):
    """A recipe."""

    name: str = Field(description="What a request's `recipe` calls it.")
    description: str = Field(description="What the operator says of it; may be empty.")
    fields: dict[str, Any] = Field(description="The request's fields that it fills in, with their values.")


class RecipeList(BaseModel):
    """The recipes of the gateway's operator."""

    recipes: list[RecipeListed] = Field(description="In the order of the operator's file; none without a file.")


class ControlListed(BaseModel):
    """A kind of control pictures."""

    kind: str = Field(description="The `kind` of a request's control.")
    controlnet: str = Field(description="The operator's name of the ControlNet that follows it.")


class ControlList(BaseModel):
    """The kinds of control pictures that requests may bring."""

    controls: list[ControlListed] = Field(description="In the order of the kinds; none without a ControlNet.")


class Probe(BaseModel):
    """The response to a probe."""

    well: bool = Field(description="Whether all is well.")
    reasons: list[str] = Field(description="Why it is not well.")


def listed(entry: Entry, status: str, addresses: Addresses) -> dict[str, Any]:
    """Return an entry of the catalogue as `JobListed`."""
    return {
        "request_id": entry.request_id,
        "status": status,
        "at": _time_of(entry.at_ms),
        "completed_at": None if entry.completed_at_ms is None else _time_of(entry.completed_at_ms),
        "prompt": entry.prompt,
        "labels": dict(entry.labels),
        "error": entry.error,
        "images": [addresses.image(entry.request_id, number) for number in range(entry.images)],
        "status_url": addresses.status(entry.request_id),
    }


def _time_of(at_ms: int) -> str | None:
    return utc_text(datetime.fromtimestamp(at_ms / 1000, UTC))


def progress_seen(progress: Progress | None) -> ProgressSeen | None:
    """Return a progress event as callers see it."""
    if progress is None:
        return None
    preview = None if progress.preview is None else f"data:image/jpeg;base64,{progress.preview.inline}"
    return ProgressSeen(steps_done=progress.steps_done, steps_total=progress.steps_total, preview=preview)


class Addresses:
    """The URLs in responses: paths, or below `gateway.public_url` if it is set."""

    def __init__(self, public_url: str | None) -> None:
        self._before = "" if public_url is None else public_url.rstrip("/")

    def status(self, request_id: str) -> str:
        """Return the URL of a job. Ids consist of A-Za-z0-9._- and need no escaping."""
        return f"{self._before}/v1/generations/{request_id}"

    def events(self, request_id: str) -> str:
        """Return the URL of a job's events."""
        return f"{self.status(request_id)}/events"

    def image(self, request_id: str, number: int) -> str:
        """Return the URL of one of a job's pictures."""
        return f"{self.status(request_id)}/images/{number}"

    def completion(self, completion: Completion) -> dict[str, Any]:
        """Return a completion with the URLs of its pictures, and with the remedy of its error."""
        document = completion.model_dump(mode="json")
        if completion.error is not None:
            document["error"]["remedy"] = describe(completion.error.code).remedy
        for number, image in enumerate(document["images"]):
            image["url"] = self.image(completion.request_id, number)
        return document


def utc_text(moment: datetime | None) -> str | None:
    """Return a time in UTC as RFC 3339."""
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
