"""The seam between the worker and the renderer: the protocols of an engine and of a device.

A `Device` turns rows into pixels and knows nothing of threads. An `Engine` runs a device in three lanes (prepare,
denoise, finish) on threads of its own and reports in the events of `darkroom.inference.types`. This module imports
neither torch nor a message library, so that the worker's core and the tests stay light.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from darkroom.inference.types import (
    BatchKey,
    CacheCounts,
    EngineEvent,
    JobId,
    ModelInfo,
    Part,
    Preview,
    RenderedImage,
    RenderFault,
    RenderJob,
    RowCaps,
    RowId,
    Series,
)
from darkroom.schemas.events.completion import PromptRead
from darkroom.schemas.events.pose import FoundPerson

Listener = Callable[[EngineEvent], None]


class CostProfile(Protocol):
    """The measured costs of a device, as far as engine and worker use them.

    `darkroom.inference.planning.profile.DeviceProfile` implements it and gives the formulas.
    """

    def cap(self, latent_height: int, latent_width: int, *, rows_max: int) -> int:
        """Return the most rows, from 1 to `rows_max`, that are worth running together at this size."""

    def caps(self, latent_height: int, latent_width: int, *, rows_max: int) -> RowCaps:
        """Return `cap`, and the rows up to `rows_max` that give the best throughput together at this size."""

    def device_seconds(
        self,
        latent_height: int,
        latent_width: int,
        *,
        steps: int,
        guided: bool,
        posed: bool,
        rows: int,
        shallow_steps: int = 0,
    ) -> float:
        """Return one row's share of the device in seconds, where `rows` such rows share each step.

        `steps` of them are full, and `shallow_steps` more are shallow.
        """

    def shallow_share(self, latent_height: int, latent_width: int) -> float:
        """Return the time of a shallow step as a share of a full step's, both of one typical row."""


class RunPlan(Protocol):
    """The way in which a device runs its model, explained to the operator."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """One sentence for each decision except attention."""

    @property
    def why_attention(self) -> str:
        """One sentence on the choice of attention."""

    def summary(self) -> str:
        """Return the plan in one line."""

    def as_json(self) -> dict[str, Any]:
        """Return the whole plan as JSON types."""


class Engine(Protocol):
    """A resident model behind three lanes. Every method but `start`, `refresh_adapters` and `close` returns at once."""

    @property
    def info(self) -> ModelInfo:
        """The loaded model, with the adapters as they are now. Available once `start` has returned."""

    @property
    def profile(self) -> CostProfile | None:
        """The device's measured costs; None before `start` has returned and for a device that was not measured."""

    @property
    def plan(self) -> RunPlan | None:
        """The way in which the device runs its model; None if there is nothing to plan. Available after `start`."""
        return None

    def start(self, listener: Listener) -> None:
        """Load, warm up, measure and start the lanes. Blocks: call it off the event loop. Raises `ModelError`."""

    def prepare(self, job: RenderJob) -> None:
        """Queue a job for the prepare lane, which answers with `JobPrepared` or `JobFailed`."""

    def admit(self, rows: Sequence[RowId]) -> None:
        """Let prepared rows join at the next step boundary, in this order.

        The caller respects the batch's cap. Rows whose `BatchKey` differs from the one on the device wait until the
        device is empty.
        """

    def set_cap(self, batch_key: BatchKey, rows: int) -> None:
        """Let at most `rows` rows of a key share a step from the next boundary on.

        Until then it is `JobPrepared.caps.paying`; more than `caps.best` counts as `caps.best`. Rows that are on the
        device stay there: under a lower cap none joins until enough of them have left.
        """

    def drop(self, job_id: JobId) -> None:
        """Forget a job at whatever stage it is. Events about it that are already under way may still arrive."""

    def rows_ceiling(self, batch_key: BatchKey) -> int | None:
        """Return how many rows of this key fit into the device's memory in one step; None if no limit is known.

        Available after `start`. More rows may be admitted: they wait for room.
        """

    def cache_counts(self) -> Mapping[str, CacheCounts]:
        """Return the counts of each cache (`prompt`, `pose`, ...)."""

    def memory_bytes(self) -> Mapping[str, int]:
        """Return bytes by kind (`allocated`, `reserved`, `total`); empty if the device does not report them."""

    def refresh_adapters(self) -> bool:
        """Look for adapters that appeared, changed or disappeared, and return True if `info` changed.

        Blocks for as long as it takes to fetch and examine them, without holding up a lane: call it off the event loop,
        on one thread at a time, between `start` and `close`. Raises `ModelError` if they cannot be listed; those that
        are known then stay.
        """
        return False

    def close(self) -> None:
        """Stop the lanes and free the device. Idempotent. Blocks for at most one step and one decode."""


