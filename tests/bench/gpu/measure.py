"""Times, memory, idle gaps and parity: our engine and diffusers' pipeline, one after the other on one device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import RenderJob, RenderRequest
from tests.bench.contenders import OurEngine, Pipeline
from tests.bench.gpu.gaps import Gaps, gaps_of
from tests.bench.gpu.timing import timed
from tests.bench.gpu.ways import ways
from tests.bench.offline import requests

GAP_STEPS = 8
"""Steps of the profiled run: enough for gaps between steps, few enough for a profiler."""
PARITY = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.2}
"""Largest root mean square of the latents' difference, over that of the latents. In half precision each step rounds,
and the kernels' order of sums depends on the batch."""


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    device: torch.device
    dtype: str
    side: int
    steps: tuple[int, ...]
    batches: tuple[int, ...]
    modes: tuple[str, ...]
    compile_backend: str
    minutes: float
    """From the start of measuring: nothing more is begun after them."""

    def told(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self) | {"device": str(self.device), "steps": list(self.steps), "batches": list(self.batches)}


def measure(model: TinyModel, plan: Plan) -> dict[str, Any]:
    """Every figure for which there is time. A side is loaded, measured and closed before the other is, so that memory
    is its own."""
    until = time.monotonic() + 60 * plan.minutes
    runs: list[dict[str, Any]] = []
    gaps: list[dict[str, Any]] = []
    left_out: list[str] = []
    engine = OurEngine(_device(model, plan, compiled=False), rows_max=max(plan.batches))
    try:
        cheaper = ways(engine, plan.device, rows=max(plan.batches), side=plan.side)
    finally:
        engine.close()
    agreement = parity(model, plan)
    for mode in plan.modes:
        for name, side in (("ours", _ours), ("pipeline", _theirs)):
            if time.monotonic() > until:
                left_out.append(f"{name}, {mode}")
                continue
            paint, close = side(model, plan, mode)
            try:
                for batch in plan.batches:
                    if time.monotonic() > until:
                        left_out.append(f"{name}, {mode}, batch {batch}")
                        continue
                    told = {"side": name, "mode": mode, "batch": batch}
                    paint(_load(plan, batch, 2))  # every kernel and every shape once
                    runs += [
                        {**told, "steps": steps, **timed(plan.device, partial(paint, _load(plan, batch, steps)))}
                        for steps in plan.steps
                    ]
                    found = gaps_of(plan.device, partial(paint, _load(plan, batch, GAP_STEPS)))
                    gaps.append({**told, **_told(found)})
            finally:
                close()
    return {"ways": cheaper, "parity": agreement, "runs": runs, "gaps": gaps, "left_out": left_out}


Painter = Callable[[Sequence[RenderRequest]], Any]
Side = tuple[Painter, Callable[[], None]]


def _load(plan: Plan, batch: int, steps: int) -> list[RenderRequest]:
    return requests([steps] * batch, plan.side)


def _ours(model: TinyModel, plan: Plan, mode: str) -> Side:
    rows_max = max(plan.batches)
    engine = OurEngine(_device(model, plan, compiled=mode == "compiled"), rows_max=rows_max)
    return lambda load: engine.paint(load, rows_max), engine.close


def _theirs(model: TinyModel, plan: Plan, mode: str) -> Side:
    pipeline = Pipeline(model, str(plan.device), getattr(torch, plan.dtype))
    if mode == "compiled":
        pipeline.compile(plan.compile_backend)

    def close() -> None:
        pipeline.close()
        if plan.device.type == "cuda":
            torch.cuda.empty_cache()

    return lambda load: pipeline.paint([load]), close


def _device(model: TinyModel, plan: Plan, *, compiled: bool) -> SdxlDevice:
    dtype: Any = plan.dtype
    return SdxlDevice(
        model.path,
        model.controlnet_path,
        device=str(plan.device),
        dtype=dtype,
        rows_max=max(plan.batches),
        compiles="on" if compiled else "off",
        compile_sizes=((plan.side, plan.side),),
        compile_backend=plan.compile_backend,
    )


def _told(gaps: Gaps | None) -> dict[str, Any]:
    if gaps is None:
        return {"busy_share": None, "idle_ms_a_step": None, "longest_ms": None}
    return {
        "busy_share": gaps.busy_share,
        "idle_ms_a_step": gaps.idle_ms / GAP_STEPS,
        "longest_ms": gaps.longest_ms,
    }


def parity(model: TinyModel, plan: Plan) -> dict[str, Any]:
    """Our latents against the pipeline's, two rows that share their steps against two calls, and how far others are.

    `other` is the same distance to another request's latents: were it small, agreement would mean nothing.
    """
    steps = min(plan.steps)
    load = requests([steps, steps], plan.side)
    device = _device(model, plan, compiled=False)
    device.load()
    try:
        rows = [row for number, one in enumerate(load) for row in device.prepare(RenderJob(f"{number}", one)).rows]
        while rows[0].steps_done < rows[0].steps_total:
            device.step(rows)
        ours = [row.latents.float().cpu() for row in rows]
    finally:
        device.close()
    pipeline = Pipeline(model, str(plan.device), getattr(torch, plan.dtype))
    theirs = [pipeline.latents(one).float().cpu() for one in load]
    pipeline.close()
    largest = max(_distance(our, their) for our, their in zip(ours, theirs, strict=True))
    return {
        "steps": steps,
        "relative_rms": largest,
        "other": _distance(ours[0], theirs[1]),
        "tolerance": PARITY[plan.dtype],
        "kept": largest <= PARITY[plan.dtype],
    }


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).square().mean().sqrt() / other.square().mean().sqrt())
