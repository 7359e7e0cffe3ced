"""What the tests of the SDXL device share: requests, a way to drive a device, and diffusers' pipelines as oracle.

The oracle is diffusers itself on the same folders: `StableDiffusionXLControlNetPipeline` for a request with a pose,
`StableDiffusionXLPipeline` for one without, and the `Img2Img` pipelines of these for one that starts from a picture;
one pipeline call a picture, with a CPU generator of the request's seed.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch
from diffusers.schedulers.scheduling_utils import AysSchedules
from PIL import Image

from darkroom.inference.pose.control import control_picture
from darkroom.inference.pose.picture import PictureLimits
from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.sdxl.denoise.rows import SdxlRow
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import AdapterUse, RenderedImage, RenderJob, RenderRequest
from darkroom.schemas.events.pose import InlinePicture, PeoplePose, PhotoPose
from tests.inference.devices import finished
from tests.inference.schedulers import scheduler_of

Pixels = npt.NDArray[np.int16]

TCD_ETA = 0.3
"""The default of diffusers' TCDScheduler."""
TOLERANCE = 1
"""Of 255, in any channel of any pixel: a batch adds its sums in another order, and a value may round the other way."""

_WAVING = (
    (0.50, 0.12), (0.50, 0.26), (0.36, 0.26), (0.28, 0.42), (0.26, 0.58), (0.64, 0.26), (0.76, 0.18), (0.84, 0.06),
    (0.42, 0.56), (0.40, 0.76), (0.38, 0.96), (0.58, 0.56), (0.60, 0.76), (0.62, 0.96), (0.47, 0.09), (0.53, 0.09),
    (0.43, 0.11), (0.57, 0.11),
)  # fmt: skip
_SITTING = (
    (0.30, 0.30), (0.32, 0.44), (0.24, 0.44), (0.22, 0.60), (0.34, 0.68), (0.40, 0.44), (0.46, 0.58), (0.56, 0.64),
    (0.28, 0.70), (0.52, 0.72), (0.52, 0.94), (0.36, 0.70), (0.60, 0.70), (0.62, 0.92), None, (0.33, 0.27),
    None, (0.37, 0.29),
)  # fmt: skip
WAVING = PeoplePose(people=(_WAVING,))
SITTING = PeoplePose(people=(_SITTING,))

PLAIN = RenderRequest(
    prompt="a red fox in the snow",
    negative_prompt=None,
    width=64,
    height=64,
    steps=4,
    guidance_scale=5.0,
    sampler="euler_ancestral",
    seed=11,
)
POSED = replace(PLAIN, pose=WAVING)


def pixels(image: RenderedImage) -> Pixels:
    with Image.open(io.BytesIO(image.content)) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.int16)


def distance(one: Pixels, other: Pixels) -> int:
    """The largest difference in any channel of any pixel, of 255."""
    assert one.shape == other.shape
    return int(np.abs(one - other).max())


def prepare(device: SdxlDevice, request: RenderRequest, job_id: str = "job") -> list[SdxlRow]:
    return list(device.prepare(RenderJob(job_id=job_id, request=request)).rows)


def paint(device: SdxlDevice, request: RenderRequest) -> Pixels:
    """The request's first picture, rendered alone."""
    rows = prepare(device, replace(request, count=1))
    while rows[0].steps_done < rows[0].steps_total:
        device.step(rows)
    return pixels(finished(device, rows)[0])


def paint_together(device: SdxlDevice, joining: Sequence[tuple[int, RenderRequest]]) -> list[Pixels]:
    """The pictures of requests that share steps, each joining at its own step boundary and leaving when it is done."""
    rows = [prepare(device, request, f"job-{number}")[0] for number, (_, request) in enumerate(joining)]
    painted: dict[str, Pixels] = {}
    boundary = 0
    while len(painted) < len(rows):
        active = [
            row
            for (joins, _), row in zip(joining, rows, strict=True)
            if joins <= boundary and row.row_id[0] not in painted
        ]
        if active:
            device.step(active)
        for row in active:
            if row.steps_done == row.steps_total:
                painted[row.row_id[0]] = pixels(finished(device, [row])[0])
        boundary += 1
    return [painted[row.row_id[0]] for row in rows]


