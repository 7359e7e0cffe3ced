"""Decides from a device's memory how a model is laid out on it and how many rows may share a step.

`plan_memory` is a pure function: numbers in, a frozen plan and its reasons out. The picture never depends on the amount
of memory: tiles are chosen by the picture's size alone, and the caller chooses the dtype. Memory decides which device
holds each part, which lanes run side by side, and the size of the batch.

The layouts, in order of preference. The plan takes the first that holds two rows of the largest picture, otherwise the
first that holds one. Exact rows are counted for that, because most are. The rows that may share a step are counted as
economy rows, each of which keeps something between its steps, so that any mixture fits:

    text encoders   lanes                                    costs
    on the device   side by side                             nothing
    on the CPU      side by side                             about a second for a new prompt, memory of the host
    on the device   denoise and finish take turns            rows wait while a picture is decoded
    on the CPU      denoise and finish take turns            both
    all offloaded   all take turns, weights move with them   the weights' way over the bus at each turn
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any, Final

from darkroom.inference.planning.memory_layout import MemoryLayout, Peaks, Place, layouts, peaks_of
from darkroom.inference.planning.memory_model import (
    DTYPE_BYTES,
    TILED_ABOVE_PIXELS,
    USABLE_SHARE,
    ModelSize,
    slice_bytes,
    step_bytes,
)
from darkroom.inference.types import ModelError, Series

ROWS_WANTED: Final = 2
"""A batch of one shares nothing; beyond two rows a 1024 x 1024 picture gains little from a larger batch."""
ROWS_PLENTY: Final = 8
"""With room for this many rows besides, pictures are decoded together instead of one by one."""
DECODE_ROWS: Final = 4
"""The most rows that an engine hands to the decoder at once."""
MEMORY_BYTES_MIN: Final = 12 * 10**9
"""The least memory for SDXL with a ControlNet whose parts take turns: a card sold as 12 GB has 12.5 billion bytes."""
MEMORY_BYTES_RECOMMENDED: Final = 15_500_000_000
"""With this much the weights stay on the device: a card sold as 16 GB has 15.6 to 17 billion bytes."""


class Attention(Enum):
    """The implementation with which UNet and ControlNet compute attention."""

    SDPA = "sdpa"
    XFORMERS = "xformers"
    SLICED = "sliced"


@dataclass(frozen=True, slots=True)
class AttentionProbe:
    """The result of running one real attention on the device. Made by `darkroom.inference.sdxl.denoise.attention`."""

    sdpa_ms: float | None
    """torch's own attention with a kernel of linear memory; None if the device has none."""
    xformers_ms: float | None
    """None if xformers is not installed or does not run."""
    says: tuple[str, ...] = ()
    """One sentence for each implementation that does not run."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The way in which a model runs on a device, with the reasons. Made by `plan_memory`."""

    device_kind: str
    memory_bytes: int | None
    """The memory that the plan may use; None if the device uses the host's memory, which bounds nothing."""
    dtype: str
    vae_dtype: str
    width: int
    height: int
    """Size of the largest picture, for which `rows_max` and the peaks are computed."""
    rows_max: int | None
    """Guided and posed rows that may share a step of the largest picture."""
    layout: MemoryLayout
    attention: Attention
    channels_last: bool
    fuse_qkv: bool
    vae_slicing: bool
    vae_tiled_above_pixels: int
    peaks: Peaks
    model: ModelSize
    probe: AttentionProbe
    why_attention: str
    reasons: tuple[str, ...] = ()
    """One sentence for each other decision."""

    def rows_ceiling(self, latent_height: int, latent_width: int) -> int | None:
        """Return how many guided and posed rows, at least 1, may share a step at this size; None if no limit is known.

        Larger pictures than the plan was made for are counted in the same way, without a promise that one row fits.
        """
        if self.memory_bytes is None:
            return None
        left = self.peaks.left_for_rows(self.layout.series, _usable(self.memory_bytes))
        return max(1, left // step_bytes(self.model, self.dtype, latent_height * latent_width, with_control=True))

    def summary(self) -> str:
        """Return the plan in one line."""
        rows = "no limit of rows" if self.rows_max is None else f"{self.rows_max} rows"
        lanes = {
            Series.NONE: "lanes side by side",
            Series.DENOISE_AND_FINISH: "denoising and decoding in turns",
            Series.ALL: "lanes in turns, weights offloaded",
        }[self.layout.series]
        return (
            f"{self.dtype}, {rows} at {self.width} x {self.height}, {lanes}, "
            f"text encoders on {self.layout.text_place.value}, VAE in {self.vae_dtype} on "
            f"{self.layout.vae_place.value}, attention by {self.attention.value}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the whole plan as JSON types."""
        plan: dict[str, Any] = _plain(asdict(self))
        if self.rows_max is not None:
            plan["peak_bytes"] = self.peaks.total(self.layout.series, self.rows_max)
        return plan


def plan_memory(
    model: ModelSize,
    *,
    device_kind: str,
    memory_bytes: int | None,
    dtype: str,
    width: int,
    height: int,
    probe: AttentionProbe,
    adapters: bool = False,
    text_place: Place | None = None,
    vae_place: Place | None = None,
    second_device: bool = False,
    cache_bytes: int = 0,
) -> MemoryPlan:
    """Make the plan for a model on a device. Raises `ModelError` if not even one row fits.

    `memory_bytes`: the GPU memory that this process may use; None on a CPU, whose memory is not planned. `width` and
    `height`: the largest picture to be served. `adapters`: true if LoRA files may be applied. `text_place` and
    `vae_place`: the operator's choice; None leaves it to the plan. `second_device`: true if there is another GPU. The
    plan only recommends it, because it usually belongs to another worker. `cache_bytes`: the most that prompt and pose
    caches may hold on the device.
    """
    vae_dtype = "float32" if dtype == "float16" and model.vae_overflows else dtype
    attention, why_attention = _attention(device_kind, probe)
    held_bytes = cache_bytes
    if attention is Attention.SLICED:
        held_bytes += slice_bytes(dtype, width * height // model.latent_factor**2)

    def peaks(layout: MemoryLayout) -> Peaks:
        return peaks_of(
            layout, model, dtype=dtype, vae_dtype=vae_dtype, width=width, height=height, held_bytes=held_bytes
        )

    candidates = {layout: peaks(layout) for layout in layouts(text_place, vae_place)}
    chosen, rows_max = next(iter(candidates)), None
    if memory_bytes is not None:
        fitting = _first_that_fits(candidates, memory_bytes)
        if fitting is None:
            least = min(each.total(layout.series, 1) for layout, each in candidates.items())
            raise ModelError(_refusal(memory_bytes, least, f"{width} x {height} in {dtype}"))
        chosen, rows_max = fitting
    plan = MemoryPlan(
        device_kind=device_kind,
        memory_bytes=memory_bytes,
        dtype=dtype,
        vae_dtype=vae_dtype,
        width=width,
        height=height,
        rows_max=rows_max,
        layout=chosen,
        attention=attention,
        channels_last=device_kind == "cuda" and DTYPE_BYTES[dtype] == 2,
        fuse_qkv=device_kind == "cuda" and attention is Attention.SDPA and not adapters,
        vae_slicing=True,
        vae_tiled_above_pixels=TILED_ABOVE_PIXELS,
        peaks=candidates[chosen],
        model=model,
        probe=probe,
        why_attention=why_attention,
    )
    plan = _unsliced(plan)
    asked = text_place is not None or vae_place is not None
    reasons = _reasons(plan, adapters=adapters, asked=asked, second_device=second_device)
    return replace(plan, reasons=tuple(reasons))


def _first_that_fits(peaks_by_layout: dict[MemoryLayout, Peaks], memory_bytes: int) -> tuple[MemoryLayout, int] | None:
    """Return the best layout and its rows; None if no layout holds a row."""
    usable = _usable(memory_bytes)
    fitting = {
        layout: (peaks.left_for_rows(layout.series, usable), peaks)
        for layout, peaks in peaks_by_layout.items()
        if peaks.total(layout.series, 1) <= usable
    }
    for wanted in (ROWS_WANTED, 1):
        for layout, (left, peaks) in fitting.items():
            if left // (peaks.denoise_row - peaks.economy_row) >= wanted:
                return layout, left // peaks.denoise_row
    return None


def _unsliced(plan: MemoryPlan) -> MemoryPlan:
    """Return the plan with whole batches decoded at once if that leaves room for many rows; otherwise unchanged."""
    if plan.memory_bytes is None:
        return replace(plan, vae_slicing=False)
    peaks = replace(plan.peaks, finish=DECODE_ROWS * plan.peaks.finish)
    rows = peaks.left_for_rows(plan.layout.series, _usable(plan.memory_bytes)) // peaks.denoise_row
    if plan.layout.series is not Series.NONE or rows < ROWS_PLENTY:
        return plan
    return replace(plan, vae_slicing=False, peaks=peaks, rows_max=rows)


def _usable(memory_bytes: int) -> int:
    return int(memory_bytes * USABLE_SHARE)


def _attention(device_kind: str, probe: AttentionProbe) -> tuple[Attention, str]:
    """Return the faster implementation that runs, and the reason."""
    sdpa, xformers = probe.sdpa_ms, probe.xformers_ms
    if xformers is not None and (sdpa is None or xformers < sdpa):
        than = "SDPA does not run in linear memory" if sdpa is None else f"SDPA takes {sdpa:.3f} ms"
        return Attention.XFORMERS, f"Attention by xformers: {xformers:.3f} ms in the probe, {than}."
    if sdpa is not None:
        than = "xformers does not run" if xformers is None else f"xformers takes {xformers:.3f} ms"
        return Attention.SDPA, f"Attention by torch's SDPA: {sdpa:.3f} ms in the probe, {than}."
    return Attention.SLICED, f"Attention head by head: no kernel of linear memory runs on this {device_kind}."


def _reasons(plan: MemoryPlan, *, adapters: bool, asked: bool, second_device: bool) -> list[str]:
    reasons = _form_reasons(plan, adapters=adapters)
    if plan.memory_bytes is None:
        return [*reasons, f"A {plan.device_kind} uses the host's memory: no plan bounds the batch."]
    gb, layout = plan.memory_bytes / 1e9, plan.layout
    decode = f"{plan.peaks.finish / 1e9:.1f}"
    weights = f"of {gb:.1f} GB, {plan.peaks.resident / 1e9:.1f} are always allocated"
    reasons.append(
        {
            Series.NONE: f"Lanes run side by side: {weights}, a decode takes {decode}, and the rest is for rows.",
            Series.DENOISE_AND_FINISH: f"Denoising and decoding take turns: {weights}, and the {decode} of a "
            "decode do not fit alongside a step.",
            Series.ALL: "All lanes take turns and weights are offloaded: "
            f"the model does not fit into {gb:.1f} GB as a whole; the host keeps a copy of it.",
        }[layout.series]
    )
    if layout.text_place is Place.CPU and not asked:
        reasons.append(
            "The text encoders are on the CPU in float32: on the device they would take memory from the rows."
        )
    if asked:
        reasons.append("The settings choose the devices of the text encoders and the VAE.")
    if plan.vae_dtype != plan.dtype and layout.series is not Series.NONE:
        reasons.append("A VAE that is safe in float16 (DARKROOM_MODEL__VAE_PATH) would halve what a decode takes.")
    if second_device and layout.series is not Series.NONE:
        reasons.append(
            "There is a second GPU: set DARKROOM_MODEL__VAE_DEVICE and DARKROOM_MODEL__TEXT_DEVICE to it to leave this "
            "one to denoising."
        )
    return reasons


def _form_reasons(plan: MemoryPlan, *, adapters: bool) -> list[str]:
    """Return the reasons for decisions made by dtype, size and kind of device."""
    reasons = [
        f"Pictures above {plan.vae_tiled_above_pixels} pixels are decoded in tiles, on every device, so that a picture "
        "does not depend on the worker's memory."
    ]
    if plan.vae_slicing:
        reasons.append(
            f"Pictures are decoded one by one: decoding {DECODE_ROWS} at once would take memory from the rows."
        )
    if plan.vae_dtype != plan.dtype:
        reasons.append("The VAE is in float32: its configuration (force_upcast) says that it overflows in float16.")
    if plan.channels_last:
        reasons.append("Weights are channels-last, which half-precision convolutions on CUDA read without a copy.")
    if adapters:
        reasons.append("QKV projections are not fused: fusing would lose part of a LoRA.")
    elif plan.device_kind == "cuda" and not plan.fuse_qkv:
        reasons.append("QKV projections are not fused: only SDPA supports it.")
    return reasons


def _refusal(memory_bytes: int, least: int, picture: str) -> str:
    return (
        f"The model does not fit into {memory_bytes / 1e9:.1f} GB of memory: one picture of {picture} "
        f"takes {least / USABLE_SHARE / 1e9:.1f} GB, all parts taking turns; use a larger device, smaller pictures "
        "(DARKROOM_LIMITS__MAX_PIXELS), float16, or no ControlNet."
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
