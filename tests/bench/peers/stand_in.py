"""Stand-ins for diffusers' pipelines: their call, and a device that sleeps what a measured profile says.

The steps are those of `darkroom.inference.simulated.device.SimulatedDevice`, the same object that Darkroom's engine has
under it, so that a batch of so many slots takes everybody as long. The parameters are diffusers' own, in their order
and with their defaults, so that whoever calls a stand-in could call the pipeline. What only a model could heed is
ignored.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from PIL import Image

from darkroom.inference.planning.profile_store import read_profile
from darkroom.inference.resolve import batch_key
from darkroom.inference.simulated.device import SimulatedDevice, SimulatedRow
from darkroom.inference.simulated.wallpaper import wallpaper
from darkroom.inference.types import RenderRequest, RowId
from darkroom.schemas.events.pose import PeoplePose

_POSED = PeoplePose(people=((*((0.5, 0.05 * point) for point in range(18)),),))
"""That there is one: what it shows takes no time."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a pipeline returns."""

    images: list[Image.Image]


class _SleepingPipeline:
    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device

    @classmethod
    def from_profile(cls, path: Path) -> Self:
        """A pipeline whose steps take what the profile in a file says."""
        return cls(SimulatedDevice(profile=read_profile(path)))

    def _paint(
        self, prompts: str | Sequence[str] | None, images: Any, steps: int, guidance: float, width: Any, height: Any
    ) -> list[SimulatedRow]:
        prompts = [prompts or ""] if prompts is None or isinstance(prompts, str) else prompts
        if images is not None and isinstance(images, list) and len(images) != len(prompts):
            raise ValueError(f"{len(images)} images were given for {len(prompts)} prompts")
        info = self._device.info
        request = RenderRequest(
            prompt="",
            negative_prompt=None,
            width=width or info.native_width,
            height=height or info.native_height,
            steps=steps,
            guidance_scale=guidance,
            sampler="euler_ancestral",
            seed=0,
            pose=None if images is None else _POSED,
        )
        key = batch_key(request, info)
        return [
            SimulatedRow(RowId("call", number), key, steps, request, hashlib.sha256(prompt.encode()).digest())
            for number, prompt in enumerate(prompts)
        ]

    def _call(self, rows: list[SimulatedRow], callback: Any, *, return_dict: bool) -> Any:
        for step in range(rows[0].steps_total):
            self._device.step(rows)
            if callback is not None:
                callback(self, step, None, {})
        images = [_picture(row) for row in rows]
        return Output(images) if return_dict else (images,)


def _picture(row: SimulatedRow) -> Image.Image:
    content = wallpaper(row.shown, row.request.width, row.request.height, {})
    return Image.open(io.BytesIO(content)).convert("RGB")


class StandInPipeline(_SleepingPipeline):
    """In the place of `diffusers.StableDiffusionXLPipeline`."""

    def __call__(
        self, prompt: str | Sequence[str] | None = None, prompt_2: Any = None, height: int | None = None,
        width: int | None = None, num_inference_steps: int = 50, timesteps: Any = None, sigmas: Any = None,
        denoising_end: Any = None, guidance_scale: float = 5.0, negative_prompt: Any = None,
        negative_prompt_2: Any = None, num_images_per_prompt: Any = 1, eta: Any = 0.0, generator: Any = None,
        latents: Any = None, prompt_embeds: Any = None, negative_prompt_embeds: Any = None,
        pooled_prompt_embeds: Any = None, negative_pooled_prompt_embeds: Any = None, ip_adapter_image: Any = None,
        ip_adapter_image_embeds: Any = None, output_type: Any = "pil", return_dict: Any = True,
        cross_attention_kwargs: Any = None, guidance_rescale: Any = 0.0, original_size: Any = None,
        crops_coords_top_left: Any = (0, 0), target_size: Any = None, negative_original_size: Any = None,
        negative_crops_coords_top_left: Any = (0, 0), negative_target_size: Any = None, clip_skip: Any = None,
        callback_on_step_end: Any = None,
        callback_on_step_end_tensor_inputs: Any = ["latents"], **kwargs: Any,  # noqa: B006 - diffusers' own default
    ) -> Any:  # fmt: skip
        """Pictures of the prompts."""
        rows = self._paint(prompt, None, num_inference_steps, guidance_scale, width, height)
        return self._call(rows, callback_on_step_end, return_dict=return_dict)


class StandInControlNetPipeline(_SleepingPipeline):
    """In the place of `diffusers.StableDiffusionXLControlNetPipeline`."""

    def __call__(
        self, prompt: str | Sequence[str] | None = None, prompt_2: Any = None, image: Any = None,
        height: int | None = None, width: int | None = None, num_inference_steps: int = 50, timesteps: Any = None,
        sigmas: Any = None, denoising_end: Any = None, guidance_scale: float = 5.0, negative_prompt: Any = None,
        negative_prompt_2: Any = None, num_images_per_prompt: Any = 1, eta: Any = 0.0, generator: Any = None,
        latents: Any = None, prompt_embeds: Any = None, negative_prompt_embeds: Any = None,
        pooled_prompt_embeds: Any = None, negative_pooled_prompt_embeds: Any = None, ip_adapter_image: Any = None,
        ip_adapter_image_embeds: Any = None, output_type: Any = "pil", return_dict: Any = True,
        cross_attention_kwargs: Any = None, controlnet_conditioning_scale: Any = 1.0, guess_mode: Any = False,
        control_guidance_start: Any = 0.0, control_guidance_end: Any = 1.0, original_size: Any = None,
        crops_coords_top_left: Any = (0, 0), target_size: Any = None, negative_original_size: Any = None,
        negative_crops_coords_top_left: Any = (0, 0), negative_target_size: Any = None, clip_skip: Any = None,
        callback_on_step_end: Any = None,
        callback_on_step_end_tensor_inputs: Any = ["latents"], **kwargs: Any,  # noqa: B006 - diffusers' own default
    ) -> Any:  # fmt: skip
        """Pictures of the prompts in the poses that the images show."""
        if image is None:
            raise ValueError("a ControlNet's pipeline takes images")
        rows = self._paint(prompt, image, num_inference_steps, guidance_scale, width, height)
        return self._call(rows, callback_on_step_end, return_dict=return_dict)
