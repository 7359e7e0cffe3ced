"""A device that sleeps instead of denoising: for benches, chaos tests and planning without a model.

It keeps a real device's contract, the picture included: a small wallpaper that depends on the request alone, so that a
lost, doubled or mixed-up picture is noticed. It decodes pose pictures with the same limits and errors as a real device.
It accepts and decodes photos like a device with a detector, but looks for nobody: every photo has its own wallpaper,
and none fails as `pose_not_found`.

Markers. Only if it was made with `obey_markers=True`, the device obeys markers in a prompt, so that a test can send
trouble through the whole system:

    [[simulate:crash]]      ends the process at once, with `CRASH_EXIT_CODE` and no clean-up
    [[simulate:fail]]       raises an error of unknown kind
    [[simulate:oom N]]      raises `out_of_memory` at every step that more than N rows share (N >= 0)
    [[simulate:hang MS]]    makes the row's first step MS milliseconds longer

`crash` and `fail` take effect at the row's steps; with `prepare` or `finish`, as in `[[simulate:crash prepare]]`, they
take effect when the job is prepared or its rows are finished. An unknown marker fails the job as `invalid_request`.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from PIL import Image

from darkroom.inference.contract import Device, PreparedRows
from darkroom.inference.marks import text_of
from darkroom.inference.planning.profile import GUIDED_SLOTS, DeviceProfile
from darkroom.inference.planning.reuse import rule_of
from darkroom.inference.planning.step_curve import StepCurve
from darkroom.inference.pose.annotation import control_contents, read_control
from darkroom.inference.pose.control import picture_content, pose_digest, read_skeleton
from darkroom.inference.pose.picture import INIT_PICTURE, MASK_PICTURE, PictureLimits, decode_picture, named_content
from darkroom.inference.preview import encode_preview
from darkroom.inference.resolve import batch_key
from darkroom.inference.simulated.wallpaper import reencoded, wallpaper
from darkroom.inference.types import (
    SHALLOW_SHARE,
    BatchKey,
    CacheCounts,
    FaultKind,
    ModelInfo,
    Part,
    Preview,
    RenderedImage,
    RenderFault,
    RenderJob,
    RenderRequest,
    RowId,
    Series,
)
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.controls import KINDS
from darkroom.schemas.events.pose import KeypointPose, SkeletonPose
from darkroom.schemas.names import CONTENT_TYPES, EXTENSIONS

CRASH_EXIT_CODE: Final = 70
"""The exit status of a process that a marker ended: EX_SOFTWARE of sysexits.h."""

SIMULATED_REVISION: Final = "sha256:" + hashlib.sha256(b"darkroom simulated device 1").hexdigest()
"""There are no weights to digest; the number changes whenever the pictures change."""

_LATENT_FACTOR: Final = 8
_MARKER: Final = re.compile(r"\[\[simulate:([^\]]*)\]\]")
_LAWFUL_MARKER: Final = re.compile(r"(crash|fail)(?: (prepare|step|finish))?|(oom|hang) (\d{1,9})")


@dataclass(frozen=True, slots=True)
class Trouble:
    """The trouble that the markers of a prompt request."""

    crash_at: frozenset[str] = frozenset()
    fail_at: frozenset[str] = frozenset()
    oom_rows_max: int | None = None
    hang_s: float = 0.0


@dataclass(slots=True)
class SimulatedRow:
    """One unfinished picture: the request and the digest that decides its pixels."""

    row_id: RowId
    batch_key: BatchKey
    steps_total: int
    request: RenderRequest
    shown: bytes
    """The bytes that decide the picture, `darkroom.inference.simulated.wallpaper.SHOWN_BYTES` or more."""
    trouble: Trouble | None = None
    steps_done: int = field(default=0)
    shallow: frozenset[int] = frozenset()
    """The steps, counted from 0, that take the profile's time of shallow ones, or `SHALLOW_SHARE` of the curve's."""

    @property
    def full_steps(self) -> int:
        """All of them, except for an economy picture."""
        return self.steps_done - sum(step < self.steps_done for step in self.shallow)

    @property
    def next_is_full(self) -> bool:
        """Return True for a step that takes the curve's time."""
        return self.steps_done not in self.shallow


