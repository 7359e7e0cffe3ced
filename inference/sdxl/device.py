"""The SDXL device: one loaded model behind `darkroom.inference.contract.Device`.

Three lanes call it at once, each with its own part of the model: `prepare` uses the tokenizers, the text encoders and
the pose encoder, `step` the UNet and the ControlNet, `finish` the VAE. Weights are only read, so nothing here is
locked. On a GPU each lane also has its own stream, so that decoding does not queue behind denoising. The results of
`prepare` and `finish` are complete; a step may still be running when `step` returns, and `finish` waits for it on the
GPU.

If the parts do not fit into memory together, the memory plan makes the lanes take turns (`series`), and a lane's
weights may move to the device and back with its turn.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

import torch
from typing_extensions import override

from darkroom.inference.contract import Device, PreparedRows
from darkroom.inference.planning.memory_plan import MemoryPlan
from darkroom.inference.pose.photo import DETECTOR_BYTES
from darkroom.inference.pose.picture import PictureLimits
from darkroom.inference.sdxl.denoise.compiled import Backend
from darkroom.inference.sdxl.denoise.rows import SdxlRow
from darkroom.inference.sdxl.faults import device_faults
from darkroom.inference.sdxl.loading.components import load_components
from darkroom.inference.sdxl.loading.placement import Placement, Wishes, place, placed
from darkroom.inference.sdxl.loading.sources import ModelFiles
from darkroom.inference.sdxl.measure import measured_on
from darkroom.inference.sdxl.model import LoadedModel
from darkroom.inference.sdxl.prepare.adapter_store import ADAPTER_CACHE_BYTES_MAX
from darkroom.inference.sdxl.warm_up import compile_regions, warm_up
from darkroom.inference.types import (
    CacheCounts,
    FaultKind,
    ModelError,
    ModelInfo,
    Part,
    Preview,
    RenderedImage,
    RenderFault,
    RenderJob,
    Series,
)

PROMPT_CACHE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Room for two hundred of SDXL's prompts in fp16, on the device."""
POSE_CACHE_BYTES_MAX: Final = 256 * 1024 * 1024
"""Room for some twenty poses at 1024 x 1024: a quarter for pictures on the host, the rest for embeddings on the
device."""

Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Compiles = Literal["auto", "on", "off"]
_DTYPES: Final = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class SdxlDevice(Device[SdxlRow]):
    """SDXL on one torch device, with the ControlNets that are given."""

    def __init__(
        self,
        path: Path | Callable[[], ModelFiles],
        controlnet_path: Path | None = None,
        *,
        name: str | None = None,
        device: str = "auto",
        dtype: Dtype = "auto",
        prompt_cache_bytes_max: int = PROMPT_CACHE_BYTES_MAX,
        pose_cache_bytes_max: int = POSE_CACHE_BYTES_MAX,
        adapter_cache_bytes_max: int = ADAPTER_CACHE_BYTES_MAX,
        pose_limits: PictureLimits | None = None,
        cpu_threads: int | None = None,
        rows_max: int = 8,
        compiles: Compiles = "auto",
        compile_sizes: Sequence[tuple[int, int]] = (),
        compile_cache_dir: Path | None = None,
        compile_backend: Backend = "inductor",
        wishes: Wishes | None = None,
        plan: MemoryPlan | None = None,
    ) -> None:
        """Make a device from paths to diffusers folders or checkpoints; nothing is read before `load`.

        In place of the paths, `path` may be a function that returns the location of every part: `load` calls it, and
        it may take its time to fetch them. It raises `ModelError`.

        `name` is the model's name in completions (default: the folder's name). `device` is a torch device; `auto` is
        the first GPU, otherwise the CPU. `dtype` `auto` is fp16 on a GPU and fp32 on a CPU. `cpu_threads` are torch's
        threads for one operation, by default one less than the number of cores: the event loop and the other lanes need
        one, and two busy threads on a core are many times slower than one. `wishes` are the operator's settings for the
        memory plan that `load` makes; a given `plan` is carried out instead.

        `compiles`: `on` compiles the networks' repeated blocks, `auto` does so only on a GPU; for pictures of
        `compile_sizes` (width, height), the native size by default, and steps of up to `rows_max` rows. All other
        shapes run eagerly. `compile_cache_dir` keeps compiled code for the next start (torch's own folder by default).
        """
        self._find: Callable[[], ModelFiles] = (
            (lambda: ModelFiles(path, controlnet_path)) if isinstance(path, Path) else path
        )
        self._name = name
        self._device_name = device
        self._dtype_name: Dtype = dtype
        self._prompt_cache_bytes_max = prompt_cache_bytes_max
        self._pose_cache_bytes_max = pose_cache_bytes_max
        self._adapter_cache_bytes_max = adapter_cache_bytes_max
        self._pose_limits = pose_limits or PictureLimits()
        self._cpu_threads = cpu_threads or max(1, (os.cpu_count() or 1) - 1)
        self._rows_max = rows_max
        self._compiles_when = compiles
        self._compile_sizes = tuple(compile_sizes)
        self._compile_cache_dir = compile_cache_dir
        self._compile_backend = compile_backend
        self._wishes = wishes or Wishes(cache_bytes=prompt_cache_bytes_max + pose_cache_bytes_max)
        self._plan = plan
        self._model: LoadedModel | None = None

    @property
    def info(self) -> ModelInfo:
        """The loaded model, with the adapters as they are now. Raises `RuntimeError` before `load`."""
        return self._loaded().info

    @property
    @override
    def plan(self) -> MemoryPlan:
        return self._loaded().components.placement.plan

    @property
    def series(self) -> Series:
        """The lanes that take turns by the memory plan. Raises `RuntimeError` before `load`."""
        return self.plan.layout.series

    def rows_ceiling(self, latent_height: int, latent_width: int) -> int | None:
        """Return the memory plan's limit: None on a CPU. Raises `RuntimeError` before `load`."""
        return self.plan.rows_ceiling(latent_height, latent_width)

    def load(self) -> None:
        """Load, and render a few one-step pictures from end to end, so that no request pays for a kernel's first run.

        Raises `ModelError`, also if the parts turn out not to work together.
        """
        device, dtype = self._place()
        if device.type == "cpu":
            torch.set_num_threads(self._cpu_threads)
        files = self._find()
        try:
            with device_faults("loading the model"):
                components = load_components(
                    files,
                    name=self._name or files.path.stem,
                    device=device,
                    dtype=dtype,
                    adapter_cache_bytes_max=self._adapter_cache_bytes_max,
                    find_place=partial(self._placement, files=files),
                )
                self._model = LoadedModel(
                    components, self._prompt_cache_bytes_max, self._pose_cache_bytes_max, self._pose_limits
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
        # Every other error here comes from the model or from the device, and ends the start.
        except Exception as error:
            self.close()
            no_memory = isinstance(error, RenderFault) and error.kind is FaultKind.BATCH_MEMORY
            remedy = "use a device with more memory" if no_memory else "check that its parts belong together"
            raise ModelError(f"The model in {files.path} does not run on {device}: {error}; {remedy}.") from error

    def prepare(self, job: RenderJob) -> PreparedRows[SdxlRow]:
        """Prepare a job's rows, as `Device.prepare`.

        Raises `RenderFault` with `invalid_request`, `model_mismatch`, `unknown_adapter`, `pose_unreadable`,
        `pose_not_found` or `image_too_large`.
        """
        model = self._loaded()
        with device_faults("preparing a request"), model.prepare_stream.completed():
            return model.prepare(job)

    @override
    def step(self, rows: Sequence[SdxlRow]) -> None:
        model = self._loaded()
        with device_faults(f"denoising {len(rows)} rows"):
            model.step(rows)

    @override
    def finish(self, rows: Sequence[SdxlRow]) -> tuple[RenderedImage | RenderFault, ...]:
        model = self._loaded()
        with device_faults(f"decoding {len(rows)} pictures"), model.finish_stream.entered():
            return model.finish(rows)

    def preview(self, row: SdxlRow) -> Preview | None:
        """Show the latents that the row's last step predicted. The first preview fits the projection."""
        model = self._loaded()
        with device_faults("making a preview"), model.finish_stream.entered():
            return model.preview(row)

    @override
    def measured_on(self) -> Mapping[str, str]:
        model = self._loaded()
        found = measured_on(model.networks, model.components.placement)
        # Further ControlNets are no part of the revision, which tells other models apart.
        return {**found, "controlnets": str(len(model.networks.controlnets))} if model.info.controls else found

    @override
    def buckets(self, latent_height: int, latent_width: int) -> tuple[int, ...]:
        shapes = self._loaded().networks.shapes
        return shapes.buckets if (latent_height, latent_width) in shapes.latent_sizes else ()

    @override
    def measure(self, part: Part, latent_height: int, latent_width: int, count: int) -> float:
        model = self._loaded()
        with device_faults(f"measuring {part.value} of {count}"):
            return model.measure(part, latent_height, latent_width, count)

    def cache_counts(self) -> Mapping[str, CacheCounts]:
        """Return the counts of `prompt` (embeddings), `photo` (people found), `pose` (control pictures), `control`
        (conditioning embeddings), `init` (pictures to start from) and `adapter`.
        """
        model = self._model
        if model is None:
            return {}
        return {
            "prompt": model.texts.counts(),
            **model.poses.counts(),
            **model.starts.counts(),
            "adapter": model.adapters.counts(),
        }

    def memory_bytes(self) -> Mapping[str, int]:
        """Return `allocated`, `reserved` and `total` bytes of a GPU; nothing on a CPU."""
        model = self._model
        if model is None or model.components.device.type != "cuda":
            return {}
        device = model.components.device
        return {
            "allocated": torch.cuda.memory_allocated(device),
            "reserved": torch.cuda.memory_reserved(device),
            "total": torch.cuda.get_device_properties(device).total_memory,
        }

    @override
    def refresh_adapters(self) -> bool:
        model = self._model
        return model is not None and model.refresh_adapters()

    def close(self) -> None:
        """Free the model and its memory. Idempotent; `load` may be called again."""
        model, self._model = self._model, None
        if model is not None and model.components.device.type == "cuda":
            del model
            torch.cuda.empty_cache()

    def _placement(
        self, folders: Mapping[str, Path], *, device: torch.device, dtype: torch.dtype, files: ModelFiles
    ) -> Placement:
        if self._plan is not None:
            return placed(self._plan, device=device, dtype=dtype)
        wishes = self._wishes
        if files.pose_detector_path is not None and files.follows_poses:
            wishes = replace(wishes, cache_bytes=wishes.cache_bytes + DETECTOR_BYTES)
        if files.adapters_path is not None:
            wishes = replace(wishes, adapters=True, cache_bytes=wishes.cache_bytes + self._adapter_cache_bytes_max)
        return place(folders, device=device, dtype=dtype, wishes=wishes)

    def _loaded(self) -> LoadedModel:
        if self._model is None:
            raise RuntimeError("the device has no model: call load() first")
        return self._model

    def _compiles(self, device: torch.device) -> bool:
        return self._compiles_when == "on" or (self._compiles_when == "auto" and device.type == "cuda")

    def _compile(self, model: LoadedModel) -> None:
        if self._compile_cache_dir is not None:
            # inductor and triton read these, and nothing else, at their first use.
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self._compile_cache_dir)
            os.environ["TRITON_CACHE_DIR"] = str(self._compile_cache_dir / "triton")
        info = model.components.info
        sizes = self._compile_sizes or ((info.native_width, info.native_height),)
        factor = info.latent_factor
        # As many rows of the largest size as memory holds, padding included.
        ceilings = [self.rows_ceiling(height // factor, width // factor) for width, height in sizes]
        rows_max = min([self._rows_max, *(ceiling for ceiling in ceilings if ceiling is not None)])
        compile_regions(model, sizes=sizes, rows_max=rows_max, backend=self._compile_backend)

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
