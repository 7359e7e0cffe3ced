"""The SDXL device: one loaded model behind `inference.contract.Device`.

Three lanes call it at once, and each has its own part of the model: `prepare` the tokenizers, the text encoders
and the pose encoder, `step` the UNet and the ControlNet, `finish` the VAE. Weights are only read, so nothing here is
locked. On a GPU each lane also has its own stream, so that decoding does not queue behind denoising, and each leaves
its stream empty when it returns: what one lane hands to the next is complete.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import torch

from inference.contract import (
    CacheCounts,
    Device,
    FaultKind,
    ModelError,
    ModelInfo,
    Part,
    Prepared,
    RenderedImage,
    RenderFault,
    RenderJob,
    RenderRequest,
)
from inference.pose.picture import PictureLimits
from inference.sdxl.faults import memory_faults
from inference.sdxl.load import load_components
from inference.sdxl.measure import measure_part, measured_on
from inference.sdxl.model import LoadedModel
from inference.sdxl.rows import SdxlRow
from inference.sdxl.schedule import SAMPLERS
from inference.sdxl.step import take_step
from schemas.pose import PeoplePose

PROMPT_CACHE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Two hundred of SDXL's prompts in fp16, on the device."""
POSE_CACHE_BYTES_MAX: Final = 256 * 1024 * 1024
"""Some twenty poses at 1024 x 1024: a quarter for pictures on the host, the rest for embeddings on the device."""

