"""Finds the local files and configurations from which each network of a model is loaded.

A model is a diffusers folder, or a single-file checkpoint in the layout of SDXL's first release, in which one file
holds UNet, VAE and both text encoders. Such a file says nothing of its architecture and has no tokenizers: those come
from a diffusers folder, whose weights are used only for the networks that the file does not hold. Nothing is fetched,
and nothing is guessed from a name on a hub, as diffusers would do without a configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from darkroom.inference.sdxl.loading.adapter_files import ListAdapters
from darkroom.inference.sdxl.loading.checks import UNION, UNION_MARK, check_class, check_tensors, check_union
from darkroom.inference.sdxl.loading.headers import Header, read_headers, read_json
from darkroom.inference.sdxl.loading.revision import CONTROLNET, Weights, find_weights, kind_of
from darkroom.inference.sdxl.loading.single_file import parts_of, prefix_of
from darkroom.inference.sdxl.loading.vae_kinds import is_tiny
from darkroom.inference.types import ModelError
from darkroom.schemas.events.controls import OPENPOSE
from darkroom.schemas.events.keypoints import PoseStyle

_PARTS: Final = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
_PIPELINES: Final = "StableDiffusionXL"
"""Prefix of the classes of SDXL's pipelines in diffusers, which share a folder layout."""
_SCALING_DEFAULT: Final = 0.18215
"""Default of diffusers' AutoencoderKL: Stable Diffusion 1's scaling factor."""
_NETWORKS: Final = ("unet", "vae", "text_encoder", "text_encoder_2")


@dataclass(frozen=True, slots=True)
class ControlNetFiles:
    """A ControlNet beside the model's own."""

    name: str
    path: Path
    """A diffusers folder of a ControlNet, or a `.safetensors` file of one."""
    kinds: tuple[str, ...]
    """The kinds of control pictures that it follows, of `darkroom.schemas.events.controls.KINDS`."""
    style: PoseStyle = "openpose"
    """How it wants skeletons drawn, if it follows them."""

    @property
    def part(self) -> str:
        """The part of the model that it is."""
        return f"{CONTROLNET}:{self.name}"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The paths of a model's parts."""

    path: Path
    """A diffusers folder of an SDXL pipeline, or a `.safetensors` checkpoint in the original layout."""
    controlnet_path: Path | None = None
    """A diffusers folder of a ControlNet, or a `.safetensors` file of one."""
    vae_path: Path | None = None
    """The same for a VAE that replaces the model's own."""
    config_path: Path | None = None
    """For a checkpoint: a diffusers folder of SDXL's configurations and tokenizers; None means the checkpoint's
    folder."""
    adapters_path: Path | ListAdapters | None = None
    """A folder of LoRA files, or what lists such files that lie elsewhere."""
    pose_detector_path: Path | None = None
    """Weights of the OpenPose body detector, a file or its folder; used only with a ControlNet."""
    pose_style: PoseStyle = "openpose"
    """How the ControlNet wants skeletons drawn, which its files do not say."""
    controlnets: tuple[ControlNetFiles, ...] = ()
    """Further ControlNets, for other kinds of control pictures."""

    @property
    def follows_poses(self) -> bool:
        """True if one of the ControlNets follows poses."""
        return self.controlnet_path is not None or any(OPENPOSE in one.kinds for one in self.controlnets)


@dataclass(frozen=True, slots=True)
class Sources:
    """The files to load."""

    base: Path
    """The diffusers folder of the configurations, tokenizers and noise schedule."""
    index: Mapping[str, Any]
    """Its `model_index.json`."""
    parts: Mapping[str, Weights]
    """By network: unet, vae, text_encoder, text_encoder_2 and, if there are any, controlnet and those of
    `ModelFiles.controlnets`."""
    unions: frozenset[str]
    """The parts that are union ControlNets."""
    unet_header: Header
    """The header of the files that hold the UNet: it may state the UNet's parameterisation."""


def find_sources(files: ModelFiles, dtype: torch.dtype) -> Sources:
    """Find every part's files. Raises `ModelError` if something is missing, visibly torn, or of another kind."""
    is_checkpoint = _is_file(files.path)
    base = files.path if not is_checkpoint else files.config_path or files.path.parent
    held: frozenset[str] = frozenset()
    if is_checkpoint:
        held = parts_of(files.path, read_headers([files.path]))
        if not (base / "model_index.json").is_file():
            raise ModelError(
                f"The checkpoint {files.path} needs SDXL's configurations and tokenizers, and {base} has none: name a "
                "diffusers folder of SDXL in DARKROOM_MODEL__CONFIG_PATH; its weights are read for what the checkpoint "
                "does not hold alone."
            )
    index = _read_index(base, has_vae=files.vae_path is not None)
    parts: dict[str, Weights] = {}
    for part in _NETWORKS:
        if part == "vae" and files.vae_path is not None:
            parts[part] = _find_part(files.vae_path, base / part, dtype)
        elif part in held:
            # The file's bytes count only once for the revision.
            counted = (files.path,) if part == "unet" else ()
            parts[part] = Weights(base / part, None, counted, single_file=files.path)
        else:
            parts[part] = _own(files, base, part, dtype)
    if files.controlnet_path is not None:
        parts[CONTROLNET] = _find_part(files.controlnet_path, base / CONTROLNET, dtype)
    _check_kinds(files)
    for further in files.controlnets:
        parts[further.part] = _find_part(further.path, base / CONTROLNET, dtype, may_be_union=True)
    headers = {part: read_headers(weights.read_from) for part, weights in parts.items()}
    unions = set()
    for part, weights in parts.items():
        config = weights.folder / "config.json"
        settings = read_json(config)
        header = headers[part].under(prefix_of(kind_of(part)))
        kind = kind_of(part) if part == CONTROLNET else _variety(part, header)
        check_class(kind, settings, config)
        check_tensors(kind, header, weights.place, settings)
        if kind == UNION:
            unions.add(part)
            check_union(header, settings, weights.place)
    if files.vae_path is not None and (base / "vae" / "config.json").is_file():
        _check_scaling(parts["vae"].folder / "config.json", base / "vae" / "config.json")
    return Sources(base, index, parts, frozenset(unions), headers["unet"])