class Row(Protocol):
    """One unfinished image. Devices keep its tensors; the lanes see only what is declared here."""

    @property
    def row_id(self) -> RowId:
        """The job and the image that this row is."""

    @property
    def batch_key(self) -> BatchKey:
        """The key of the rows with which it may share a step."""

    @property
    def steps_total(self) -> int:
        """The number of steps it needs."""

    @property
    def steps_done(self) -> int:
        """The number of steps it took. `Device.step` advances it, for all rows of a step or for none."""

    @property
    def full_steps(self) -> int:
        """The number of its steps so far that ran the whole networks: all, except for an economy picture."""

    @property
    def next_is_full(self) -> bool:
        """Return True if its next step will run the whole networks."""


RowT = TypeVar("RowT", bound=Row)


@dataclass(frozen=True, slots=True)
class PreparedRows(Generic[RowT]):
    """The prepare lane's result for one job."""

    rows: tuple[RowT, ...]
    """In the order of their images; `steps_done` is 0."""
    warnings: tuple[str, ...] = ()
    """Sentences for the requester, such as that the prompt was cut at 77 tokens."""
    found: tuple[FoundPerson, ...] = ()
    """The people in the pose's photo, the largest first, for the requester."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """The digests of the adapters that the rows are painted with, by name."""
    prompt: PromptRead | None = None
    """How much of the prompt was read, for the requester; None if the device does not count."""


class Device(Protocol[RowT]):
    """Turns rows into pixels.

    `prepare`, `step` and `finish` are each called by one thread. They may run at the same time as one another unless
    `series` forbids it, but no two calls of the same method overlap. `preview` is called by the thread of `finish`.
    `measured_on`, `buckets` and `measure` are called after `load` and never while `prepare`, `step` or `finish` runs.

    All methods block. They raise `RenderFault` if the device knows the party at fault and `DeviceLost` if no further
    call can succeed; the engine treats every other exception as the batch's fault (`FaultKind.BATCH`).

    `step` may return before the device has finished the step, as long as the order of each row's work is kept: errors
    of memory are raised in time, and any other late error is a `DeviceLost`.
    """

    @property
    def info(self) -> ModelInfo:
        """The loaded model, with the adapters as they are now. Available once `load` has returned."""

    @property
    def plan(self) -> RunPlan | None:
        """The way in which the device runs its model; None if there is nothing to plan. Available after `load`."""
        return None

    @property
    def series(self) -> Series:
        """The lanes that must never run at the same time. Available after `load`; constant until `close`."""

    def rows_ceiling(self, latent_height: int, latent_width: int) -> int | None:
        """Return how many rows of this size, at least 1, fit into memory in one step; None if no limit is known.

        Available after `load`.
        """

    def load(self) -> None:
        """Load the weights and run every kernel once. Raises `ModelError`."""

    def prepare(self, job: RenderJob) -> PreparedRows[RowT]:
        """Encode the prompt, draw the pose, draw the first noise."""

    def step(self, rows: Sequence[RowT]) -> None:
        """Take one denoising step with all rows, which share a `BatchKey`. Atomic: an error leaves every row as it
        was."""

    def finish(self, rows: Sequence[RowT]) -> tuple[RenderedImage | RenderFault, ...]:
        """Decode and encode complete rows of one `BatchKey`, from any jobs, and return their pictures in order.

        A fault in a row's place concerns that row alone: `render_failed` if its picture has values that are not finite.
        A raised error concerns the whole call.
        """

    def preview(self, row: RowT) -> Preview | None:
        """Return a small picture of a row whose job asked for previews; None if there is nothing to show yet.

        The row may be inside a step at the same time: the picture shows its state after some completed step.
        """

    def measured_on(self) -> Mapping[str, str]:
        """Return what times depend on besides `info`: the hardware's name, the libraries' versions and so on.

        Empty if measuring costs nothing, so that there is no point in storing the result.
        """

    def buckets(self, latent_height: int, latent_width: int) -> tuple[int, ...]:
        """Return the rising slot counts to which forwards of this size are padded; empty if they are not padded."""

    def measure(self, part: Part, latent_height: int, latent_width: int, count: int) -> float:
        """Return the undisturbed seconds of a part: the fastest of a few runs after a first one; 0 for an absent part.

        Runs on made-up inputs, padded as a step would be. Raises `RenderFault` (`BATCH_MEMORY`) if it does not fit, and
        then has freed what it allocated.
        """

    def cache_counts(self) -> Mapping[str, CacheCounts]:
        """Return the counts of each cache, as `Engine.cache_counts`."""

    def memory_bytes(self) -> Mapping[str, int]:
        """Return bytes by kind, as `Engine.memory_bytes`."""

    def refresh_adapters(self) -> bool:
        """Look for changed adapters, as `Engine.refresh_adapters`. May run at the same time as any other method."""
        return False

    def close(self) -> None:
        """Free what `load` allocated. Idempotent."""
