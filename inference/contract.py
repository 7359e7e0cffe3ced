"""What an engine takes and gives: the seam between the worker and whatever renders.

A *job* is one accepted request: `count` images. A *row* is one image of it on the device, so a job of
count 3 has rows 0, 1 and 2. Rows share denoising steps with the rows of other jobs that have the same
`BatchKey`; everything else (steps, guidance, seed, prompt, ControlNet scale) is a row's own.

Two protocols stand here. A `Device` turns rows into pixels and knows nothing of threads; an `Engine` runs
a device in three lanes (prepare, denoise, finish) on threads of its own and speaks in events. This module
imports neither torch nor any message library, so that the worker's core and the tests stay light.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, Generic, Literal, NamedTuple, Protocol, TypeVar

from darkroom.inference.engine.turns import Series
from darkroom.inference.planning.timing import Timed
from darkroom.schemas.events.pose import FoundPerson, Pose

if TYPE_CHECKING:
    from darkroom.inference.planning.memory_plan import MemoryPlan
    from darkroom.inference.planning.profile import DeviceProfile

Progress = Literal["none", "steps", "previews"]
"""What is told of a job on its way: nothing, its steps, or its steps and small pictures of its first image."""

PREVIEW_SIDE_PX_MAX: Final = 128
"""A preview's longer side: SDXL's latents at 1024 x 1024, and enough to see where a picture is going."""
PREVIEW_BYTES_MAX: Final = 32 * 1024
"""A preview's file: many of them go through a broker, and none of them is needed."""

JobId = str
"""Names one job inside one worker. Opaque to the engine."""


class RowId(NamedTuple):
    """One image of one job."""

    job_id: JobId
    image: int


class BatchKey(NamedTuple):
    """What rows must share to share a step: the latent's size, in latent pixels, and the model."""

    latent_height: int
    latent_width: int
    revision: str


class Prediction(NamedTuple):
    """What a model's network predicts, and on which noise schedule."""

    kind: str
    """`epsilon` or `v_prediction`."""
    zero_terminal_snr: bool
    """True where the schedule ends in pure noise."""
    timestep_spacing: str
    """`leading`, `linspace` or `trailing`."""
    source: str
    """Which tensor, metadata or folder says so."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What there is to know of a loaded model without touching it."""

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
    path: str | None = None
    controlnet_path: str | None = None
    pose_detector: str | None = None
    """A digest of what finds people in photos: part of what decides the picture for those alone. None refuses them."""
    plan: MemoryPlan | None = None
    """How the device runs it, and why; None where there is nothing to plan."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """The digests of the LoRAs that requests may name, by name."""
    adapters_refused: Mapping[str, str] = field(default_factory=dict)
    """Adapter files that cannot be used, by the name that requests would give: a sentence with the remedy."""
    prediction: Prediction | None = None
    """None for a device that denoises nothing."""


TWO_CALLS: Final = frozenset({"dpmpp_sde", "heun"})
"""Samplers that call the UNet twice a step, except in the last one."""


class AdapterUse(NamedTuple):
    """A LoRA that a request asks for, by its name in `ModelInfo.adapters`, and how strongly."""

    name: str
    weight: float


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """A request with nothing left to default. Made by `darkroom.inference.resolve`."""

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
    schedule: str | None = None
    """None for the model's own."""
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    guidance_rescale: float = 0.0
    adapter: AdapterUse | None = None
    image_format: str = "png"
    image_quality: int = 90
    image_text: Mapping[str, str] = field(default_factory=dict)
    """Written into the picture's text chunks, where its format has them (PNG)."""

    @property
    def calls(self) -> int:
        """How often an image calls the UNet: the steps that a device takes of it."""
        return 2 * self.steps - 1 if self.sampler in TWO_CALLS else self.steps


@dataclass(frozen=True, slots=True)
class RenderJob:
    """One request on its way through an engine."""

    job_id: JobId
    request: RenderRequest
    pose_picture: bytes | None = None
    """The bytes of the pose's picture where the pose is one: fetched by the caller, decoded by the engine."""
    progress: Progress = "none"
    """Whether `StepDone.steps_done` is to tell of this job, and whether `JobPreview` is."""


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
    """What a row's picture looks like so far, roughly: within `PREVIEW_SIDE_PX_MAX` and `PREVIEW_BYTES_MAX`."""

    content: bytes
    """JPEG."""
    steps_done: int


