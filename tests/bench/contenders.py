"""Two ways to the same pictures: our engine, and diffusers' pipeline as a careful user would call it.

Both take resolved requests and give back PNG bytes; both decode the pose's picture, encode the prompts, denoise, decode
and write PNG at the same compression. Both are loaded once and warm before anything is timed.
"""

from __future__ import annotations

import io
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers.models.attention import BasicTransformerBlock
from PIL import Image

from darkroom.inference.contract import Device
from darkroom.inference.engine import LaneEngine
from darkroom.inference.quiet import no_progress_bars
from darkroom.inference.sdxl.finish.pictures import encode_picture
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import (
    EngineEvent,
    EngineStopped,
    JobFailed,
    JobPrepared,
    JobRendered,
    RenderJob,
    RenderRequest,
    RowId,
    StepDone,
    StepFailed,
)

Pictures = list[bytes]
WAIT_S = 300.0
"""For one call of a contender: many times what any of them takes."""


@dataclass(frozen=True, slots=True)
class Took:
    """What a run took. On one thread the two agree on a quiet machine; on a busy one the second is the steadier."""

    seconds: float
    cpu_seconds: float
    """Of all of the process's threads."""


def timed(call: Any, *arguments: Any) -> Took:
    """Call and throw the result away."""
    cpu, began = time.process_time(), time.perf_counter()
    call(*arguments)
    return Took(time.perf_counter() - began, time.process_time() - cpu)


class OurEngine:
    """`LaneEngine` over a device, driven by its public seam: everything is prepared, then rows are let in."""

    def __init__(self, device: Device[Any], *, rows_max: int) -> None:
        self._engine = LaneEngine(device, rows_max=rows_max, finish_queue_rows_max=1024)
        self._changed = threading.Condition()
        self._prepared = 0
        self._rendered: dict[str, bytes] = {}
        self._waiting: deque[RowId] = deque()
        self._fault: str | None = None
        self._serial = 0
        self._lanes_s = {"prepare": 0.0, "denoise": 0.0, "finish": 0.0}
        self._engine.start(self._listen)

    def paint(self, requests: Sequence[RenderRequest], rows_max: int) -> Pictures:
        """The pictures of `requests`, in their order; at most `rows_max` of them share a step."""
        self._serial += 1
        ids = [f"{self._serial}-{number}" for number in range(len(requests))]
        with self._changed:
            self._prepared, self._rendered = 0, {}
            self._lanes_s = dict.fromkeys(self._lanes_s, 0.0)
        for job_id, request in zip(ids, requests, strict=True):
            self._engine.prepare(RenderJob(job_id, request))
        self._wait_until(lambda: self._prepared == len(ids))
        rows = [RowId(job_id, 0) for job_id in ids]
        self._waiting = deque(rows[rows_max:])
        self._engine.admit(rows[:rows_max])
        self._wait_until(lambda: len(self._rendered) == len(ids))
        return [self._rendered[job_id] for job_id in ids]

    def lanes_ms(self) -> dict[str, float]:
        """What each lane took for one picture of the last call, in ms. On one core they take turns."""
        return {f"{lane}_ms": seconds * 1000 / len(self._rendered) for lane, seconds in self._lanes_s.items()}

    def close(self) -> None:
        self._engine.close()

    def _listen(self, event: EngineEvent) -> None:
        # On a lane's thread, the engine's lock held: a place that falls free is given away at that very boundary.
        match event:
            case StepDone():
                self._lanes_s["denoise"] += event.seconds
                for _ in event.retired:
                    if self._waiting:
                        self._engine.admit([self._waiting.popleft()])
            case JobPrepared():
                self._lanes_s["prepare"] += event.prepare_ms / 1000
                self._tell(prepared=1)
            case JobRendered():
                self._lanes_s["finish"] += event.decode_ms / 1000
                self._tell(rendered=event)
            case JobFailed() | StepFailed() | EngineStopped():
                self._tell(fault=repr(event))

    def _tell(self, prepared: int = 0, rendered: JobRendered | None = None, fault: str | None = None) -> None:
        with self._changed:
            self._prepared += prepared
            if rendered is not None:
                self._rendered[rendered.job_id] = rendered.images[0].content
            self._fault = self._fault or fault
            self._changed.notify_all()

    def _wait_until(self, true: Any) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: true() or self._fault, WAIT_S):
                raise TimeoutError(f"the engine did not answer within {WAIT_S} s")
        if self._fault:
            raise RuntimeError(f"the engine failed in a bench: {self._fault}")


def load_pipelines(model: TinyModel, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """diffusers' pipelines without a ControlNet and with it, which share everything else."""
    library: Any = diffusers
    with no_progress_bars():
        plain = library.StableDiffusionXLPipeline.from_pretrained(
            model.path, dtype=dtype, add_watermarker=False, local_files_only=True
        )
        controlnet = library.ControlNetModel.from_pretrained(model.controlnet_path, dtype=dtype)
    plain.scheduler = library.EulerAncestralDiscreteScheduler.from_config(plain.scheduler.config)
    plain = plain.to(device)
    posed = library.StableDiffusionXLControlNetPipeline(
        **plain.components, controlnet=controlnet.to(device), add_watermarker=False
    )
    for pipeline in (plain, posed):
        pipeline.set_progress_bar_config(disable=True)
    return plain, posed


class Pipeline:
    """diffusers' pipeline, one call a batch: with the ControlNet for requests that have a pose, else without."""

    def __init__(self, model: TinyModel, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self._plain, self._posed = load_pipelines(model, device, dtype)

    def paint(self, batches: Sequence[Sequence[RenderRequest]]) -> Pictures:
        """The pictures of the batches' requests, in order; the requests of a batch differ in prompt, pose and seed."""
        return [picture for batch in batches for picture in self._paint(batch)]

    def latents(self, request: RenderRequest) -> torch.Tensor:
        """The latents of a request that is painted alone, (1, channels, height, width)."""
        latents: torch.Tensor = self._call([request], output_type="latent").images
        return latents

    def compile(self, backend: str) -> None:
        """Compile the transformer blocks of UNet and ControlNet, which is what diffusers' guide on speed says.

        The ControlNet's class does not name its blocks for `compile_repeated_blocks`, so they are found by theirs.
        """
        for network in (self._posed.unet, self._posed.controlnet):
            for block in network.modules():
                if isinstance(block, BasicTransformerBlock):
                    block.compile(backend=backend, fullgraph=True, dynamic=False, recompile_limit=64)

    def close(self) -> None:
        """Let go of the model."""
        del self._plain, self._posed

    def _paint(self, batch: Sequence[RenderRequest]) -> Pictures:
        return [
            encode_picture(picture, image_format="png", quality=90, seed=request.seed, text={}).content
            for picture, request in zip(self._call(batch).images, batch, strict=True)
        ]

    def _call(self, batch: Sequence[RenderRequest], output_type: str = "pil") -> Any:
        first = batch[0]
        pipeline, control = self._plain, {}
        if first.pose is not None:
            pipeline = self._posed
            control = {
                "image": [_opened(request) for request in batch],
                "controlnet_conditioning_scale": float(first.control_scale),
            }
        return pipeline(
            prompt=[request.prompt for request in batch],
            width=first.width,
            height=first.height,
            num_inference_steps=first.steps,
            guidance_scale=first.guidance_scale,
            generator=[torch.Generator("cpu").manual_seed(request.seed) for request in batch],
            output_type=output_type,
            **control,
        )


def _opened(request: RenderRequest) -> Image.Image:
    pose: Any = request.pose
    return Image.open(io.BytesIO(pose.image.content)).convert("RGB")
