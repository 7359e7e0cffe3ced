"""The GenerationRequest event, version 1: what a requester asks for.

The model holds what was written, with defaults filled in. Values that depend on the loaded model (its native size) or
on a deployment's settings (bounds on pixels) stay open here; `darkroom.inference.resolve` fills them in.

To add a field, declare it here with its `FieldFacts`, and give it its meaning in `darkroom.inference`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

from darkroom.schemas.events.controls import CONTROLS_MAX, OPENPOSE, Control
from darkroom.schemas.events.fields import (
    ASKED,
    WHOLE,
    AdapterName,
    FieldFacts,
    Identity,
    Labels,
    Named,
    Option,
    OrDefault,
    RecipeName,
    Timestamp,
)
from darkroom.schemas.events.init import MASK_UNDONE_BY, InitMask, InitPicture, steps_skipped
from darkroom.schemas.events.pose import InlinePicture, PhotoPose, Pose, SkeletonPose, StoredPicture
from darkroom.schemas.events.samplers import Sampler, Schedule, pair_fault
from darkroom.schemas.names import DEFAULT_TENANT
from darkroom.schemas.prompts.weighted import PromptSyntaxError, parse_weighted

SEED_MAX: Final = 2**53 - 1
"""The largest whole number that every JSON reader holds exactly."""
COUNT_MAX: Final = 8
"""Images of one request: they are all or nothing, so a request must stay a small part of the device's work."""
STEPS_MAX: Final = 150
ADAPTERS_MAX: Final = 4
"""LoRAs of one request: each costs two more products in every layer that it changes, in every step."""
CLIP_SKIP_MAX: Final = 9
"""SDXL's first text encoder has 12 layers, of which the last is never used."""
SIDE_MIN, SIDE_MAX = 16, 4096
"""No model of this family paints outside of these; a deployment's own bounds are settings."""
PRESET_STEPS: Final[dict[str, int]] = {"fast": 22, "quality": 35}
"""Denoising steps of each preset: the middle of the usual 20-25 and 30-40 for Euler ancestral."""

_POSED: Final = FieldFacts(digest=Named.ALWAYS, idle_when=("pose", None), option=Option("X"))
"""Facts of the fields that say how a pose is followed."""

Side = Annotated[int, Field(ge=SIDE_MIN, le=SIDE_MAX), WHOLE]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
AdapterWeight = Annotated[float, Field(ge=-2.0, le=2.0)]

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
    weight: OrDefault[AdapterWeight] = Field(default=1.0, description="Its weight, -2 to 2.")
    text_weight: Annotated[AdapterWeight | None, FieldFacts()] = Field(
        default=None, description="Its weight in the text encoders, -2 to 2; null for `weight`."
    )


class Output(BaseModel):
    """Encoding of the pictures."""

    model_config = ASKED

    format: OrDefault[Literal["png", "webp", "jpeg"]] = Field(default="png", description="The file format.")
    quality: Annotated[
        OrDefault[Annotated[int, Field(ge=1, le=100), WHOLE]],
        FieldFacts(digest=Named.ALWAYS, idle_when=("format", "png")),
    ] = Field(default=90, description="Quality for WebP and JPEG, 1-100; PNG ignores it.")