class FaultKind(Enum):
    """Whose fault an error is, which decides what is done about it."""

    REQUEST = "request"
    """Bad input. The same request would fail anywhere: it is never tried again."""
    BATCH_MEMORY = "batch_memory"
    """The device ran out of memory: a smaller batch may do."""
    BATCH = "batch"
    """A step failed for a reason that is not known: the culprit is found by running rows alone."""


class RenderFault(Exception):  # noqa: N818 - a fault is the field's word for it here
    """An error with the party at fault and a code of `darkroom.schemas.errors`."""

    def __init__(self, kind: FaultKind, code: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code
        self.message = message


class DeviceLost(Exception):  # noqa: N818 - what happened, not a kind of error
    """The device does not work any more, for nobody's fault: the process must end and start anew."""


# --- Events: what an engine tells its listener. Sent from the lanes' threads. ---------------------------


@dataclass(frozen=True, slots=True)
class JobPrepared:
    """The job's prompt is encoded, its pose drawn: its rows may be admitted."""

    job_id: JobId
    batch_key: BatchKey
    prepare_ms: float
    warnings: tuple[str, ...] = ()
    found: tuple[FoundPerson, ...] = ()
    """The people in the pose's photo, the largest first; empty where the pose is none."""
    cap: int | None = None
    """Rows of the batch key that pay together on this device, at the most. None where the engine does not say."""


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step boundary: `rows` took one step together, `retired` are complete and left the device."""

    batch_key: BatchKey
    rows: tuple[RowId, ...]
    retired: tuple[RowId, ...]
    seconds: float
    joined: int
    """Rows that had joined just before this step."""
    steps_done: Mapping[JobId, int] = field(default_factory=dict)
    """For jobs that asked for progress: the steps done by their slowest row on the device."""


@dataclass(frozen=True, slots=True)
class JobPreview:
    """A small picture of the state of the job's first image. Lossy: made when there is time for it, or not at all."""

    job_id: JobId
    preview: Preview


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step failed and changed nothing. `rows` left the device as they were before it and may be admitted again."""

    rows: tuple[RowId, ...]
    fault: RenderFault
    dropped: int = 0
    """Rows that were in the step too and whose jobs were dropped meanwhile: with any, nobody was alone."""


@dataclass(frozen=True, slots=True)
class JobRendered:
    """All images of a job, in their order, encoded."""

    job_id: JobId
    images: tuple[RenderedImage, ...]
    denoise_ms: float
    """From the first row's joining to the last row's leaving."""
    decode_ms: float
    """VAE decoding and image encoding, the wait for them not counted."""
    device_seconds: float
    """The job's share of the device: each step's seconds divided by the rows that shared it, added up."""
    rows_min: int
    rows_max: int
    """The smallest and largest number of rows that shared a step with this job's."""


@dataclass(frozen=True, slots=True)
class JobFailed:
    """The job failed outside of a shared step (prepare or finish). Nothing more will be said of it."""

    job_id: JobId
    fault: RenderFault


@dataclass(frozen=True, slots=True)
class EngineStopped:
    """A lane died of something that is nobody's row: the process must end and start anew."""

    reason: str


EngineEvent = JobPrepared | StepDone | JobPreview | StepFailed | JobRendered | JobFailed | EngineStopped
Listener = Callable[[EngineEvent], None]


class CacheCounts(NamedTuple):
    """How often a cache helped, since the start."""

    hits: int
    misses: int
    bytes_held: int


class Engine(Protocol):
    """A resident model behind three lanes. Every method but `start` and `close` returns at once."""

    @property
    def info(self) -> ModelInfo:
        """The loaded model. Only after `start` returned."""

    @property
    def profile(self) -> DeviceProfile | None:
        """What the device was measured to take; None before `start` returned, and where it was not measured."""

    def start(self, listener: Listener) -> None:
        """Load, warm up, measure and start the lanes. Blocks: call it off the event loop. Raises `ModelError`."""

    def prepare(self, job: RenderJob) -> None:
        """Queue a job for the prepare lane: answered by `JobPrepared` or `JobFailed`."""

    def admit(self, rows: Sequence[RowId]) -> None:
        """Let prepared rows join at the next step boundary, in this order.

        The caller keeps to the batch's cap. Rows of another `BatchKey` than the one on the device wait until
        the device is empty.
        """

    def drop(self, job_id: JobId) -> None:
        """Forget a job wherever it is. Events of it that are already under way may still arrive."""

    def rows_ceiling(self, batch_key: BatchKey) -> int | None:
        """Rows of this key that the device's memory holds in a step; None: no limit is known. Only after `start`.

        More may be admitted: those wait for room.
        """

    def cache_counts(self) -> Mapping[str, CacheCounts]:
        """Per cache (`prompt`, `pose`, ...)."""

    def memory_bytes(self) -> Mapping[str, int]:
        """Per kind (`allocated`, `reserved`, `total`); empty where the device does not tell."""

    def close(self) -> None:
        """Stop the lanes and free the device. Idempotent. Blocks for at most a step and a decode."""


class ModelError(Exception):
    """A model that cannot be loaded: what is wrong with it and what to do, in one sentence."""


class Row(Protocol):
    """One image in the making. Devices keep their tensors in it; the lanes see only this."""

    @property
    def row_id(self) -> RowId:
        """Which image of which job."""

    @property
    def batch_key(self) -> BatchKey:
        """What it may share a step with."""

    @property
    def steps_total(self) -> int:
        """How many steps it needs."""

    @property
    def steps_done(self) -> int:
        """How many it took. Advanced by `Device.step`, for all rows of a step or for none."""


RowT = TypeVar("RowT", bound=Row)


@dataclass(frozen=True, slots=True)
class Prepared(Generic[RowT]):
    """What the prepare lane made of a job."""

    rows: tuple[RowT, ...]
    """In order of their images; `steps_done` is 0."""
    warnings: tuple[str, ...] = ()
    """For the requester: the prompt was cut at 77 tokens, say."""
    found: tuple[FoundPerson, ...] = ()
    """For the requester: the people in the pose's photo, the largest first."""


class Device(Timed, Protocol[RowT]):
    """Turns rows into pixels.

    `prepare`, `step` and `finish` are each called by one thread: they may run at the same time as each
    other where `series` allows it, but never beside themselves. `preview` is called by the thread of `finish`. All of
    them block. What they raise is a `RenderFault` where the device knows whose fault it is, and `DeviceLost` where no
    call can succeed any more; anything else is taken for the batch's (`FaultKind.BATCH`).

    `step` may return before the device has done the step, as long as the rows' own order of work is kept: errors of
    memory are raised in time, and any other late error is a `DeviceLost`.
    """

    @property
    def info(self) -> ModelInfo:
        """The loaded model. Only after `load` returned."""

    @property
    def series(self) -> Series:
        """Which lanes never run at the same time. Only after `load` returned; it does not change until `close`."""

    def rows_ceiling(self, latent_height: int, latent_width: int) -> int | None:
        """Rows that the device's memory holds in a step of this size; at least 1. None: no limit is known.

        Only after `load` returned.
        """

    def load(self) -> None:
        """Load the weights and run every kernel once. Raises `ModelError`."""

    def prepare(self, job: RenderJob) -> Prepared[RowT]:
        """Encode the prompt, draw the pose, draw the first noise."""

    def step(self, rows: Sequence[RowT]) -> None:
        """One denoising step of all rows, which share a `BatchKey`. Atomic: on an error no row has changed."""

    def finish(self, rows: Sequence[RowT]) -> tuple[RenderedImage | RenderFault, ...]:
        """Decode and encode complete rows of one `BatchKey`, of any jobs, in their order.

        A fault in a row's place is that row's alone: `render_failed` where its picture has values that are not
        finite. What is raised instead is the whole call's.
        """

    def preview(self, row: RowT) -> Preview | None:
        """A small picture of a row of a job that asked for previews; None where there is nothing to show yet.

        The row may be in a step at the same time: what is shown is its state after some step that was done.
        """

    def cache_counts(self) -> Mapping[str, CacheCounts]:
        """As `Engine.cache_counts`."""

    def memory_bytes(self) -> Mapping[str, int]:
        """As `Engine.memory_bytes`."""

    def close(self) -> None:
        """Free what `load` took. Idempotent."""