class SimulatedDevice(Device[SimulatedRow]):
    """`darkroom.inference.contract.Device` without a model.

    A step of n rows sleeps `step_ms * curve(n) / curve(1)`. Without a curve that is `step_ms`, and without `step_ms`
    the curve's own time; picture sizes, guidance and poses have no effect. With a `profile` a step sleeps for the
    profile's time of its UNet and ControlNet slots at its size. Decoding takes `finish_ms` in any case, because real
    lanes share the device and sleeping ones would not. A time of 0 does not call sleep at all.
    """

    def __init__(
        self,
        step_ms: float | None = None,
        curve: Mapping[int, float] | None = None,
        *,
        profile: DeviceProfile | None = None,
        native_size: int = 64,
        prepare_ms: float = 0.0,
        finish_ms: float = 0.0,
        obey_markers: bool = False,
        picture_limits: PictureLimits | None = None,
    ) -> None:
        """Make a device.

        `step_ms`: milliseconds of a step of one row. `curve`: milliseconds per step by rows
        (`darkroom.inference.planning.step_curve.read_curve` reads one). `profile`: the measured times of a real device,
        in place of both. `native_size`: width and height in pixels of a request that names none, a multiple of 8.
        `prepare_ms`: milliseconds per job. `finish_ms`: milliseconds per picture. `picture_limits`: limits on pose
        pictures, the real device's by default. Raises `ValueError` if no step time is given, if a profile is given
        besides another one, or if a time is negative or not finite, and `CurveError` for a curve that cannot be used.
        """
        if (step_ms is None and curve is None) == (profile is None):
            raise ValueError("a simulated device needs step_ms, a curve or both, or else a profile and neither")
        for name, ms in (("step_ms", step_ms), ("prepare_ms", prepare_ms), ("finish_ms", finish_ms)):
            if ms is not None and not (math.isfinite(ms) and ms >= 0):
                raise ValueError(f"{name} is {ms}: give milliseconds, 0 or more")
        if native_size < _LATENT_FACTOR or native_size % _LATENT_FACTOR:
            raise ValueError(f"native_size is {native_size}: give a multiple of {_LATENT_FACTOR} pixels")
        self._step_ms = step_ms
        self._curve = None if curve is None else StepCurve(curve)
        self._profile = profile
        self._step_seconds: dict[tuple[BatchKey, int, int], float] = {}
        self._prepare_s = prepare_ms / 1000
        self._finish_s = finish_ms / 1000
        self._obey_markers = obey_markers
        self._picture_limits = PictureLimits() if picture_limits is None else picture_limits
        self._info = ModelInfo(
            name="simulated",
            revision=SIMULATED_REVISION,
            native_width=native_size,
            native_height=native_size,
            size_multiple=_LATENT_FACTOR,
            latent_factor=_LATENT_FACTOR,
            device="simulated",
            dtype="none",
            sampler_version="simulated-1",
            pose_detector=SIMULATED_REVISION,
            controls=dict.fromkeys(KINDS, SIMULATED_REVISION),
        )

    @property
    def info(self) -> ModelInfo:
        """The properties of the simulated model."""
        return self._info

    @property
    def series(self) -> Series:
        """None: it can sleep in all lanes at once."""
        return Series.NONE

    def rows_ceiling(self, latent_height: int, latent_width: int) -> int | None:  # noqa: ARG002 - of any size
        """Return None: without memory there is no limit."""
        return None

    def load(self) -> None:
        """Do nothing: there is nothing to load."""

    def prepare(self, job: RenderJob) -> PreparedRows[SimulatedRow]:
        """Digest the request. Raises `RenderFault` for a pose picture that a real device would refuse."""
        _sleep(self._prepare_s)
        request = job.request
        trouble = _trouble(request.prompt) if self._obey_markers else None
        if trouble is not None:
            _play(trouble, "prepare")
        pose = None
        warnings: list[str | None] = []
        followed: list[list[str | float]] = []
        if request.pose is not None:
            stored = job.pictures.get("pose")
            pose = pose_digest(request.pose, stored)
            if not isinstance(request.pose, KeypointPose):
                # Decoded for its errors: the digest does not tell whether the picture can be decoded.
                content = picture_content(request.pose, stored)
                if isinstance(request.pose, SkeletonPose):
                    warnings.append(read_skeleton(content, self._picture_limits).warning)
                else:
                    decode_picture(content, self._picture_limits)
        for place, control, content in control_contents(job):
            size = {"width": request.width, "height": request.height}
            read = read_control(control.kind, content, field=place, limits=self._picture_limits, **size)
            warnings.append(read.warning)
            digest = hashlib.sha256(content).hexdigest()
            followed.append([control.kind, digest, control.scale, control.start, control.end])
        start = []
        for name, part, what in (("init", request.init, INIT_PICTURE), ("mask", request.mask, MASK_PICTURE)):
            if part is not None:
                content = named_content(part.image, job.pictures.get(name), what)
                decode_picture(content, self._picture_limits, what)
                start.append([hashlib.sha256(content).hexdigest(), part.model_dump(exclude={"image"})])
        key = batch_key(request, self._info)
        shallow: frozenset[int] = frozenset()
        if request.fidelity == "economy":
            full = rule_of(request.sampler).full_calls(request.calls)
            shallow = frozenset(step for step, is_full in enumerate(full) if not is_full)
        return PreparedRows(
            tuple(
                SimulatedRow(
                    row_id=RowId(job.job_id, index),
                    batch_key=key,
                    steps_total=request.calls,
                    request=request,
                    shown=_shown(request, pose, followed, start, request.seed + index),
                    shallow=shallow,
                    trouble=trouble,
                )
                for index in range(request.count)
            ),
            tuple(warning for warning in warnings if warning is not None),
        )

    def step(self, rows: Sequence[SimulatedRow]) -> None:
        """Sleep for the duration of a step of these rows."""
        if self._obey_markers:
            _play_step(rows)
        _sleep(self.step_seconds(rows))
        for row in rows:
            row.steps_done += 1

    def step_seconds(self, rows: Sequence[SimulatedRow]) -> float:
        """Return the seconds of a step of these rows, which share a batch key."""
        shallow = [row for row in rows if not row.next_is_full]
        if not shallow:
            return self._full_seconds(rows)
        full = [row for row in rows if row.next_is_full]
        return (self._full_seconds(full) if full else 0.0) + self._shallow_seconds(shallow)

    def _shallow_seconds(self, rows: Sequence[SimulatedRow]) -> float:
        full_s = self._full_seconds(rows)
        if self._profile is None:
            return SHALLOW_SHARE * full_s
        size = rows[0].batch_key[:2]
        return self._profile.shallow_step_ms(*size, rows=len(rows), full_ms=1000 * full_s) / 1000

    def _full_seconds(self, rows: Sequence[SimulatedRow]) -> float:
        if self._profile is None:
            return self._seconds_of(len(rows))
        unet = sum(_slots(row.request) for row in rows)
        control = sum(_slots(row.request) * _controls(row.request) for row in rows)
        known = (rows[0].batch_key, unet, control)
        seconds = self._step_seconds.get(known)
        if seconds is None:
            key = rows[0].batch_key
            ms = self._profile.step_ms(key.latent_height, key.latent_width, unet_slots=unet, control_slots=control)
            seconds = self._step_seconds[known] = ms / 1000
        return seconds

    def finish(self, rows: Sequence[SimulatedRow]) -> tuple[RenderedImage | RenderFault, ...]:
        """Paint the rows' wallpapers."""
        for row in rows:
            if row.trouble is not None:
                _play(row.trouble, "finish")
        _sleep(self._finish_s * len(rows))
        return tuple(_painted(row) for row in rows)

    def preview(self, row: SimulatedRow) -> Preview | None:
        """Return the wallpaper, which fades in from grey with the steps."""
        steps_done = row.steps_done
        return Preview(_faded(row, steps_done / row.steps_total), steps_done) if steps_done else None

    def measured_on(self) -> Mapping[str, str]:
        """Return nothing, because asking the curve again is cheaper than reading a file."""
        return {}

    def buckets(self, latent_height: int, latent_width: int) -> tuple[int, ...]:  # noqa: ARG002
        """Return nothing, because forwards are not padded."""
        return ()

    def measure(self, part: Part, latent_height: int, latent_width: int, count: int) -> float:
        """Return the time from the curve or the profile, without sleeping. A curve's rows count as guided."""
        if part is Part.DECODE:
            return self._finish_s * count
        if part is Part.REST:
            return 0.0
        if part is Part.SHALLOW:
            slots = GUIDED_SLOTS * count
            full_s = sum(self.measure(one, latent_height, latent_width, slots) for one in (Part.UNET, Part.CONTROLNET))
            if self._profile is None:
                return SHALLOW_SHARE * full_s
            return self._profile.shallow_step_ms(latent_height, latent_width, rows=count, full_ms=1000 * full_s) / 1000
        if self._profile is None:
            return self._seconds_of(math.ceil(count / GUIDED_SLOTS)) if part is Part.UNET else 0.0
        alone, both = (
            self._profile.step_ms(latent_height, latent_width, unet_slots=count, control_slots=control) / 1000
            for control in (0, count)
        )
        return alone if part is Part.UNET else both - alone

    def cache_counts(self) -> Mapping[str, CacheCounts]:
        """Return nothing: there are no caches."""
        return {}

    def memory_bytes(self) -> Mapping[str, int]:
        """Return nothing: the device has no memory of its own."""
        return {}

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    def _seconds_of(self, rows: int) -> float:
        if self._curve is None:
            return (self._step_ms or 0.0) / 1000
        if self._step_ms is None:
            return self._curve.ms(rows) / 1000
        return self._step_ms * self._curve.ms(rows) / self._curve.ms(1) / 1000