class GenerationRequest(BaseModel):
    """A request for one or more pictures of one prompt and pose. Its identity is (`tenant`, `request_id`)."""

    model_config = ConfigDict(**ASKED, json_schema_extra={"examples": _EXAMPLES})

    request_id: Annotated[Identity, FieldFacts(decides="identity")] = Field(
        description="The requester's own id: 1-128 of A-Za-z0-9._-, not starting with a dot. The same id again is "
        "answered with the outcome that stands; the same id with another request fails with request_id_conflict."
    )
    tenant: Annotated[
        OrDefault[Identity],
        FieldFacts(decides="identity", option=Option("NAME", "On whose behalf; 'default' when left out.")),
    ] = Field(default=DEFAULT_TENANT, description="On whose behalf: 1-128 of A-Za-z0-9._-, not starting with a dot.")
    prompt: Annotated[str, FieldFacts(digest=Named.ALWAYS, option=Option("TEXT", "What to paint."), is_own=True)] = (
        Field(
            min_length=1,
            max_length=2000,
            description="What to paint, 1-2,000 characters; the model reads 77 tokens of it.",
        )
    )
    negative_prompt: Annotated[
        str | None, FieldFacts(digest=Named.ALWAYS, option=Option("TEXT", "What to stay away from."))
    ] = Field(
        default=None,
        max_length=2000,
        description="What to stay away from. null gives zero embeddings where the model is so configured; an empty "
        "string is encoded like any other text, which paints another picture.",
    )
    preset: Annotated[
        OrDefault[Literal["fast", "quality"]],
        FieldFacts(digest=Named.NEVER, option=Option(help="fast: 22 steps, the default; quality: 35.")),
    ] = Field(default="fast", description="fast: 22 steps, quality: 35 steps. An explicit `steps` wins.")
    width: Annotated[
        Side | None,
        FieldFacts(digest=Named.ALWAYS, option=Option("PIXELS", "The model's native width when left out.")),
    ] = Field(default=None, description="Width in pixels; null for the model's native width.")
    height: Annotated[
        Side | None,
        FieldFacts(digest=Named.ALWAYS, option=Option("PIXELS", "The model's native height when left out.")),
    ] = Field(default=None, description="Height in pixels; null for the model's native height.")
    steps: Annotated[
        Annotated[int, Field(ge=1, le=STEPS_MAX), WHOLE] | None,
        FieldFacts(digest=Named.ALWAYS, option=Option("N", "Denoising steps, in place of the preset's.")),
    ] = Field(default=None, description="Denoising steps, 1-150; null for the preset's.")
    guidance_scale: Annotated[
        OrDefault[Annotated[float, Field(ge=0.0, le=30.0)]], FieldFacts(digest=Named.ALWAYS, option=Option("X"))
    ] = Field(default=5.0, description="Classifier-free guidance, 0-30; off at 1 and below.")
    sampler: Annotated[
        OrDefault[Sampler],
        FieldFacts(
            digest=Named.ALWAYS,
            option=Option("NAME", "euler_ancestral is the default; other tools' names are understood."),
        ),
    ] = Field(
        default="euler_ancestral",
        description="The sampler. dpmpp_sde and heun call the model twice a step; lcm and tcd are for models and LoRAs "
        "that were distilled for them.",
    )
    schedule: Annotated[
        Schedule | None, FieldFacts(option=Option(help="The noise schedule; the model's own when left out."))
    ] = Field(
        default=None,
        description="The noise schedule; null for the model's own. ddim takes sgm_uniform alone, lcm and tcd none.",
    )
    guidance_start: Annotated[OrDefault[Fraction], FieldFacts(option=Option("X"))] = Field(
        default=0.0,
        description="The fraction of the steps at which guidance begins; before it, it is off.",
    )
    guidance_end: Annotated[OrDefault[Fraction], FieldFacts(option=Option("X"))] = Field(
        default=1.0, description="The fraction of the steps at which guidance ends; above guidance_start."
    )
    guidance_rescale: Annotated[OrDefault[Fraction], FieldFacts(option=Option("X"))] = Field(
        default=0.0,
        description="How far the guided prediction is brought back to the prompt's own spread, 0-1, against burnt "
        "pictures; 0.7 is usual for models that predict v.",
    )
    prompt_syntax: Annotated[
        OrDefault[Literal["plain", "weighted"]],
        FieldFacts(
            option=Option(help="weighted: (x:1.3), [x], BREAK, embedding:NAME, 300 tokens; plain is the default.")
        ),
    ] = Field(
        default="plain",
        description="plain: prompts are text, 77 tokens of it. weighted: (x), (x:1.3), [x], escapes and BREAK as in "
        "Stable Diffusion web UI, in up to four chunks of 75 tokens, and embedding:NAME for a textual inversion.",
    )
    clip_skip: Annotated[
        OrDefault[Annotated[int, Field(ge=0, le=CLIP_SKIP_MAX), WHOLE]], FieldFacts(option=Option("N"))
    ] = Field(
        default=0,
        description="Layers of the text encoders left out, as diffusers counts: 0 is other tools' clip skip 2.",
    )
    seed: Annotated[
        Annotated[int, Field(ge=0, le=SEED_MAX), WHOLE] | None,
        FieldFacts(
            digest=Named.ALWAYS,
            option=Option("N", "The first image's seed; from the request id when left out."),
            is_own=True,
        ),
    ] = Field(
        default=None,
        description="The first image's seed; image i uses seed + i, up to 2^53 - 1. null derives it from the tenant "
        "and the request id, so that a replay paints the same picture.",
    )
    count: Annotated[
        OrDefault[Annotated[int, Field(ge=1, le=COUNT_MAX), WHOLE]],
        FieldFacts(digest=Named.ALWAYS, option=Option("IMAGES"), is_own=True),
    ] = Field(default=1, description="Images to paint, 1-8; all or nothing.")
    pose: Annotated[Pose | None, FieldFacts(digest=Named.ALWAYS, text=Named.WHEN_SET, is_own=True)] = Field(
        default=None, description="The people's pose: keypoints, a skeleton picture or a photo; null for none."
    )
    control_scale: Annotated[OrDefault[Annotated[float, Field(ge=0.0, le=2.0)]], _POSED] = Field(
        default=1.0, description="How strongly the pose is followed, 0-2."
    )
    control_start: Annotated[OrDefault[Fraction], _POSED] = Field(
        default=0.0, description="The fraction of the steps at which the pose begins to count."
    )
    control_end: Annotated[OrDefault[Fraction], _POSED] = Field(
        default=1.0, description="The fraction of the steps at which the pose ceases to count; above control_start."
    )
    controls: Annotated[
        OrDefault[Annotated[tuple[Control, ...], Strict(False), Field(max_length=CONTROLS_MAX)]],
        FieldFacts(is_own=True),
    ] = Field(
        default=(),
        description="Up to 4 control pictures to follow together, a pose counted among them; their effects are added "
        "up. `pose` is the short form of one openpose control.",
    )
    init: Annotated[InitPicture | None, FieldFacts(is_own=True)] = Field(
        default=None, description="A picture to start from in place of pure noise; null for none."
    )
    mask: Annotated[InitMask | None, FieldFacts(is_own=True)] = Field(
        default=None, description="The part of the picture of init that is painted; null for all of it."
    )
    adapter: Annotated[Adapter | None, FieldFacts(digest=Named.ALWAYS, text=Named.WHEN_SET)] = Field(
        default=None, description="A LoRA to apply; null for none."
    )
    adapters: Annotated[
        OrDefault[Annotated[tuple[Adapter, ...], Strict(False), Field(max_length=ADAPTERS_MAX)]], FieldFacts()
    ] = Field(
        default=(),
        description="Up to 4 LoRAs to apply together, each named once, in any order: their changes are added up. "
        "`adapter` is the short form for one; give one of the two.",
    )
    recipe: Annotated[
        RecipeName | None,
        FieldFacts(is_own=True, option=Option("NAME", "Of the operator's recipes; `darkroom recipes` lists them.")),
    ] = Field(
        default=None,
        description="The name of one of the operator's recipes, whose fields stand in for those that the request "
        "leaves out or gives as null; GET /v1/recipes lists them. null for none.",
    )
    fidelity: Annotated[
        OrDefault[Literal["exact", "economy"]],
        FieldFacts(
            option=Option(help="economy: nearly the same picture for about half of the work; exact by default.")
        ),
    ] = Field(
        default="exact",
        description="exact: every step runs the whole model. economy: most steps reuse a part of an earlier step, for "
        "nearly the same picture at about half of the cost. Where it is left out, the operator's default.",
    )
    output: Annotated[OrDefault[Output], FieldFacts(digest=Named.ALWAYS)] = Field(
        default=Output(), description="The pictures' file format and quality."
    )
    priority: Annotated[
        OrDefault[Annotated[int, Field(ge=0, le=9), WHOLE]], FieldFacts(decides="treatment", option=Option("N"))
    ] = Field(default=4, description="0 (last) to 9 (first), among the requests that wait.")
    deadline: Annotated[
        Timestamp | None,
        FieldFacts(
            decides="treatment", option=Option("TIME", "RFC 3339; a request not begun by then ends as expired.")
        ),
    ] = Field(
        default=None,
        description="RFC 3339 with a time zone: a request that was not begun by then ends as expired. null: never.",
    )
    progress: Annotated[OrDefault[Literal["none", "steps", "previews"]], FieldFacts(decides="treatment")] = Field(
        default="none", description="Which progress events to publish while it is rendered."
    )
    labels: Annotated[OrDefault[Labels], FieldFacts(decides="treatment")] = Field(
        default_factory=dict,
        description="Up to 16 names (1-64 characters) and values (up to 256), given back in the completion.",
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, value: Any) -> Any:
        """Leave out the fields that are null, so that a recipe fills them: many serializers write every field."""
        if not isinstance(value, dict) or None not in value.values():
            return value
        return {name: one for name, one in value.items() if one is not None or name not in _MAY_BE_LEFT_OUT}

    @model_validator(mode="after")
    def _parts_fit(self) -> GenerationRequest:
        if self.control_start >= self.control_end:
            raise ValueError("control_start must be below control_end")
        if self.pose is not None and len(self.controls) == CONTROLS_MAX:
            raise ValueError(f"pose and controls together must be at most {CONTROLS_MAX}: a pose counts as one")
        if self.guidance_start >= self.guidance_end:
            raise ValueError("guidance_start must be below guidance_end")
        if fault := pair_fault(self.sampler, self.schedule, effective_steps(self)):
            raise ValueError(fault)
        if self.init is not None:
            # A recipe may yet say how many steps there are.
            steps = None if self.recipe is not None else effective_steps(self)
            _check_strength(self.init.strength, steps, is_masked=self.mask is not None)
        if self.mask is not None:
            _check_mask(self)
        if self.prompt_syntax == "weighted":
            for name, text in (("prompt", self.prompt), ("negative_prompt", self.negative_prompt or "")):
                _check_weighted(name, text)
        if self.adapter is not None and self.adapters:
            raise ValueError("give either adapter or adapters, which is for several")
        names = [adapter.name for adapter in self.adapters]
        if len(set(names)) < len(names):
            raise ValueError("adapters must name each adapter once: add its weights up")
        if self.seed is not None and self.seed + self.count - 1 > SEED_MAX:
            raise ValueError(f"seed + count - 1 must be at most {SEED_MAX}, the last image's seed")
        return self


