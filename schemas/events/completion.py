"""The Completion event, version 1, which tells how a request ended. Every accepted record ends in exactly one.

The same document, without what is said of the record it answers, is the decided outcome in the bucket.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

from darkroom.schemas.errors import MESSAGE_CHARACTERS_MAX, ErrorCode, bounded, describe
from darkroom.schemas.events.fields import STRICT, WHOLE, Digest, Identity, Labels, OrDefault, Timestamp, Warnings
from darkroom.schemas.events.pose import PEOPLE_MAX, FoundPerson
from darkroom.schemas.events.request import COUNT_MAX, SEED_MAX
from darkroom.schemas.prompts.picture_rules import CATEGORY_PATTERN

Milliseconds = Annotated[float, Field(ge=0.0)]
PositiveWhole = Annotated[int, Field(ge=1), WHOLE]
CountedWhole = Annotated[int, Field(ge=0), WHOLE]

FLAGS_MAX: Final = 64
"""Eight pictures of eight categories; of more the rest is left out."""

_DIGEST = "0f343b0931126a20f133d67c2b018a3b5b9c5b0c4d0d1e2f3a4b5c6d7e8f9a0b"
_EXAMPLES: list[Any] = [
    {
        "request_id": "order-7781.front",
        "tenant": "studio",
        "event_id": "9d2c7b1e",
        "status": "succeeded",
        "images": [
            {
                "bucket": "darkroom",
                "key": f"studio/order-7781.front/0-{_DIGEST[:16]}.png",
                "width": 1024,
                "height": 1024,
                "seed": 7,
                "content_type": "image/png",
                "size_bytes": 1482113,
                "sha256": _DIGEST,
            }
        ],
        "timings_ms": {
            "queued": 40.2,
            "prepare": 61.0,
            "waited": 12.4,
            "denoise": 3120.5,
            "decode": 210.8,
            "store": 55.1,
            "total": 3500.0,
        },
        "batch": {"rows_min": 2, "rows_max": 4, "bucket": None},
        "prompt": {"tokens": 8, "chunks": 1},
        "model": {"name": "sdxl-base", "revision": "sha256:5d1e0c9bde51a7a0"},
        "worker": "worker-0",
        "warnings": ["unknown field ignored: colour"],
        "request_digest": f"sha256:{_DIGEST}",
        "render_digest": f"sha256:{_DIGEST}",
        "cost": {"device_seconds": 1.1, "usd": 0.0003},
        "source": {"topic": "generation.requests", "partition": 3, "offset": 1841},
        "labels": {"campaign": "spring"},
        "requested_at": "2027-01-31T11:59:55Z",
        "completed_at": "2027-01-31T11:59:58.500Z",
    },
    {
        "request_id": "hello-1",
        "tenant": "default",
        "event_id": "generation.requests-0-17",
        "status": "failed",
        "error": {
            "code": "invalid_request",
            "message": "steps: must be at most 150",
            "retryable": False,
        },
        "worker": "worker-0",
        "attempts": 0,
        "request_digest": f"sha256:{_DIGEST}",
        "source": {"topic": "generation.requests", "partition": 0, "offset": 17},
        "completed_at": "2027-01-31T12:00:00Z",
    },
]


class Status(StrEnum):
    """Outcome of a request."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    ERASED = "erased"
    """Its pictures and texts were removed after it had ended otherwise, or before it ended."""


_CODES_OF: Final = {
    Status.EXPIRED: ErrorCode.DEADLINE_PASSED,
    Status.CANCELLED: ErrorCode.CANCELLED,
    Status.ERASED: ErrorCode.ERASED,
}
"""The one code of each status that has only one. `failed` has all the others."""


class ImageRef(BaseModel):
    """One stored picture."""

    model_config = STRICT

    bucket: str = Field(min_length=1, max_length=63, description="The bucket that holds it.")
    key: str = Field(min_length=1, max_length=1024, description="Its key; the digest of its bytes is a part of it.")
    width: PositiveWhole = Field(description="Width in pixels.")
    height: PositiveWhole = Field(description="Height in pixels.")
    seed: Annotated[int, Field(ge=0, le=SEED_MAX), WHOLE] = Field(description="The seed that it was painted from.")
    content_type: str = Field(min_length=1, max_length=100, description="image/png, image/webp or image/jpeg.")
    size_bytes: PositiveWhole = Field(description="The object's size.")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(
        description="SHA-256 of the object's bytes, 64 hexadecimal digits."
    )
    unsigned_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        default=None,
        description="SHA-256 of the file before content credentials went into it, which is the same whenever the "
        "picture is painted again; null where it has none, and sha256 is that digest.",
    )


