"""The nouns of rendering: requests, jobs, rows, pictures, faults and events. Data without behaviour.

A *job* is one accepted request for `count` images. A *row* is one image of it on the device, so a job with count 3 has
the rows 0, 1 and 2. Rows share denoising steps with the rows of other jobs that have the same `BatchKey`; everything
else (steps, guidance, seed, prompt, ControlNet scale) belongs to the row alone.

Everything in `darkroom.inference` may import this module, and this module imports no tensor library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal, NamedTuple

from darkroom.schemas.events.completion import PromptRead
from darkroom.schemas.events.controls import OPENPOSE, Control
from darkroom.schemas.events.init import InitMask, InitPicture, steps_skipped
from darkroom.schemas.events.keypoints import PoseStyle
from darkroom.schemas.events.pose import FoundPerson, Pose
from darkroom.schemas.events.samplers import TWO_CALLS

ProgressDetail = Literal["none", "steps", "previews"]
"""The reported progress of a job: nothing, its steps, or also small pictures of its first image."""

PREVIEW_SIDE_PX_MAX: Final = 128
"""Limit of a preview's longer side: as many pixels as SDXL has latents at 1024 x 1024, enough to see the
composition."""
SHALLOW_SHARE: Final = 0.05
"""A shallow step's share of a full one's work, where it was not measured: 0.023 by operations for SDXL at 1024 x 1024
with a ControlNet, 0.08 in time for the built-in model on a CPU."""
PREVIEW_BYTES_MAX: Final = 32 * 1024
"""Limit of a preview's file: previews go through a broker in large numbers, and none of them is essential."""

JobId = str
"""The id of one job inside one worker. Opaque to the engine."""


class RowId(NamedTuple):
    """One image of one job."""

    job_id: JobId
    image: int


class RowCaps(NamedTuple):
    """The rows of one batch key that may share a step: where latency counts, and where throughput alone does."""

    paying: int
    """The smallest batch of good throughput: a row that joins beyond it mostly slows the others."""
    best: int
    """The batch of the best throughput, at least `paying`: for a backlog, in which latency is no one's."""


class BatchKey(NamedTuple):
    """The properties that rows must have in common to share a step: latent size, in latent pixels, and model."""

    latent_height: int
    latent_width: int
    revision: str