class Oracle:
    """diffusers' pipelines on a model's folders."""

    def __init__(
        self,
        path: Path,
        controlnet_path: Path,
        dtype: torch.dtype = torch.float32,
        adapters_path: Path | None = None,
        device: str = "cpu",
    ) -> None:
        # Both libraries make their classes by rules that a type checker cannot follow.
        library: Any = diffusers
        loading = {"dtype": dtype, "add_watermarker": False, "local_files_only": True}
        self.plain = library.StableDiffusionXLPipeline.from_pretrained(path, **loading).to(device)
        controlnet = library.ControlNetModel.from_pretrained(controlnet_path, dtype=dtype).to(device)
        self._posed = library.StableDiffusionXLControlNetPipeline(
            **self.plain.components, controlnet=controlnet, add_watermarker=False,
            force_zeros_for_empty_prompt=self.plain.config.force_zeros_for_empty_prompt,
        )  # fmt: skip
        own = {"add_watermarker": False, "force_zeros_for_empty_prompt": self.plain.config.force_zeros_for_empty_prompt}
        parts = self.plain.components
        self._from_picture = library.StableDiffusionXLImg2ImgPipeline(**parts, **own)
        self._posed_from_picture = library.StableDiffusionXLControlNetImg2ImgPipeline(
            **parts, controlnet=controlnet, **own
        )
        self._inpaint = library.StableDiffusionXLInpaintPipeline(**parts, **own)
        self._posed_inpaint = library.StableDiffusionXLControlNetInpaintPipeline(**parts, controlnet=controlnet, **own)
        self.scheduler_config = self.plain.scheduler.config
        self._adapters_path = adapters_path
        self._painted: dict[str, Pixels] = {}

    def paint(self, request: RenderRequest) -> Pixels:
        """The pipeline's picture, painted once however often it is asked for."""
        key = repr(request)
        if key not in self._painted:
            self._painted[key] = self._paint(request)
        return self._painted[key]

    def _paint(self, request: RenderRequest) -> Pixels:
        if request.init is None:
            pipeline = self.plain if request.pose is None else self._posed
        elif request.mask is not None:
            pipeline = self._inpaint if request.pose is None else self._posed_inpaint
        else:
            pipeline = self._from_picture if request.pose is None else self._posed_from_picture
        pipeline.scheduler = scheduler_of(request.sampler, request.schedule, self.scheduler_config)
        pipeline.set_progress_bar_config(disable=True)
        control: dict[str, Any] = {}
        if request.pose is not None:
            assert not isinstance(request.pose, PhotoPose), "the pose of a photo is found before it is painted"
            control = {
                "image": control_picture(
                    request.pose, None, width=request.width, height=request.height, limits=PictureLimits()
                ).picture,
                "controlnet_conditioning_scale": float(request.control_scale),
                "control_guidance_start": request.control_start,
                "control_guidance_end": request.control_end,
            }
        size: dict[str, Any] = {"width": request.width, "height": request.height}
        if request.init is not None:
            if request.mask is not None:
                control["mask_image"] = mask_of(request)
            if request.pose is None and request.mask is None:
                size = {}  # the pipeline takes the picture's own
            elif request.pose is not None:
                control["control_image"] = control.pop("image")
            control |= {"image": start_of(request), "strength": request.init.strength}
        steps: dict[str, Any] = {"num_inference_steps": request.steps}
        if request.schedule == "align_your_steps":
            steps = {"timesteps": AysSchedules["StableDiffusionXLTimesteps"]}
        if request.sampler == "tcd":
            # The pipeline would overrule the scheduler's own default with 0.
            control["eta"] = TCD_ETA
        if request.guidance_rescale:
            assert request.pose is None, "diffusers' ControlNet pipeline does not rescale"
            control["guidance_rescale"] = request.guidance_rescale
        for number, use in enumerate(request.adapters):
            assert self._adapters_path is not None
            file = f"{use.name}.safetensors"
            pipeline.load_lora_weights(self._adapters_path, weight_name=file, adapter_name=f"lora{number}")
        if request.adapters:
            names = [f"lora{number}" for number in range(len(request.adapters))]
            pipeline.set_adapters(names, [_weights(use) for use in request.adapters])
        painted = pipeline(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            **size,
            **control,
            **steps,
        )
        if request.adapters:
            pipeline.unload_lora_weights()
        return np.asarray(painted.images[0], dtype=np.int16)


def start_of(request: RenderRequest) -> Image.Image:
    """Return the picture that a request starts from, at the output's size as diffusers' image processor resizes it."""
    assert request.init is not None
    assert isinstance(request.init.image, InlinePicture)
    with Image.open(io.BytesIO(request.init.image.content)) as picture:
        library: Any = diffusers
        processor = library.image_processor.VaeImageProcessor()
        resized: Image.Image = processor.resize(picture.convert("RGB"), request.height, request.width)
        return resized


