"""Carries out a memory plan: assigns each part of a model to a device, and gives it the form in which it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import ControlNetModel, ControlNetUnionModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from darkroom.inference.planning.capability import is_served, unserved
from darkroom.inference.planning.memory_layout import Place
from darkroom.inference.planning.memory_model import ModelSize
from darkroom.inference.planning.memory_plan import Attention, AttentionProbe, MemoryPlan, plan_memory
from darkroom.inference.sdxl.denoise.attention import fuse_projections, probe_attention, use_attention
from darkroom.inference.sdxl.loading.headers import read_json
from darkroom.inference.sdxl.loading.residence import Residence, WeightMover
from darkroom.inference.sdxl.loading.revision import CONTROLNET, kind_of
from darkroom.inference.sdxl.loading.vae_kinds import vae_kind
from darkroom.inference.types import Lane, ModelError, Series

TEXT_PARTS: Final = ("text_encoder", "text_encoder_2")
_LANES: Final = {"unet": Lane.DENOISE, "controlnet": Lane.DENOISE, "vae": Lane.FINISH} | dict.fromkeys(
    TEXT_PARTS, Lane.PREPARE
)
_DIFFUSERS: Final[Mapping[str, Any]] = {
    "unet": UNet2DConditionModel,
    "controlnet": ControlNetModel,
}
_TRANSFORMERS: Final[Mapping[str, Any]] = {
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}
HOST: Final = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Wishes:
    """The operator's settings for a plan; by default the plan decides everything."""

    text_device: str = "auto"
    """auto, same, cpu, or another device's name."""
    vae_device: str = "auto"
    width: int = 1024
    """Width of the largest picture to be served."""
    height: int = 1024
    adapters: bool = False
    """True if LoRA files may be applied."""
    cache_bytes: int = 0
    """Bytes that prompt and pose caches may hold on the device."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A plan with its real devices."""

    plan: MemoryPlan
    device: torch.device
    dtype: torch.dtype
    text_device: torch.device
    vae_device: torch.device

    def home(self, part: str) -> torch.device:
        """Return the device to which a part (unet, controlnet, vae, text_encoder, text_encoder_2) returns between
        turns."""
        device = self.device_of(_LANES[kind_of(part)])
        return HOST if self.plan.layout.offload and device == self.device else device

    def device_of(self, lane: Lane) -> torch.device:
        """Return the device on which a lane's networks run."""
        return {Lane.PREPARE: self.text_device, Lane.DENOISE: self.device, Lane.FINISH: self.vae_device}[lane]

    def dtype_of(self, part: str) -> torch.dtype:
        """Return the dtype of a part other than the VAE, whose configuration decides as well."""
        # Text encoders on the CPU of a GPU machine run in fp32: half precision is slow there, and the host has room.
        is_apart = self.text_device.type == "cpu" and self.device.type != "cpu"
        return torch.float32 if part in TEXT_PARTS and is_apart else self.dtype


def place(
    folders: Mapping[str, Path],
    *,
    device: torch.device,
    dtype: torch.dtype,
    wishes: Wishes | None = None,
    probe: Callable[[torch.device, torch.dtype], AttentionProbe] = probe_attention,
) -> Placement:
    """Plan for a model from its configurations, the device's memory and its attention. Raises `ModelError`, also for a
    GPU that this build of torch has no code for."""
    device, wishes = _numbered(device), wishes or Wishes()
    require_served(device)
    text_device, vae_device = (_asked(name, device) for name in (wishes.text_device, wishes.vae_device))
    plan = plan_memory(
        model_size(folders),
        device_kind=device.type,
        memory_bytes=_memory_bytes(device),
        dtype=str(dtype).removeprefix("torch."),
        width=wishes.width,
        height=wishes.height,
        probe=probe(device, dtype),
        adapters=wishes.adapters,
        text_place=_place_of(text_device, device),
        vae_place=_place_of(vae_device, device),
        second_device=device.type == "cuda" and torch.cuda.device_count() > 1,
        cache_bytes=wishes.cache_bytes,
    )
    return placed(plan, device=device, dtype=dtype, text_device=text_device, vae_device=vae_device)


def placed(
    plan: MemoryPlan,
    *,
    device: torch.device,
    dtype: torch.dtype,
    text_device: torch.device | None = None,
    vae_device: torch.device | None = None,
) -> Placement:
    """Place a finished plan on these devices; devices that are not given follow from the plan."""
    on_cpu = plan.layout.text_place is Place.CPU
    return Placement(plan, device, dtype, text_device or (HOST if on_cpu else device), vae_device or device)