def _check_weighted(name: str, text: str) -> None:
    try:
        parse_weighted(text)
    except PromptSyntaxError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_mask(request: GenerationRequest) -> None:
    if request.init is None:
        raise ValueError("mask says which part of a picture is painted: give the picture as init")
    if request.sampler in MASK_UNDONE_BY:
        raise ValueError(f"sampler is {request.sampler!r}, which would undo the mask between steps: use dpmpp_2m")


def _check_strength(strength: float, steps: int | None, *, is_masked: bool) -> None:
    if strength == 0:
        raise ValueError("init.strength is 0, which would give the picture back: it must be above 0")
    if strength == 1 and not is_masked:
        raise ValueError("init.strength is 1, which would paint all of it anew: it must be below 1, or leave init out")
    if steps is not None and steps_skipped(steps, strength) == steps:
        raise ValueError(
            f"init.strength is {strength}, which leaves none of {steps} steps to take: ask for more of either"
        )


_MAY_BE_LEFT_OUT: Final = frozenset(
    name for name, field in GenerationRequest.model_fields.items() if not field.is_required()
)


def adapters_of(request: GenerationRequest) -> tuple[Adapter, ...]:
    """Return the LoRAs of a request in the order of their names, whichever field names them."""
    if request.adapter is not None:
        return (request.adapter,)
    return tuple(sorted(request.adapters, key=lambda adapter: adapter.name))


