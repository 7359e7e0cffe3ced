"""What a requester asks for: the GenerationRequest event, version 1.

The model holds what was written, defaults filled in. What depends on the loaded model (its native size) or on a
deployment's settings (bounds on pixels) is left open here and resolved where they are known.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from darkroom.schemas.events.fields import ASKED, WHOLE, AdapterName, Identity, Labels, OrDefault, Timestamp
from darkroom.schemas.events.pose import Pose
from darkroom.schemas.names import DEFAULT_TENANT

SEED_MAX: Final = 2**53 - 1
"""The largest whole number that every JSON reader holds exactly."""
COUNT_MAX: Final = 8
"""Images of one request: they are all or nothing, so a request must stay a small part of the device's work."""
STEPS_MAX: Final = 150
SIDE_MIN, SIDE_MAX = 16, 4096
"""No model of this family paints outside of these; a deployment's own bounds are settings."""
PRESET_STEPS: Final[dict[str, int]] = {"fast": 22, "quality": 35}
"""Denoising steps of each preset: the middle of the usual 20-25 and 30-40 for Euler ancestral."""

Side = Annotated[int, Field(ge=SIDE_MIN, le=SIDE_MAX), WHOLE]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]

_EXAMPLES: list[Any] = [
    {"request_id": "hello-1", "prompt": "a dancer on a stage, studio light"},
    {
        "request_id": "order-7781.front",
        "tenant": "studio",
        "prompt": "a fencer in white, side view",
        "negative_prompt": "blurry",
        "preset": "quality",
        "width": 1024,
        "height": 1024,
        "seed": 7,
        "count": 2,
        "pose": {"image": {"bucket": "darkroom", "key": "studio/order-7781.front/pose.png"}},
        "control_scale": 0.8,
        "control_end": 0.9,
        "output": {"format": "webp", "quality": 85},
        "deadline": "2027-01-31T12:00:00Z",
        "progress": "steps",
        "labels": {"campaign": "spring"},
    },
]


class Adapter(BaseModel):
    """A LoRA of the model store, and how strongly it is applied."""

    model_config = ASKED

    name: AdapterName = Field(
        description="What the adapter's file is called, without .safetensors: 1-128 characters, no leading dot."
    )
    weight: OrDefault[Annotated[float, Field(ge=-2.0, le=2.0)]] = Field(default=1.0, description="Its weight, -2 to 2.")


class Output(BaseModel):
    """How the pictures are encoded."""

    model_config = ASKED

    format: OrDefault[Literal["png", "webp", "jpeg"]] = Field(default="png", description="The file format.")
    quality: OrDefault[Annotated[int, Field(ge=1, le=100), WHOLE]] = Field(
        default=90, description="Quality for WebP and JPEG, 1-100; PNG ignores it."
    )


class GenerationRequest(BaseModel):
    """A request for one or more pictures of one prompt and pose. Its identity is (`tenant`, `request_id`)."""

    model_config = ConfigDict(**ASKED, json_schema_extra={"examples": _EXAMPLES})

    request_id: Identity = Field(
        description="The requester's own id: 1-128 of A-Za-z0-9._-, not starting with a dot. The same id again is "
        "answered with the outcome that stands; the same id with another request fails with request_id_conflict."
    )
    tenant: OrDefault[Identity] = Field(
        default=DEFAULT_TENANT, description="On whose behalf: 1-128 of A-Za-z0-9._-, not starting with a dot."
    )
    prompt: str = Field(
        min_length=1, max_length=2000, description="What to paint, 1-2,000 characters; the model reads 77 tokens of it."
    )
    negative_prompt: str | None = Field(
        default=None,
        max_length=2000,
        description="What to stay away from. null gives zero embeddings where the model is so configured; an empty "
        "string is encoded like any other text, which paints another picture.",
    )
    preset: OrDefault[Literal["fast", "quality"]] = Field(
        default="fast", description="fast: 22 steps, quality: 35 steps. An explicit `steps` wins."
    )
    width: Side | None = Field(default=None, description="Width in pixels; null for the model's native width.")
    height: Side | None = Field(default=None, description="Height in pixels; null for the model's native height.")
    steps: Annotated[int, Field(ge=1, le=STEPS_MAX), WHOLE] | None = Field(
        default=None, description="Denoising steps, 1-150; null for the preset's."
    )
    guidance_scale: OrDefault[Annotated[float, Field(ge=0.0, le=30.0)]] = Field(
        default=5.0, description="Classifier-free guidance, 0-30; off at 1 and below."
    )
    sampler: OrDefault[Literal["euler_ancestral", "euler"]] = Field(
        default="euler_ancestral", description="The sampler."
    )
    seed: Annotated[int, Field(ge=0, le=SEED_MAX), WHOLE] | None = Field(
        default=None,
        description="The first image's seed; image i uses seed + i, up to 2^53 - 1. null derives it from the tenant "
        "and the request id, so that a replay paints the same picture.",
    )
    count: OrDefault[Annotated[int, Field(ge=1, le=COUNT_MAX), WHOLE]] = Field(
        default=1, description="Images to paint, 1-8; all or nothing."
    )
    pose: Pose | None = Field(
        default=None, description="The people's pose: keypoints, a skeleton picture or a photo; null for none."
    )
    control_scale: OrDefault[Annotated[float, Field(ge=0.0, le=2.0)]] = Field(
        default=1.0, description="How strongly the pose is followed, 0-2."
    )
    control_start: OrDefault[Fraction] = Field(
        default=0.0, description="The fraction of the steps at which the pose begins to count."
    )
    control_end: OrDefault[Fraction] = Field(
        default=1.0, description="The fraction of the steps at which it ends; above control_start."
    )
    adapter: Adapter | None = Field(default=None, description="A LoRA to apply; null for none.")
    output: OrDefault[Output] = Field(default=Output(), description="The pictures' file format and quality.")
    priority: OrDefault[Annotated[int, Field(ge=0, le=9), WHOLE]] = Field(
        default=4, description="0 (last) to 9 (first), among the requests that wait."
    )
    deadline: Timestamp | None = Field(
        default=None,
        description="RFC 3339 with a time zone: a request that was not begun by then ends as expired. null: never.",
    )
    progress: OrDefault[Literal["none", "steps", "previews"]] = Field(
        default="none", description="Which progress events to publish while it is rendered."
    )
    labels: OrDefault[Labels] = Field(
        default_factory=dict,
        description="Up to 16 names (1-64 characters) and values (up to 256), given back in the completion.",
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> GenerationRequest:
        if self.control_start >= self.control_end:
            raise ValueError("control_start must be below control_end")
        if self.seed is not None and self.seed + self.count - 1 > SEED_MAX:
            raise ValueError(f"seed + count - 1 must be at most {SEED_MAX}, the last image's seed")
        return self


def effective_steps(request: GenerationRequest) -> int:
    """The denoising steps of a request: `steps` where it is set, else its preset's."""
    return PRESET_STEPS[request.preset] if request.steps is None else request.steps
