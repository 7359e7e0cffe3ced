"""The SDXL device: one loaded model behind `inference.contract.Device`.

Three lanes call it at once, and each has its own part of the model: `prepare` the tokenizers, the text encoders
and the pose encoder, `step` the UNet and the ControlNet, `finish` the VAE. Weights are only read, so nothing here is
locked. On a GPU each lane also has its own stream, so that decoding does not queue behind denoising. What `prepare` and
`finish` return is complete; a step may still be under way when `step` returns, and `finish` waits for it on the GPU.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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
    Prepared,
    RenderedImage,
    RenderFault,
    RenderJob,
)
from inference.pose.photo import PoseDetector
from inference.pose.picture import PictureLimits
from inference.sdxl.faults import device_faults
from inference.sdxl.load import load_components
from inference.sdxl.model import LoadedModel
from inference.sdxl.regions import Backend
from inference.sdxl.rows import SdxlRow
from inference.sdxl.warm_up import compile_regions, warm_up

PROMPT_CACHE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Two hundred of SDXL's prompts in fp16, on the device."""
POSE_CACHE_BYTES_MAX: Final = 256 * 1024 * 1024
"""Some twenty poses at 1024 x 1024: a quarter for pictures on the host, the rest for embeddings on the device."""

Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Compiles = Literal["auto", "on", "off"]
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
        pose_detector_path: Path | None = None,
        cpu_threads: int | None = None,
        rows_max: int = 8,
        compiles: Compiles = "auto",
        compile_sizes: Sequence[tuple[int, int]] = (),
        compile_cache_dir: Path | None = None,
        compile_backend: Backend = "inductor",
    ) -> None:
        """Takes paths to diffusers folders; nothing is read before `load`.

        `name` is what completions call the model (default: the folder's name). `device` is a torch device, `auto` the
        first GPU or else the CPU; `dtype` `auto` is fp16 on a GPU and fp32 on a CPU. `cpu_threads` are torch's threads
        for one operation, by default one less than there are cores: the event loop and the other lanes need one, and
        two busy threads to a core are many times slower than one. `pose_detector_path` are the weights of the OpenPose
        body detector, a file or its folder; without them, and without a ControlNet, photos are refused.

        `compiles`: whether the networks' repeated blocks are compiled, `auto` on a GPU alone; for pictures of
        `compile_sizes` (width, height), the native size by default, and steps of up to `rows_max` rows. All else runs
        eagerly. `compile_cache_dir` keeps what was compiled for the next start (torch's own place by default).
        """
        self._path = path
        self._controlnet_path = controlnet_path
        self._name = name or path.name
        self._device_name = device
        self._dtype_name: Dtype = dtype
        self._prompt_cache_bytes_max = prompt_cache_bytes_max
        self._pose_cache_bytes_max = pose_cache_bytes_max
        self._pose_limits = pose_limits or PictureLimits()
        self._pose_detector_path = pose_detector_path
        self._cpu_threads = cpu_threads or max(1, (os.cpu_count() or 1) - 1)
        self._rows_max = rows_max
        self._compiles_when = compiles
        self._compile_sizes = tuple(compile_sizes)
        self._compile_cache_dir = compile_cache_dir
        self._compile_backend = compile_backend
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
            with device_faults("loading the model"):
                components = load_components(
                    self._path, self._controlnet_path, name=self._name, device=device, dtype=dtype
                )
                detector = self._load_detector(device)
                if detector is not None:
                    components = replace(components, info=replace(components.info, pose_detector=detector.digest))
                self._model = LoadedModel(
                    components, self._prompt_cache_bytes_max, self._pose_cache_bytes_max, self._pose_limits, detector
                )
            if device.type == "cuda":
                # The weights were copied on the default stream, and the lanes have streams of their own.
                torch.cuda.synchronize(device)
            with device_faults("rendering for the first time"):
                warm_up(self._model)
                if self._compiles(device):
                    self._compile(self._model)
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
        with device_faults("preparing a request"), model.prepare_stream.completed():
            return model.prepare(job)

    def step(self, rows: Sequence[SdxlRow]) -> None:
        """As `Device.step`."""
        model = self._loaded()
        with device_faults(f"denoising {len(rows)} rows"):
            model.stepper.take(rows)

    def finish(self, rows: Sequence[SdxlRow]) -> tuple[RenderedImage | RenderFault, ...]:
        """As `Device.finish`."""
        model = self._loaded()
        with device_faults(f"decoding {len(rows)} pictures"), model.finish_stream.entered():
            return model.finish(rows)

    def cache_counts(self) -> Mapping[str, CacheCounts]:
        """Of `prompt` (embeddings by text), `photo` (people found), `pose` (control pictures) and `control` (their
        embeddings).
        """
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

    def _load_detector(self, device: torch.device) -> PoseDetector | None:
        """Before any photo comes: the first one would hold up the prepare lane, and the denoise lane behind it."""
        if self._pose_detector_path is None or self._controlnet_path is None:
            return None
        from inference.pose.openpose import load_detector

        return load_detector(self._pose_detector_path, device)

    def _compiles(self, device: torch.device) -> bool:
        return self._compiles_when == "on" or (self._compiles_when == "auto" and device.type == "cuda")

    def _compile(self, model: LoadedModel) -> None:
        if self._compile_cache_dir is not None:
            # inductor and triton read these, and nothing else, at their first use.
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self._compile_cache_dir)
            os.environ["TRITON_CACHE_DIR"] = str(self._compile_cache_dir / "triton")
        info = model.components.info
        sizes = self._compile_sizes or ((info.native_width, info.native_height),)
        compile_regions(model, sizes=sizes, rows_max=self._rows_max, backend=self._compile_backend)

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