def _slots(request: RenderRequest) -> int:
    return GUIDED_SLOTS if request.guidance_scale > 1 else 1


def _controls(request: RenderRequest) -> int:
    return len(request.controls) + (request.pose is not None)


def _sleep(seconds: float) -> None:
    if seconds > 0:
        time.sleep(seconds)


# --- Trouble on request ---------------------------------------------------------------------------------


def _trouble(prompt: str) -> Trouble | None:
    markers = _MARKER.findall(prompt)
    if not markers:
        return None
    at: dict[str, set[str]] = {"crash": set(), "fail": set()}
    numbers: dict[str, int] = {}
    for marker in markers:
        lawful = _LAWFUL_MARKER.fullmatch(marker)
        if lawful is None:
            raise RenderFault(
                FaultKind.REQUEST,
                ErrorCode.INVALID_REQUEST,
                f"The marker [[simulate:{marker[:40]}]] is not known: darkroom.inference.simulated.device lists them.",
            )
        what, stage, counted, number = lawful.groups()
        if what:
            at[what].add(stage or "step")
        else:
            numbers[counted] = int(number)
    return Trouble(
        crash_at=frozenset(at["crash"]),
        fail_at=frozenset(at["fail"]),
        oom_rows_max=numbers.get("oom"),
        hang_s=numbers.get("hang", 0) / 1000,
    )