class ContentCredentials(BaseModel):
    """The content credentials (C2PA) of a request's pictures."""

    model_config = STRICT

    signer: str = Field(min_length=1, max_length=200, description="Who signed, by the certificate's common name.")
    algorithm: str = Field(min_length=1, max_length=20, description="How, as C2PA names it: es256, ps256, ed25519.")
    certificate: Digest = Field(description="SHA-256 of the signer's certificate.")
    timestamped: bool = Field(description="Whether a timestamp authority dated the signatures.")


class Flag(BaseModel):
    """A category that the deployment's classifier saw in a picture."""

    model_config = STRICT

    image: CountedWhole = Field(description="The picture, counted from 0.")
    category: Annotated[str, Field(pattern=f"^{CATEGORY_PATTERN}$")] = Field(description="The category.")
    score: float | None = Field(
        default=None, allow_inf_nan=False, description="As the classifier gave it, on a scale of its own; null without."
    )


class CompletionError(BaseModel):
    """Why a request did not succeed."""

    model_config = STRICT

    code: Annotated[ErrorCode, Strict(False)] = Field(description="One of a closed list; programs decide by it.")
    message: str = Field(max_length=MESSAGE_CHARACTERS_MAX, description="What happened, for people.")
    retryable: bool = Field(description="Whether the same request under a new request id may succeed.")

    @classmethod
    def of(cls, code: ErrorCode | str, message: str) -> CompletionError:
        """The error of a code, whose retryable flag it brings; the message is cut to what fits.

        Raises `ValueError` for a code that is not in the list.
        """
        return cls(code=ErrorCode(code), message=bounded(message), retryable=describe(code).retryable)


class Timings(BaseModel):
    """Where the time went, in milliseconds. null where the request did not get so far."""

    model_config = STRICT

    queued: Milliseconds | None = Field(default=None, description="From the request's event to a worker taking it.")
    prepare: Milliseconds | None = Field(default=None, description="Encoding the prompt and drawing the pose.")
    waited: Milliseconds | None = Field(default=None, description="Prepared, waiting for a place on the device.")
    denoise: Milliseconds | None = Field(default=None, description="From the first image's first step to the last's.")
    decode: Milliseconds | None = Field(default=None, description="Latents to encoded pictures.")
    store: Milliseconds | None = Field(default=None, description="Putting the pictures and the outcome.")
    total: Milliseconds | None = Field(default=None, description="From the request's event to this completion.")


class BatchSeen(BaseModel):
    """The company that the request had on the device."""

    model_config = STRICT

    rows_min: PositiveWhole = Field(description="The fewest images that shared a step with it, itself included.")
    rows_max: PositiveWhole = Field(description="The most images that shared a step with it, itself included.")
    bucket: PositiveWhole | None = Field(default=None, description="The largest padded batch size; null if not padded.")


class PromptRead(BaseModel):
    """Size of the part of the prompt that the model read."""

    model_config = STRICT

    tokens: CountedWhole = Field(
        description="The prompt's tokens that were read, without the marks at chunk ends; a warning counts the rest."
    )
    chunks: PositiveWhole = Field(description="The chunks of up to 75 tokens that they fill.")


class ModelRef(BaseModel):
    """The model that painted."""

    model_config = STRICT

    name: str = Field(max_length=200, description="Its name.")
    revision: str = Field(max_length=200, description="A digest of its weights.")


class Cost(BaseModel):
    """Resources that the request used."""

    model_config = STRICT

    device_seconds: float = Field(ge=0.0, description="Its share of the device's time.")
    usd: float = Field(ge=0.0, description="Those seconds at the worker's price of a device hour; 0 if none is set.")


