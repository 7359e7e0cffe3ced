"""The two small events beside request and completion: Progress (lossy) and Cancellation, version 1."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from darkroom.schemas.events.fields import STRICT, WHOLE, Identity, OrDefault, Timestamp
from darkroom.schemas.events.pose import InlinePicture
from darkroom.schemas.events.request import STEPS_MAX
from darkroom.schemas.names import DEFAULT_TENANT

_STEPS_MAX = STEPS_MAX + 1
"""Schedules with trailing spacing can have one step more than was asked for."""

Stage = Literal["prepare", "denoise", "finish", "store"]
"""What is done for a request, in this order."""

_PROGRESS_EXAMPLES: list[Any] = [
    {
        "request_id": "hello-1",
        "tenant": "default",
        "stage": "denoise",
        "steps_done": 11,
        "steps_total": 22,
        "preview": None,
        "worker": "worker-0",
        "at": "2027-01-31T11:59:58.250Z",
    }
]
_CANCELLATION_EXAMPLES: list[Any] = [
    {"request_id": "hello-1"},
    {"request_id": "order-7781.front", "tenant": "studio", "reason": "the customer changed their mind"},
]


class Progress(BaseModel):
    """Progress of a request. Only for requests that ask; any of them may be lost, so each says all there is to say."""

    model_config = ConfigDict(**STRICT, json_schema_extra={"examples": _PROGRESS_EXAMPLES})

    request_id: Identity = Field(description="The request's id.")
    tenant: OrDefault[Identity] = Field(default=DEFAULT_TENANT, description="The request's tenant.")
    stage: Stage = Field(description="What is being done.")
    steps_done: OrDefault[Annotated[int, Field(ge=0, le=_STEPS_MAX), WHOLE]] = Field(
        default=0, description="Steps that its slowest image took."
    )
    steps_total: Annotated[int, Field(ge=1, le=_STEPS_MAX), WHOLE] = Field(description="Steps that each image needs.")
    preview: InlinePicture | None = Field(
        default=None, description="A small picture of the state of the first image; only where previews were asked."
    )
    worker: str | None = Field(default=None, max_length=200, description="The worker that renders it.")
    at: Timestamp = Field(description="When this was true.")

    @model_validator(mode="after")
    def _within(self) -> Progress:
        if self.steps_done > self.steps_total:
            raise ValueError("steps_done must be at most steps_total")
        return self


class Cancellation(BaseModel):
    """The wish that a request be not rendered. It counts also when it comes before its request."""

    model_config = ConfigDict(**STRICT, json_schema_extra={"examples": _CANCELLATION_EXAMPLES})

    request_id: Identity = Field(description="The request's id.")
    tenant: OrDefault[Identity] = Field(default=DEFAULT_TENANT, description="The request's tenant.")
    reason: str | None = Field(default=None, max_length=500, description="Why, for the completion's message.")