def require_served(device: torch.device) -> None:
    """Raise `ModelError` if this build of torch has no code for a GPU: its first kernel would fail in the middle of a
    batch."""
    if device.type != "cuda":
        return
    capability, built = torch.cuda.get_device_capability(device), torch.cuda.get_arch_list()
    if not is_served(capability, built):
        raise ModelError(unserved(torch.cuda.get_device_name(device), capability, torch.__version__, built))


def form(placement: Placement, *, unet: Any, controlnets: Sequence[Any], vae: Any) -> None:
    """Give loaded networks the form in the plan: memory format, attention, projections, slicing."""
    plan = placement.plan
    for network in (unet, *controlnets):
        use_attention(network, plan.attention)
        if plan.fuse_qkv and plan.attention is Attention.SDPA:
            fuse_projections(network)
    if plan.channels_last:
        for network in (unet, *controlnets, vae):
            network.to(memory_format=torch.channels_last)
    vae.use_slicing = plan.vae_slicing


def residence_of(placement: Placement, networks: Mapping[str, Any]) -> Residence | None:
    """Return the object that moves networks with the lanes' turns; None if they stay on their devices."""
    if placement.plan.layout.series is not Series.ALL:
        return None
    moving: dict[Lane, list[Any]] = {}
    for part, network in networks.items():
        lane = _LANES[kind_of(part)]
        if placement.device_of(lane) == placement.device:
            moving.setdefault(lane, []).append(network)
    return Residence(moving, WeightMover(placement.device))


def model_size(folders: Mapping[str, Path]) -> ModelSize:
    """Return the size of a model whose parts have their `config.json` in `folders`, by building them without weights.

    The parts are unet, ControlNets (any number), vae, text_encoder and text_encoder_2. Takes a second or two for SDXL.
    Raises `ModelError` for a configuration of another kind of network.
    """
    configs = {part: read_json(folder / "config.json") for part, folder in folders.items()}
    parameters = {part: _parameters(kind_of(part), config, folders[part]) for part, config in configs.items()}
    vae = vae_kind(configs["vae"])
    return ModelSize(
        unet=parameters["unet"],
        controlnet=sum(count for part, count in parameters.items() if kind_of(part) == CONTROLNET),
        text_encoders=parameters["text_encoder"] + parameters["text_encoder_2"],
        vae=parameters["vae"],
        unet_channels=configs["unet"]["block_out_channels"][0],
        vae_channels=vae.channels,
        latent_factor=vae.factor,
        tile_pixels=vae.tile_pixels,
        vae_overflows=vae.overflows,
    )


def _asked(name: str, device: torch.device) -> torch.device | None:
    if name == "auto":
        return None
    if name == "same":
        return device
    try:
        asked = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"There is no torch device {name!r}: use auto, same, cpu or cuda:1.") from error
    if asked.type == "cuda":
        count = torch.cuda.device_count()
        if (asked.index or 0) >= count:
            raise ModelError(f"The device {name} is not there: torch sees {count} GPUs; correct the setting.")
    return _numbered(asked)


def _numbered(device: torch.device) -> torch.device:
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def _place_of(asked: torch.device | None, device: torch.device) -> Place | None:
    if asked is None:
        return None
    if asked == device:
        return Place.SAME
    return Place.CPU if asked.type == "cpu" else Place.SECOND


def _memory_bytes(device: torch.device) -> int | None:
    """Return the bytes that this process may use: those free now and those that it has already reserved; None on a
    CPU."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)


def _parameters(part: str, config: Mapping[str, Any], folder: Path) -> int:
    try:
        with torch.device("meta"):
            if part in _TRANSFORMERS:
                network = _TRANSFORMERS[part](CLIPTextConfig.from_dict(dict(config)))
            else:
                is_union = part == CONTROLNET and config.get("_class_name") == ControlNetUnionModel.__name__
                kind = vae_kind(config).network if part == "vae" else _DIFFUSERS[part]
                kind = ControlNetUnionModel if is_union else kind
                network = kind.from_config(config)
    # The libraries raise many exception types for configurations of other networks.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise ModelError(
            f"{folder / 'config.json'} does not describe SDXL's {part} ({type(error).__name__}: {reason}): "
            "copy the model again, and check that it is an SDXL model."
        ) from error
    return sum(parameter.numel() for parameter in network.parameters())
