"""ControlNets of made-up weights beside the tiny model's own, control pictures, and diffusers' pipelines on them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image, ImageDraw

from darkroom.inference.pose.control import control_picture
from darkroom.inference.pose.picture import PictureLimits
from darkroom.inference.sdxl.denoise.union import TASKS
from darkroom.inference.types import RenderRequest
from darkroom.schemas.events.controls import Control
from darkroom.schemas.events.pose import InlinePicture, KeypointPose
from tests.inference.painting import Oracle, Pixels
from tests.inference.schedulers import scheduler_of


def write_controlnet(folder: Path, like: Path, seed: int) -> Path:
    """Write a ControlNet of the shape of another one, whose weights are made up so that it steers visibly."""
    library: Any = diffusers
    network = library.ControlNetModel.from_config(library.ControlNetModel.load_config(like))
    return save_made_up(network, folder, seed)


def write_union(folder: Path, like: Path, seed: int, types: int = 8) -> Path:
    """Write a union ControlNet of made-up weights, of the shape of a plain one: xinsir's promax has 8 control types."""
    library: Any = diffusers
    plain = library.ControlNetModel.load_config(like)
    channels = plain["block_out_channels"][0]
    union = library.ControlNetUnionModel.from_config(
        {name: value for name, value in plain.items() if not name.startswith("_")},
        num_control_type=types,
        num_trans_channel=channels,
        num_proj_channel=channels,
        num_trans_head=4,
    )
    return save_made_up(union, folder, seed)


def save_made_up(network: Any, folder: Path, seed: int) -> Path:
    """Save a network whose zero convolutions, which a new ControlNet ends in, have weights."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.abs().max() == 0 or "controlnet_" in name or "spatial_ch_projs" in name:
                parameter.copy_(0.15 * torch.randn(parameter.shape, generator=draw))
    network.save_pretrained(folder)
    return folder


def edges(size: int = 96) -> Image.Image:
    """White lines on black, as a canny annotator draws them."""
    picture = Image.new("RGB", (size, size))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((size // 5, size // 4, size // 2, size * 4 // 5), outline="white")
    draw.line((0, size // 2, size, size // 3), fill="white", width=2)
    return picture


def slope(size: int = 80) -> Image.Image:
    """A depth map: brighter to the right and below."""
    levels = np.add.outer(np.linspace(0, 120, size), np.linspace(0, 120, size)).astype(np.uint8)
    return Image.fromarray(levels).convert("RGB")


def inline(picture: Image.Image) -> InlinePicture:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return InlinePicture(inline=base64.b64encode(file.getvalue()).decode())


def control(kind: str, picture: Image.Image, **how: float) -> Control:
    return Control.model_validate({"kind": kind, "image": inline(picture), **how})


class ControlOracle:
    """`StableDiffusionXLControlNetPipeline`, with as many ControlNets at once as a request has controls."""

    def __init__(self, oracle: Oracle, folders: Mapping[str, Path]) -> None:
        """Take the ControlNets by the kind of control that each follows."""
        library: Any = diffusers
        self._oracle = oracle
        self._networks = {kind: library.ControlNetModel.from_pretrained(folder) for kind, folder in folders.items()}

    def paint(self, request: RenderRequest) -> Pixels:
        used = [(one.kind, opened(one), one.scale, one.start, one.end) for one in request.controls]
        if request.pose is not None:
            assert isinstance(request.pose, KeypointPose)
            size = {"width": request.width, "height": request.height}
            drawn = control_picture(request.pose, None, limits=PictureLimits(), **size).picture
            how = request.control_scale, request.control_start, request.control_end
            used.insert(0, ("openpose", drawn, *how))
        library: Any = diffusers
        plain = self._oracle.plain
        pipeline = library.StableDiffusionXLControlNetPipeline(
            **plain.components,
            controlnet=[self._networks[kind] for kind, *_ in used],
            add_watermarker=False,
            force_zeros_for_empty_prompt=plain.config.force_zeros_for_empty_prompt,
        )
        pipeline.scheduler = scheduler_of(request.sampler, request.schedule, self._oracle.scheduler_config)
        pipeline.set_progress_bar_config(disable=True)
        painted = pipeline(
            image=[picture for _, picture, *_ in used],
            controlnet_conditioning_scale=[float(scale) for _, _, scale, _, _ in used],
            control_guidance_start=[start for *_, start, _ in used],
            control_guidance_end=[end for *_, end in used],
            **asked(request),
        )
        return np.asarray(painted.images[0], dtype=np.int16)


class UnionOracle:
    """`StableDiffusionXLControlNetUnionPipeline` for requests whose controls all go to one union ControlNet."""

    def __init__(self, oracle: Oracle, folder: Path) -> None:
        library: Any = diffusers
        plain = oracle.plain
        self._oracle = oracle
        self._pipeline = library.StableDiffusionXLControlNetUnionPipeline(
            **plain.components,
            controlnet=library.ControlNetUnionModel.from_pretrained(folder),
            add_watermarker=False,
            force_zeros_for_empty_prompt=plain.config.force_zeros_for_empty_prompt,
        )

    def paint(self, request: RenderRequest) -> Pixels:
        pipeline = self._pipeline
        pipeline.scheduler = scheduler_of(request.sampler, request.schedule, self._oracle.scheduler_config)
        pipeline.set_progress_bar_config(disable=True)
        painted = pipeline(
            # The pipeline changes the list that it is given.
            control_image=[opened(one) for one in request.controls],
            control_mode=[TASKS[one.kind] for one in request.controls],
            controlnet_conditioning_scale=[float(one.scale) for one in request.controls],
            control_guidance_start=[one.start for one in request.controls],
            control_guidance_end=[one.end for one in request.controls],
            **asked(request),
        )
        return np.asarray(painted.images[0], dtype=np.int16)


def opened(one: Control) -> Image.Image:
    assert isinstance(one.image, InlinePicture)
    with Image.open(io.BytesIO(one.image.content)) as picture:
        return picture.convert("RGB")


def asked(request: RenderRequest) -> dict[str, Any]:
    """The arguments of a pipeline's call that do not concern controls."""
    return {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "width": request.width,
        "height": request.height,
        "guidance_scale": request.guidance_scale,
        "num_inference_steps": request.steps,
        "generator": torch.Generator("cpu").manual_seed(request.seed),
    }
