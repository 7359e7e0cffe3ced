"""Loads diffusers folders and checkpoints into components that are ready to run.

Only local files and only safetensors: nothing is fetched and nothing is unpickled. A folder that is torn, is not SDXL
or does not fit its ControlNet raises `ModelError` with the reason and the place. It never becomes a model that paints
noise, although diffusers fills missing weights with random ones and only logs a line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import ControlNetModel, ControlNetUnionModel, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from darkroom.inference.pose.photo import PoseDetector
from darkroom.inference.quiet import no_progress_bars
from darkroom.inference.sdxl.denoise.union import TASKS, UnionPart, union_part
from darkroom.inference.sdxl.finish.pictures import vae_dtype
from darkroom.inference.sdxl.loading.checks import check_fit, economy_refused
from darkroom.inference.sdxl.loading.headers import read_json
from darkroom.inference.sdxl.loading.lora_names import UNET
from darkroom.inference.sdxl.loading.parameterisation import MARKS, parameterise, read_scheduler
from darkroom.inference.sdxl.loading.placement import TEXT_PARTS, Placement, form, place
from darkroom.inference.sdxl.loading.revision import CONTROLNET, Weights, kind_of, model_revision, network_digest
from darkroom.inference.sdxl.loading.single_file import IGNORED_IN_TEXT, load_single
from darkroom.inference.sdxl.loading.sources import ControlNetFiles, ModelFiles, find_sources
from darkroom.inference.sdxl.loading.vae_kinds import vae_kind
from darkroom.inference.sdxl.prepare.adapter_store import ADAPTER_CACHE_BYTES_MAX, AdapterStore
from darkroom.inference.sdxl.prepare.poses import ControlEncoder
from darkroom.inference.types import ModelError, ModelInfo
from darkroom.schemas.events.controls import OPENPOSE

SAMPLER_VERSION: Final = "2"
"""Incremented whenever the same request would give other pixels because this package changed."""


@dataclass(frozen=True, slots=True)
class Components:
    """A model in memory, on its devices, with its properties."""

    info: ModelInfo
    unet: Any
    controlnets: Mapping[str, Any]
    """By part: the model's own, then the further ones."""
    encoders: Sequence[ControlEncoder]
    """By ControlNet, in the same order: its small encoder of the control picture, taken out so that its output can be
    cached."""
    followers: Mapping[str, int]
    """The place of the ControlNet that follows a kind of control, by kind."""
    tasks: Mapping[str, int]
    """The control types of the kinds that a union ControlNet follows."""
    detector: PoseDetector | None
    """Finds people in photos; None if no detector is available."""
    vae: Any
    tokenizers: Sequence[Any]
    text_encoders: Sequence[Any]
    adapters: AdapterStore
    scheduler_config: Mapping[str, Any]
    zeros_for_no_text: bool
    placement: Placement
    device: torch.device
    """The device on which rows are denoised, and which holds their tensors."""
    dtype: torch.dtype

    def networks(self) -> dict[str, Any]:
        """Return the networks, which take memory, by part."""
        texts = dict(zip(TEXT_PARTS, self.text_encoders, strict=True))
        return {"unet": self.unet, **self.controlnets, "vae": self.vae, **texts}