class Source(BaseModel):
    """The record that this completion answers."""

    model_config = STRICT

    topic: str = Field(min_length=1, max_length=249, description="Its topic.")
    partition: CountedWhole = Field(description="Its partition.")
    offset: CountedWhole = Field(description="Its offset.")


class Completion(BaseModel):
    """The one terminal event of an accepted record. Read with `read_committed`."""

    model_config = ConfigDict(**STRICT, json_schema_extra={"examples": _EXAMPLES})

    request_id: Identity = Field(description="The request's id.")
    tenant: Identity = Field(
        description="The request's tenant; where the request's own could not be used, a name made from its digest."
    )
    event_id: str = Field(
        min_length=1,
        max_length=300,
        description="The id of the request's event, or topic-partition-offset of its record where it had none.",
    )
    status: Annotated[Status, Strict(False)] = Field(description="How it ended.")
    images: OrDefault[Annotated[tuple[ImageRef, ...], Strict(False), Field(max_length=COUNT_MAX)]] = Field(
        default=(), description="The pictures in order; all of them when succeeded, else none."
    )
    error: CompletionError | None = Field(default=None, description="Why it did not succeed; null when succeeded.")
    timings_ms: OrDefault[Timings] = Field(default=Timings(), description="Where the time went.")
    batch: BatchSeen | None = Field(default=None, description="Its company on the device; null if it never got there.")
    prompt: PromptRead | None = Field(
        default=None, description="What was read of the prompt; null if it was not read, or nobody counted."
    )
    model: ModelRef | None = Field(default=None, description="The model; null if none was asked.")
    worker: str = Field(min_length=1, max_length=200, description="The worker that published this.")
    attempts: OrDefault[CountedWhole] = Field(default=1, description="How often rendering was begun; 0 if never.")
    replayed: OrDefault[bool] = Field(
        default=False, description="Whether this repeats the outcome of an earlier record with the same request id."
    )
    warnings: OrDefault[Warnings] = Field(default=(), description="What was odd about the request without stopping it.")
    full_steps: CountedWhole | None = Field(
        default=None,
        description="Steps of each image that ran the whole model: all of them, except for fidelity economy; null if "
        "not rendered. A sampler that calls the model twice a step counts its calls.",
    )
    found: OrDefault[Annotated[tuple[FoundPerson, ...], Strict(False), Field(max_length=PEOPLE_MAX)]] = Field(
        default=(),
        description="The people that were found in the pose's photo, the largest first; empty where the pose is none.",
    )
    provenance: ContentCredentials | None = Field(
        default=None, description="The pictures' content credentials; null where they have none."
    )
    flagged: Annotated[tuple[Flag, ...], Strict(False), Field(max_length=FLAGS_MAX)] | None = Field(
        default=None,
        description="What the deployment's classifier of pictures saw: empty for nothing, null where none looked. With "
        "image_rejected, of the pictures that were not stored.",
    )
    request_digest: Digest | None = Field(
        default=None, description="The digest of what was asked; of the record's bytes where it was no request."
    )
    render_digest: Digest | None = Field(
        default=None, description="The digest of all that decides the pixels, the model included; null if not rendered."
    )
    cost: Cost | None = Field(default=None, description="What it used; null if it was not rendered.")
    source: Source = Field(description="The record that this answers.")
    labels: OrDefault[Labels] = Field(default_factory=dict, description="The request's labels.")
    requested_at: Timestamp | None = Field(
        default=None, description="When the request was made; null where its record has no believable time."
    )
    completed_at: Timestamp = Field(description="When the outcome was decided.")

    @model_validator(mode="after")
    def _consistent(self) -> Completion:
        if self.status is Status.SUCCEEDED:
            if self.error is not None or not self.images:
                raise ValueError("a succeeded completion has images and no error")
            return self
        if self.error is None or self.images:
            raise ValueError(f"a {self.status} completion has an error and no images")
        expected = _CODES_OF.get(self.status)
        if expected is not None and self.error.code is not expected:
            raise ValueError(f"a {self.status} completion has the error code {expected}")
        if expected is None and self.error.code in _CODES_OF.values():
            raise ValueError(f"a failed completion cannot have the error code {self.error.code}")
        return self