def _check_kinds(files: ModelFiles) -> None:
    """Raise `ModelError` where two ControlNets follow one kind of control, since only one of them would be used."""
    followed = {OPENPOSE: "DARKROOM_MODEL__CONTROLNET_PATH"} if files.controlnet_path is not None else {}
    for further in files.controlnets:
        for kind in further.kinds:
            if kind in followed:
                raise ModelError(
                    f"ControlNet {further.name} and {followed[kind]} both follow {kind} pictures: "
                    "leave the kind out of one of them (DARKROOM_MODEL__CONTROLNETS)."
                )
            followed[kind] = f"ControlNet {further.name}"


def _check_scaling(vae: Path, own: Path) -> None:
    """Raise `ModelError` for a VAE of other latents: those of SD 1.5 have SDXL's shapes and another scale."""
    configs = [read_json(file) for file in (vae, own)]
    if any(map(is_tiny, configs)):
        # A tiny autoencoder takes the latents as the UNet gives them: nothing in its file says of which model.
        return
    given, wanted = (config.get("scaling_factor", _SCALING_DEFAULT) for config in configs)
    if given != wanted:
        raise ModelError(
            f"{vae} has the scaling_factor {given} and the model's own VAE {wanted} ({own}), so it was made for other "
            "latents and would paint other colours: name a VAE of SDXL in DARKROOM_MODEL__VAE_PATH."
        )


def _own(files: ModelFiles, base: Path, part: str, dtype: torch.dtype) -> Weights:
    """Return the weights of the model's own folder, or of the one that complements a checkpoint."""
    try:
        return find_weights(base / part, dtype)
    except ModelError as error:
        if base == files.path and part != "vae":
            raise
        remedy = "name a folder of SDXL that has them in DARKROOM_MODEL__CONFIG_PATH"
        if base == files.path:
            remedy = "copy the model again"
        if part == "vae":
            remedy = f"name SDXL's VAE in DARKROOM_MODEL__VAE_PATH, or {remedy}"
        raise ModelError(
            f"{files.path} cannot be used, it lacks {part}, and {base / part} has no safetensors weights: {remedy}."
        ) from error


def _variety(part: str, header: Header) -> str:
    """Return what a part is to be checked as: its kind, or a union ControlNet where its tensors say so."""
    return UNION if kind_of(part) == CONTROLNET and UNION_MARK in header.shapes else kind_of(part)


def _find_part(path: Path, fallback: Path, dtype: torch.dtype, *, may_be_union: bool = False) -> Weights:
    """Find a network with a path of its own: a folder, or a file with its configuration beside it or in `fallback`."""
    if not _is_file(path):
        return find_weights(path, dtype)
    beside = path.parent / "config.json"
    # Checked before asking for a configuration, which a network of another kind could not have.
    header = read_headers([path]).under(prefix_of(fallback.name))
    kind = _variety(fallback.name, header) if may_be_union else fallback.name
    check_tensors(kind, header, path, read_json(beside) if beside.is_file() else {})
    for folder in (path.parent,) if kind == UNION else (path.parent, fallback):
        if (folder / "config.json").is_file():
            return Weights(folder, None, (path,), single_file=path)
    raise ModelError(
        f"The file {path} says nothing of its architecture, and there is no config.json beside it or in {fallback}: "
        "put the one of its diffusers folder beside it."
    )


def _is_file(path: Path) -> bool:
    if not path.exists():
        raise ModelError(f"{path} is not there: correct the setting that names it, or copy the model again.")
    if path.is_file() and path.suffix != ".safetensors":
        raise ModelError(f"{path} is not a .safetensors file, and reading other formats can run code: convert it.")
    return path.is_file()


def _read_index(path: Path, *, has_vae: bool) -> dict[str, Any]:
    """Read `model_index.json`. `has_vae`: another VAE replaces the folder's, which may then be missing."""
    index = read_json(path / "model_index.json")
    pipeline = index.get("_class_name")
    if isinstance(pipeline, str) and not pipeline.startswith(_PIPELINES):
        raise ModelError(f"{path} is a folder of {pipeline}: name an SDXL base model's (StableDiffusionXLPipeline).")
    missing = [part for part in _PARTS if not (path / part).is_dir() and not (has_vae and part == "vae")]
    if missing:
        vae = ", or a VAE in DARKROOM_MODEL__VAE_PATH" if missing == ["vae"] else ""
        raise ModelError(
            f"{path} is not an SDXL pipeline folder, it lacks {', '.join(missing)}: "
            f"name an SDXL base model's folder{vae}, or copy it again."
        )
    return index