def load_components(
    files: ModelFiles,
    *,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    adapter_cache_bytes_max: int = ADAPTER_CACHE_BYTES_MAX,
    find_place: Callable[..., Placement] = place,
) -> Components:
    """Load an SDXL model and, if given, ControlNets, another VAE and the adapters. Raises `ModelError`.

    `find_place` is called like `place`, before any weight is read, and decides the device of each part.
    """
    sources = find_sources(files, dtype)
    path, parts = sources.base, sources.parts
    # First of all, because it is the fastest check of a model that has to be refused.
    with _translated("scheduler", path / "scheduler"):
        own_scheduler = read_scheduler(path / "scheduler")
        scheduler_config, prediction = parameterise(
            own_scheduler, sources.unet_header, parts["unet"].place, path / "scheduler"
        )
    placement = find_place({part: weights.folder for part, weights in parts.items()}, device=device, dtype=dtype)
    device = placement.device
    dtypes = {part: placement.dtype_of(part) for part in parts}
    kind_of_vae = vae_kind(read_json(parts["vae"].folder / "config.json"))
    dtypes["vae"] = vae_dtype(dtype, overflows=kind_of_vae.overflows)

    def load(kind: Any, part: str) -> Any:
        return _load_network(kind, part, parts[part], dtypes[part], placement.home(part))

    with no_progress_bars():
        unet = load(UNet2DConditionModel, "unet")
        vae = load(kind_of_vae.network, "vae")
        text_encoders = (load(CLIPTextModel, "text_encoder"), load(CLIPTextModelWithProjection, "text_encoder_2"))
        tokenizers = tuple(_load_tokenizer(path / part) for part in ("tokenizer", "tokenizer_2"))
        controlnets = {
            part: _plain_of(load(ControlNetUnionModel, part)) if part in sources.unions else load(ControlNetModel, part)
            for part in parts
            if kind_of(part) == CONTROLNET
        }
    zeros_for_no_text = bool(sources.index.get("force_zeros_for_empty_prompt", True))
    check_fit(
        files.path,
        unet=unet,
        vae=vae,
        latent_factor=kind_of_vae.factor,
        text_encoders=text_encoders,
        controlnets={parts[part].place: network for part, network in controlnets.items()},
    )
    adapters = _adapters(files, placement, (unet, *text_encoders), adapter_cache_bytes_max)
    styles = {CONTROLNET: files.pose_style} | {further.part: further.style for further in files.controlnets}
    encoders = [
        ControlEncoder(is_bgr=_take_bgr(network), network=_take_encoder(network).to(device), style=styles[part])
        for part, network in controlnets.items()
    ]
    kinds = {CONTROLNET: (OPENPOSE,)} | {further.part: further.kinds for further in files.controlnets}
    followers = {kind: place for place, part in enumerate(controlnets) for kind in kinds[part]}
    tasks = {
        kind: _task(kind, further, union)
        for further in files.controlnets
        if (union := union_part(controlnets[further.part])) is not None
        for kind in further.kinds
    }
    digests = {further.part: network_digest(parts[further.part]) for further in files.controlnets}
    detector = _detector(files.pose_detector_path, device) if OPENPOSE in followers else None
    form(placement, unet=unet, controlnets=tuple(controlnets.values()), vae=vae)
    return Components(
        info=ModelInfo(
            name=name,
            revision=model_revision(
                path,
                parts,
                zeros_for_no_text=zeros_for_no_text,
                schedule_changes={
                    key: value for key, value in scheduler_config.items() if own_scheduler.get(key) != value
                },
            ),
            **_sizes(unet.config, kind_of_vae.factor),
            device=str(device),
            dtype=str(dtype).removeprefix("torch."),
            sampler_version=SAMPLER_VERSION,
            takes_pose=OPENPOSE in followers,
            controls={kind: digests[further.part] for further in files.controlnets for kind in further.kinds},
            pose_style=encoders[followers[OPENPOSE]].style if OPENPOSE in followers else files.pose_style,
            path=str(files.path),
            pose_detector=None if detector is None else detector.digest,
            controlnet_path=None if files.controlnet_path is None else str(files.controlnet_path),
            adapters=adapters.digests,
            embeddings=adapters.embeddings,
            adapters_refused=adapters.refused,
            prediction=prediction,
            economy_refused=economy_refused(unet),
        ),
        unet=unet,
        controlnets=controlnets,
        encoders=encoders,
        followers=followers,
        tasks=tasks,
        detector=detector,
        vae=vae,
        tokenizers=tokenizers,
        text_encoders=text_encoders,
        adapters=adapters,
        scheduler_config=scheduler_config,
        zeros_for_no_text=zeros_for_no_text,
        placement=placement,
        device=device,
        dtype=dtype,
    )


def _sizes(unet_config: Any, factor: int) -> dict[str, int]:
    """Return the pixel sizes of `ModelInfo`. `factor`: pixels for each of the latents, along a side."""
    # The size of the latents on which the UNet was trained; diffusers allows a pair here, height first.
    side = unet_config.sample_size
    height, width = side if isinstance(side, list | tuple) else (side, side)
    return {
        "native_width": width * factor,
        "native_height": height * factor,
        "size_multiple": factor,
        "latent_factor": factor,
    }