def with_pose(request: GenerationRequest) -> GenerationRequest:
    """Return a request whose only openpose control is its pose, of which both are ways to write the same."""
    openpose = [control for control in request.controls if control.kind == OPENPOSE]
    if request.pose is not None or len(openpose) != 1:
        return request
    [one] = openpose
    return request.model_copy(
        update={
            "pose": SkeletonPose(image=one.image),
            "control_scale": one.scale,
            "control_start": one.start,
            "control_end": one.end,
            "controls": tuple(control for control in request.controls if control is not one),
        }
    )


def pictures_of(request: GenerationRequest) -> dict[str, StoredPicture | InlinePicture]:
    """Return the pictures that a request brings, by the field that each is of: `pose`, `init`,
    `mask`, `controls.0` and so on."""
    pictures: dict[str, StoredPicture | InlinePicture] = {}
    if isinstance(request.pose, SkeletonPose):
        pictures["pose"] = request.pose.image
    elif isinstance(request.pose, PhotoPose):
        pictures["pose"] = request.pose.photo
    if request.init is not None:
        pictures["init"] = request.init.image
    if request.mask is not None:
        pictures["mask"] = request.mask.image
    return pictures | {f"controls.{number}": control.image for number, control in enumerate(request.controls)}


def effective_steps(request: GenerationRequest) -> int:
    """Return the denoising steps of a request: `steps` where it is set, else its preset's."""
    return PRESET_STEPS[request.preset] if request.steps is None else request.steps