def mask_of(request: RenderRequest) -> Image.Image:
    """Return the mask of a request at the output's size, of two levels."""
    assert request.mask is not None
    assert isinstance(request.mask.image, InlinePicture)
    with Image.open(io.BytesIO(request.mask.image.content)) as picture:
        resized = picture.convert("L").resize((request.width, request.height), Image.Resampling.LANCZOS)
    return resized.point([0] * 128 + [255] * 128)


def mask_to_paint_in(box: tuple[int, int, int, int], width: int = 96, height: int = 80) -> InlinePicture:
    """Return a mask that is white in a box (left, top, right, bottom) in pixels."""
    picture, content = Image.new("L", (width, height)), io.BytesIO()
    picture.paste(255, box)
    picture.save(content, "PNG")
    return InlinePicture(inline=base64.b64encode(content.getvalue()).decode())


def picture_to_start_from(width: int = 96, height: int = 80, seed: int = 0) -> InlinePicture:
    """Return a picture with edges, areas and noise, the same for the same seed."""
    dice = np.random.default_rng(seed)
    levels = np.kron(dice.integers(0, 256, (height // 16, width // 16, 3)), np.ones((16, 16, 1)))
    levels += dice.normal(0, 6, levels.shape)
    content = io.BytesIO()
    Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(content, "PNG")
    return InlinePicture(inline=base64.b64encode(content.getvalue()).decode())


def _weights(use: AdapterUse) -> float | dict[str, float]:
    if use.text_weight is None:
        return use.weight
    return {"unet": use.weight, "text_encoder": use.text_weight, "text_encoder_2": use.text_weight}


def paint_by_hand(oracle: Oracle, request: RenderRequest) -> Pixels:
    """Return the picture of a plain loop over diffusers' parts, for what no pipeline does: guidance in a window.

    Outside of the window the prediction is the prompt's own. The pipeline encodes, its scheduler steps.
    """
    pipeline = oracle.plain
    scheduler = scheduler_of(request.sampler, request.schedule, oracle.scheduler_config)
    scheduler.set_timesteps(request.steps)
    generator = torch.Generator("cpu").manual_seed(request.seed)

    def predict(sample: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        added = {"text_embeds": pooled, "time_ids": ids}
        found: torch.Tensor = pipeline.unet(
            sample, timestep, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False
        )[0]
        return found

    shape = (1, pipeline.unet.config.in_channels, request.height // 8, request.width // 8)
    with torch.no_grad():
        tokens, away_tokens, pooled, away_pooled = pipeline.encode_prompt(
            request.prompt, negative_prompt=request.negative_prompt, do_classifier_free_guidance=True
        )
        ids = torch.tensor([[request.height, request.width, 0, 0, request.height, request.width]], dtype=tokens.dtype)
        x = torch.randn(shape, generator=generator) * scheduler.init_noise_sigma
        calls = len(scheduler.timesteps)
        for call, timestep in enumerate(scheduler.timesteps):
            sample = scheduler.scale_model_input(x, timestep)

            predicted = predict(sample, timestep, tokens, pooled)
            if request.guidance_start <= call / calls and (call + 1) / calls <= request.guidance_end:
                away = predict(sample, timestep, away_tokens, away_pooled)
                predicted = away + request.guidance_scale * (predicted - away)
            x = scheduler.step(predicted, timestep, x, return_dict=False)[0]
        decoded = pipeline.vae.decode(x / pipeline.vae.config.scaling_factor, return_dict=False)[0]
        [picture] = pipeline.image_processor.postprocess(decoded, output_type="pil")
    return np.asarray(picture, dtype=np.int16)


def variant(tiny: TinyModel, folder: Path, changes: Mapping[str, Mapping[str, Any]]) -> TinyModel:
    """The tiny model with other settings: `changes` maps a JSON file under the model's folder to new values in it."""
    target = folder / "variant"
    shutil.copytree(tiny.path.parent, target, copy_function=os.link)
    for name, values in changes.items():
        file = target / name
        content = json.loads(file.read_text())
        # Linked files are the shared model's own: this one becomes a file of the variant.
        file.unlink()
        file.write_text(json.dumps(content | dict(values)))
    return TinyModel(name="variant", path=target / "model", controlnet_path=target / "controlnet")


def load(model: TinyModel, **settings: Any) -> SdxlDevice:
    device = SdxlDevice(
        model.path, model.controlnet_path, name=model.name, **{"device": "cpu", "cpu_threads": 1, **settings}
    )
    device.load()
    return device