def _adapters(files: ModelFiles, placement: Placement, networks: Sequence[Any], cache_bytes_max: int) -> AdapterStore:
    if files.adapters_path is not None and placement.plan.fuse_qkv:
        raise ModelError(
            "Adapters cannot be applied to fused projections: make the memory plan with adapters, or leave them out."
        )
    names = (UNET, *TEXT_PARTS)
    return AdapterStore(
        files.adapters_path,
        dict(zip(names, networks, strict=True)),
        {name: placement.text_device if name in TEXT_PARTS else placement.device for name in names},
        cache_bytes_max,
    )


def _load_network(kind: Any, part: str, weights: Weights, dtype: torch.dtype, device: torch.device) -> Any:
    with _translated(kind.__name__, weights.place):
        if weights.single_file is not None:
            return load_single(kind, kind_of(part), weights, dtype).to(device).eval().requires_grad_(False)
        network, report = kind.from_pretrained(
            weights.folder,
            variant=weights.variant,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype=dtype,
        )
    wrong = [*sorted(report["missing_keys"]), *report["mismatched_keys"]]
    if wrong:
        raise ModelError(
            f"The weights in {weights.folder} are not whole: tensors of {kind.__name__} are missing or misshapen "
            f"({len(wrong)} in all, the first is {wrong[0]}): copy the model again."
        )
    ignored = IGNORED_IN_TEXT if part in TEXT_PARTS else MARKS
    unknown = sorted(key for key in report["unexpected_keys"] if not key.endswith(ignored))
    if unknown:
        raise ModelError(
            f"The weights in {weights.folder} are of another network: {len(unknown)} tensors are none of "
            f"{kind.__name__}'s, the first is {unknown[0]}; name a folder of SDXL's {kind_of(part)}, or save it again "
            "without them."
        )
    return network.to(device).eval().requires_grad_(False)


def _load_tokenizer(folder: Path) -> Any:
    with _translated("CLIPTokenizer", folder):
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _detector(weights: Path | None, device: torch.device) -> PoseDetector | None:
    """Load the detector before any photo arrives: loading would hold up the prepare lane, and then the denoise lane.

    Without `weights` it is BlazePose, if the extra `photos` is installed.
    """
    if weights is None:
        from darkroom.inference.pose.blazepose.detector import BlazePoseDetector, is_installed

        return BlazePoseDetector() if is_installed() else None
    from darkroom.inference.pose.openpose import load_detector

    return load_detector(weights, device)


def _take_encoder(controlnet: Any) -> Any:
    """Take the control picture's encoder out, so that the ControlNet takes its output in place of the picture."""
    encoder = controlnet.controlnet_cond_embedding
    controlnet.controlnet_cond_embedding = torch.nn.Identity()
    return encoder


def _plain_of(union: Any) -> Any:
    """Return a union ControlNet as a plain one with a `UnionPart`, of the same weights."""
    known = inspect.signature(ControlNetModel.__init__).parameters
    config = {name: value for name, value in union.config.items() if name in known}
    with torch.device("meta"):
        build: Any = ControlNetModel.from_config
        plain = build(config)
    weights = union.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()}, assign=True)
    # In the place of a class's embedding comes that of the pictures' kinds, which the part makes.
    plain.class_embedding = torch.nn.Identity()
    plain.union = UnionPart(union)
    return plain.eval().requires_grad_(False)


def _task(kind: str, files: ControlNetFiles, union: UnionPart) -> int:
    """Return a kind's control type. Raises `ModelError` for a kind that the network was not made for."""
    if TASKS[kind] >= union.count:
        can = ", ".join(sorted(one for one, task in TASKS.items() if task < union.count))
        raise ModelError(
            f"The union ControlNet {files.name} in {files.path} has {union.count} control types and {kind} is none of "
            f"them: leave it out of its kinds, which can be {can} (DARKROOM_MODEL__CONTROLNETS)."
        )
    return TASKS[kind]


def _take_bgr(controlnet: Any) -> bool:
    """Return true if the control picture's channels must be reversed, and stop the ControlNet from doing so itself."""
    is_bgr: bool = controlnet.config.controlnet_conditioning_channel_order == "bgr"
    controlnet.register_to_config(controlnet_conditioning_channel_order="rgb")
    return is_bgr


@contextmanager
def _translated(what: str, place: Path) -> Iterator[None]:
    try:
        yield
    except ModelError:
        raise
    # Loaders raise many exception types, and all of them mean that the folder is at fault.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise ModelError(
            f"The {what} in {place} cannot be loaded ({type(error).__name__}: {reason}): "
            "copy the model again, and check that it is an SDXL model in safetensors."
        ) from error