Dtype = Literal["auto", "float32", "float16", "bfloat16"]
_DTYPES: Final = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class SdxlDevice(Device[SdxlRow]):
    """SDXL, with a ControlNet where one is given, on one torch device."""

    def __init__(
        self,
        path: Path,
        controlnet_path: Path | None = None,
        *,
        name: str | None = None,
        device: str = "auto",
        dtype: Dtype = "auto",
        prompt_cache_bytes_max: int = PROMPT_CACHE_BYTES_MAX,
        pose_cache_bytes_max: int = POSE_CACHE_BYTES_MAX,
        pose_limits: PictureLimits | None = None,
        cpu_threads: int | None = None,
    ) -> None:
        """Takes paths to diffusers folders; nothing is read before `load`.

        `name` is what completions call the model (default: the folder's name). `device` is a torch device, `auto` the
        first GPU or else the CPU; `dtype` `auto` is fp16 on a GPU and fp32 on a CPU. `cpu_threads` are torch's threads
        for one operation, by default one less than there are cores: the event loop and the other lanes need one, and
        two busy threads to a core are many times slower than one.
        """
        self._path = path
        self._controlnet_path = controlnet_path
        self._name = name or path.name
        self._device_name = device
        self._dtype_name: Dtype = dtype
        self._prompt_cache_bytes_max = prompt_cache_bytes_max
        self._pose_cache_bytes_max = pose_cache_bytes_max
        self._pose_limits = pose_limits or PictureLimits()
        self._cpu_threads = cpu_threads or max(1, (os.cpu_count() or 1) - 1)
        self._model: LoadedModel | None = None

    @property
    def info(self) -> ModelInfo:
        """The loaded model. Raises `RuntimeError` before `load`."""
        return self._loaded().components.info

    def load(self) -> None:
        """Load, and render a few one-step pictures from end to end, so that no request pays for a kernel's first run.

        Raises `ModelError`, also where the parts turn out not to work together.
        """
        device, dtype = self._place()
        if device.type == "cpu":
            torch.set_num_threads(self._cpu_threads)
        try:
            with memory_faults("loading the model"):
                components = load_components(
                    self._path, self._controlnet_path, name=self._name, device=device, dtype=dtype
                )
                self._model = LoadedModel(
                    components, self._prompt_cache_bytes_max, self._pose_cache_bytes_max, self._pose_limits
                )
            if device.type == "cuda":
                # The weights were copied on the default stream, and the lanes have streams of their own.
                torch.cuda.synchronize(device)
            self._warm_up()
        except ModelError:
            raise
        # Whatever else goes wrong here is wrong with the model or with where it is to run, and ends the start.
        except Exception as error:
            self.close()
            no_memory = isinstance(error, RenderFault) and error.kind is FaultKind.BATCH_MEMORY
            remedy = "use a device with more memory" if no_memory else "check that its parts belong together"
            raise ModelError(f"The model in {self._path} does not run on {device}: {error}; {remedy}.") from error

    def prepare(self, job: RenderJob) -> Prepared[SdxlRow]:
        """As `Device.prepare`. Faults: `invalid_request`, `model_mismatch`, `pose_unreadable`, `image_too_large`."""
        model = self._loaded()
        with self._lane(model.prepare_stream), memory_faults("preparing a request"):
            return model.prepare(job)

    def step(self, rows: Sequence[SdxlRow]) -> None:
        """As `Device.step`."""
        model = self._loaded()
        with self._lane(model.step_stream), memory_faults(f"denoising {len(rows)} rows"):
            take_step(rows, model.networks)

    def finish(self, rows: Sequence[SdxlRow]) -> tuple[RenderedImage, ...]:
        """As `Device.finish`."""
        model = self._loaded()
        with self._lane(model.finish_stream), memory_faults("decoding a picture"):
            return tuple(model.finish(row) for row in rows)

    def measured_on(self) -> Mapping[str, str]:
        """As `Device.measured_on`."""
        return measured_on(self._loaded().components.device)

    def measure(self, part: Part, latent_height: int, latent_width: int, count: int) -> float:
        """As `Device.measure`."""
        model = self._loaded()
        with self._lane(model.step_stream), memory_faults(f"measuring {part.value} of {count}"):
            return measure_part(part, model.components, model.networks, latent_height, latent_width, count)

    def cache_counts(self) -> Mapping[str, CacheCounts]:
        """Of `prompt` (embeddings by text), `pose` (control pictures) and `control` (conditioning embeddings)."""
        model = self._model
        return {} if model is None else {"prompt": model.texts.counts(), **model.poses.counts()}

    def memory_bytes(self) -> Mapping[str, int]:
        """`allocated`, `reserved` and `total` of a GPU; empty on a CPU."""
        model = self._model
        if model is None or model.components.device.type != "cuda":
            return {}
        device = model.components.device
        return {
            "allocated": torch.cuda.memory_allocated(device),
            "reserved": torch.cuda.memory_reserved(device),
            "total": torch.cuda.get_device_properties(device).total_memory,
        }

    def close(self) -> None:
        """Let go of the model and its memory. Idempotent; `load` may be called again."""
        model, self._model = self._model, None
        if model is not None and model.components.device.type == "cuda":
            del model
            torch.cuda.empty_cache()

    def _loaded(self) -> LoadedModel:
        if self._model is None:
            raise RuntimeError("the device has no model: call load() first")
        return self._model

    def _place(self) -> tuple[torch.device, torch.dtype]:
        name = self._device_name
        if name == "auto":
            name = "cuda:0" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ModelError(f"There is no torch device {name!r}: use auto, cpu or cuda:0.") from error
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ModelError(f"The device {name} is not there: torch sees no GPU; check the driver, or use cpu.")
        if self._dtype_name == "auto":
            return device, torch.float32 if device.type == "cpu" else torch.float16
        return device, _DTYPES[self._dtype_name]

    def _warm_up(self) -> None:
        model = self._loaded()
        # One row at a time: a card that can hold one row and no more is to start, too.
        for request in _warm_up_requests(model.components.info):
            rows = self.prepare(RenderJob(job_id="warm-up", request=request)).rows
            self.step(rows)
            self.finish(rows)
        # Nobody will ask for these again, and the counts are the requests'.
        model.texts.reset()
        model.poses.reset()

    @contextmanager
    def _lane(self, stream: torch.cuda.Stream | None) -> Iterator[None]:
        with torch.inference_mode():
            if stream is None:
                yield
                return
            with torch.cuda.stream(stream):
                yield
            stream.synchronize()


def _warm_up_requests(info: ModelInfo) -> list[RenderRequest]:
    """One-step requests at the native size that together use every part of the model."""
    plain = RenderRequest(
        prompt="warm up",
        negative_prompt="",
        width=info.native_width,
        height=info.native_height,
        steps=1,
        guidance_scale=5.0,
        sampler=SAMPLERS[0],
        seed=0,
    )
    requests = [replace(plain, sampler=sampler) for sampler in SAMPLERS]
    if info.takes_pose:
        person = tuple((0.3 + 0.02 * point, 0.05 * point) for point in range(18))
        requests.append(replace(plain, pose=PeoplePose(people=(person,))))
    return requests