class Prediction(NamedTuple):
    """The prediction of a model's UNet, and its noise schedule."""

    kind: str
    """`epsilon` or `v_prediction`."""
    zero_terminal_snr: bool
    """True if the schedule ends in pure noise."""
    timestep_spacing: str
    """`leading`, `linspace` or `trailing`."""
    source: str
    """The tensor, metadata or folder that states it."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The properties of a loaded model that can be read without touching it."""

    name: str
    revision: str
    """A digest of the weights: `sha256:` and 16 hexadecimal digits or more."""
    native_width: int
    native_height: int
    size_multiple: int
    """Width and height in pixels must be multiples of this."""
    latent_factor: int
    """Pixels per latent pixel along one side."""
    device: str
    dtype: str
    sampler_version: str
    """Changes when the same request would give other pixels because this code changed."""
    takes_pose: bool = True
    """True if a ControlNet follows poses: the model's own, or one of `controls`."""
    controls: Mapping[str, str] = field(default_factory=dict)
    """The digests of the ControlNets beside the model, by the kind of control that each follows. The model's own
    ControlNet, which follows poses, counts in `revision` instead."""
    pose_style: PoseStyle = "openpose"
    """How keypoints are drawn for the ControlNet that follows poses."""
    path: str | None = None
    controlnet_path: str | None = None
    pose_detector: str | None = None
    """The digest of the detector that finds people in photos, which decides pictures made from photos. None: photos are
    refused."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """The digests of the LoRAs that requests may name now, by name."""
    embeddings: Mapping[str, str] = field(default_factory=dict)
    """The digests of the textual inversions that prompts may name now, by name. No adapter has the same name."""
    adapters_refused: Mapping[str, str] = field(default_factory=dict)
    """Adapter files that cannot be used, by the name that requests would give: a sentence with the remedy."""
    prediction: Prediction | None = None
    """None for a device that does not denoise."""
    economy_refused: str | None = None
    """Why the model cannot paint with fidelity `economy`: a clause; None if it can."""

    @property
    def control_kinds(self) -> tuple[str, ...]:
        """The kinds of control pictures that the loaded ControlNets follow, in the order of their names."""
        return tuple(sorted({*self.controls, *((OPENPOSE,) if self.takes_pose else ())}))


class AdapterUse(NamedTuple):
    """A LoRA that a request asks for: its name in `ModelInfo.adapters` and its weights."""

    name: str
    weight: float
    text_weight: float | None = None
    """The weight in the text encoders; None for `weight`."""


WATERMARK: Final = "tiles-1"
"""Name of the mark in the pixels (`darkroom.inference.watermark`); changes with whatever changes a marked picture."""
WATERMARK_SIDE_PX_MIN: Final = 256
"""Below it a picture has too few tiles for the mark to be found in half of it; diffusers' has the same bound."""


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """A request with every default filled in. Made by `darkroom.inference.resolve`."""

    prompt: str
    negative_prompt: str | None
    width: int
    height: int
    steps: int
    guidance_scale: float
    sampler: str
    seed: int
    """Image i is painted from seed + i."""
    count: int = 1
    pose: Pose | None = None
    control_scale: float = 1.0
    control_start: float = 0.0
    control_end: float = 1.0
    controls: tuple[Control, ...] = ()
    """Control pictures beside the pose."""
    init: InitPicture | None = None
    """The picture to start from; None to start from noise."""
    mask: InitMask | None = None
    """The part of that picture that is painted; None for all of it."""
    schedule: str | None = None
    """None for the model's own."""
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    guidance_rescale: float = 0.0
    prompt_syntax: str = "plain"
    """`plain` or `weighted`."""
    clip_skip: int = 0
    """Layers of the text encoders that are left out at their end, beyond the one that SDXL never uses."""
    adapters: tuple[AdapterUse, ...] = ()
    """In the order of their names, each named once."""
    fidelity: str = "exact"
    """`exact`, or `economy`: most calls compute the UNet's outermost layers alone."""
    image_format: str = "png"
    image_quality: int = 90
    image_text: Mapping[str, str] = field(default_factory=dict)
    """Written into the files of all images; `darkroom.inference.marks` adds what is an image's own."""
    watermark: bool = False
    """The finished picture gets the imperceptible mark `WATERMARK`."""

    @property
    def calls(self) -> int:
        """Number of calls of the UNet for one image: the steps that a device takes of it."""
        return 2 * self.steps_taken - 1 if self.sampler in TWO_CALLS else self.steps_taken

    @property
    def steps_taken(self) -> int:
        """Number of steps of an image: all but those that it skips."""
        return self.steps - self.steps_skipped

    @property
    def steps_skipped(self) -> int:
        """Number of the first steps that an image does not take, since it starts from a picture."""
        return 0 if self.init is None else steps_skipped(self.steps, self.init.strength)

    def steps_after(self, calls: int) -> int:
        """Return the whole steps of an image that has taken so many calls."""
        return min(self.steps_taken, calls * self.steps_taken // self.calls)


@dataclass(frozen=True, slots=True)
class RenderJob:
    """One request on its way through an engine."""

    job_id: JobId
    request: RenderRequest
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    """The encoded pictures that the request names in a store, by the field that names each (`pose`, `init`,
    `controls.0`): fetched by the caller, decoded by the engine."""
    progress: ProgressDetail = "none"
    """Decides whether `StepDone.steps_done` and `JobPreview` report on this job."""


@dataclass(frozen=True, slots=True)
class RenderedImage:
    """One finished picture."""

    content: bytes
    width: int
    height: int
    seed: int
    content_type: str
    extension: str


@dataclass(frozen=True, slots=True)
class Preview:
    """A rough picture of an unfinished row, within `PREVIEW_SIDE_PX_MAX` and `PREVIEW_BYTES_MAX`."""

    content: bytes
    """JPEG."""
    steps_done: int


class FaultKind(Enum):
    """The party at fault for an error, which decides how the worker reacts."""

    REQUEST = "request"
    """Bad input. The same request would fail anywhere, so it is never retried."""
    BATCH_MEMORY = "batch_memory"
    """The device ran out of memory: a smaller batch may succeed."""
    BATCH = "batch"
    """A step failed for an unknown reason: the worker finds the culprit by running rows alone."""


class RenderFault(Exception):  # noqa: N818 - "fault" is the term for it throughout this package
    """An error with the party at fault and a code of `darkroom.schemas.errors`."""

    def __init__(self, kind: FaultKind, code: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code
        self.message = message


class DeviceLost(Exception):  # noqa: N818 - an event rather than a class of errors
    """The device stopped working and no request is to blame: the process must end and start again."""


class ModelError(Exception):
    """A model that cannot be loaded: one sentence that says what is wrong and what to do."""


class Lane(Enum):
    """One of the three kinds of calls into a device."""

    PREPARE = "prepare"
    DENOISE = "denoise"
    FINISH = "finish"


class Series(Enum):
    """The lanes of a device that must take turns because its memory is short."""

    NONE = "none"
    DENOISE_AND_FINISH = "denoise and finish"
    """A step and a decode do not fit together; changing turns costs nothing."""
    ALL = "all"
    """Weights move to the device for their lane's turn. Moving them takes time, so a turn lasts."""


class Part(Enum):
    """A part of a device's work that can be timed on its own."""

    UNET = "unet"
    """A forward of `count` slots."""
    CONTROLNET = "controlnet"
    """A forward of `count` slots."""
    REST = "rest"
    """The remainder of a step whose rows take `count` UNet slots, as many of them guided as fit."""
    SHALLOW = "shallow"
    """A shallow call's forward of `count` rows, which take one slot each."""
    DECODE = "decode"
    """Decoding the latents of `count` pictures."""


class CacheCounts(NamedTuple):
    """Hits and misses of a cache since the start, and its present size."""

    hits: int
    misses: int
    bytes_held: int


# --- Events: what an engine reports to its listener, on the lanes' threads. ------------------------------


@dataclass(frozen=True, slots=True)
class JobPrepared:
    """The job's prompt is encoded and its pose drawn: its rows may be admitted."""

    job_id: JobId
    batch_key: BatchKey
    prepare_ms: float
    warnings: tuple[str, ...] = ()
    found: tuple[FoundPerson, ...] = ()
    """The people in the pose's photo, the largest first; empty if the pose is not a photo."""
    prompt: PromptRead | None = None
    """Size of what was read of the prompt; None if the device does not count."""
    caps: RowCaps | None = None
    """The rows of the batch key that are worth running together on this device. None if the engine has no caps."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """The digests of the adapters that its rows are painted with, by name."""


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step boundary: `rows` took one step together, `retired` are complete and left the device."""

    batch_key: BatchKey
    rows: tuple[RowId, ...]
    retired: tuple[RowId, ...]
    seconds: float
    joined: int
    """The number of rows that joined just before this step."""
    shallow: int = 0
    """How many of the rows ran the networks' outermost layers alone."""
    steps_done: Mapping[JobId, int] = field(default_factory=dict)
    """For jobs that asked for progress: the steps done by their slowest row on the device."""
    idle_s: float | None = None
    """Seconds between the end of the previous step and the start of this one. None if no step came before, or if the
    previous one failed."""


@dataclass(frozen=True, slots=True)
class JobPreview:
    """A small picture of the unfinished first image of a job. Lossy: made only when the finish lane has time."""

    job_id: JobId
    preview: Preview


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step failed and changed nothing. Its `rows` left the device unchanged and may be admitted again."""

    rows: tuple[RowId, ...]
    fault: RenderFault
    dropped: int = 0
    """Rows that shared the step and whose jobs were dropped meanwhile: with any, no row was alone."""


@dataclass(frozen=True, slots=True)
class JobRendered:
    """All images of a job, in order, encoded."""

    job_id: JobId
    images: tuple[RenderedImage, ...]
    denoise_ms: float
    """From the moment the first row joined to the moment the last row left."""
    decode_ms: float
    """VAE decoding and image encoding, without the time spent waiting for them."""
    device_seconds: float
    """The job's share of the device: the sum, over its steps, of each step's seconds divided by the rows that shared
    it, of which a row whose step was shallow counts as the measured share of a full one."""
    rows_min: int
    rows_max: int
    """The smallest and largest number of rows that shared a step with this job's."""
    full_steps: int = 0
    """Steps of each image that ran the whole networks."""


@dataclass(frozen=True, slots=True)
class JobFailed:
    """The job failed outside of a shared step (prepare or finish). It is the job's last event."""

    job_id: JobId
    fault: RenderFault


@dataclass(frozen=True, slots=True)
class EngineStopped:
    """A lane died of an error that belongs to no row: the process must end and start again."""

    reason: str


EngineEvent = JobPrepared | StepDone | JobPreview | StepFailed | JobRendered | JobFailed | EngineStopped