def _play(trouble: Trouble, stage: str) -> None:
    if stage in trouble.crash_at:
        os._exit(CRASH_EXIT_CODE)
    if stage in trouble.fail_at:
        raise RuntimeError(f"simulated failure: the prompt asked for one at {stage}")


def _play_step(rows: Sequence[SimulatedRow]) -> None:
    for row in rows:
        trouble = row.trouble
        if trouble is None:
            continue
        if row.steps_done == 0:
            _sleep(trouble.hang_s)
        _play(trouble, "step")
        if trouble.oom_rows_max is not None and len(rows) > trouble.oom_rows_max:
            raise RenderFault(
                FaultKind.BATCH_MEMORY,
                ErrorCode.OUT_OF_MEMORY,
                f"Simulated: {len(rows)} rows shared a step, a prompt allowed {trouble.oom_rows_max}.",
            )


# --- The picture ----------------------------------------------------------------------------------------


def _shown(
    request: RenderRequest, pose: str | None, controls: Sequence[object], start: Sequence[object], seed: int
) -> bytes:
    """Return a digest of everything that decides one image's pixels. Its place among `count` images has no
    influence."""
    decisive: dict[str, object] = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "width": request.width,
        "height": request.height,
        "steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "sampler": request.sampler,
        "seed": seed,
    }
    if request.fidelity != "exact":
        decisive["fidelity"] = request.fidelity
    if pose is not None:
        decisive["pose"] = [pose, request.control_scale, request.control_start, request.control_end]
    if controls:
        decisive["controls"] = controls
    if start:
        decisive["start"] = start
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).digest()


def _painted(row: SimulatedRow) -> RenderedImage:
    request = row.request
    seed = request.seed + row.row_id.image
    text = text_of(request, seed)
    content = wallpaper(row.shown, request.width, request.height, text)
    if request.image_format != "png":
        content = reencoded(content, request.image_format, request.image_quality, text)
    return RenderedImage(
        content=content,
        width=request.width,
        height=request.height,
        seed=seed,
        content_type=CONTENT_TYPES[request.image_format],
        extension=EXTENSIONS[request.image_format],
    )


def _faded(row: SimulatedRow, shown: float) -> bytes:
    """Return a preview that blends the picture, with the share `shown`, into grey."""
    content = wallpaper(row.shown, row.request.width, row.request.height, {})
    with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
        return encode_preview(Image.blend(Image.new("RGB", picture.size, "grey"), picture.convert("RGB"), shown))
