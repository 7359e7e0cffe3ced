"""Reads diffusers folders into components that are ready to run.

Only local folders and only safetensors: nothing is fetched and nothing is unpickled. A folder that is torn, is not
SDXL or does not fit its ControlNet is a `ModelError` with what is wrong and where, never a model that paints noise:
diffusers fills weights that are missing with random ones and says so in a log line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
from diffusers import AutoencoderKL, ControlNetModel, SchedulerMixin, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from inference.contract import ModelError, ModelInfo
from inference.sdxl.decode import vae_dtype
from inference.sdxl.fit import check_fit
from inference.sdxl.quiet import no_progress_bars
from inference.sdxl.revision import Weights, find_weights, model_revision

SAMPLER_VERSION: Final = "1"
"""Raised whenever the same request would give other pixels because this package changed."""

_PARTS: Final = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")


@dataclass(frozen=True, slots=True)
class Components:
    """A model in memory, on its device, and what there is to know of it."""

    info: ModelInfo
    unet: Any
    controlnet: Any | None
    pose_encoder: Any | None
    """The ControlNet's small encoder of the control picture, taken out of it so that its output can be cached."""
    is_pose_bgr: bool
    """Whether the ControlNet wants the control picture's channels the other way round."""
    vae: Any
    tokenizers: Sequence[Any]
    text_encoders: Sequence[Any]
    scheduler_config: Mapping[str, Any]
    zeros_for_no_text: bool
    device: torch.device
    dtype: torch.dtype


def load_components(
    path: Path, controlnet_path: Path | None, *, name: str, device: torch.device, dtype: torch.dtype
) -> Components:
    """Load an SDXL pipeline folder and, where given, a ControlNet folder. Raises `ModelError`."""
    index = _read_index(path)
    parts = {part: find_weights(path / part, dtype) for part in ("unet", "vae", "text_encoder", "text_encoder_2")}
    with no_progress_bars():
        unet = _load_network(UNet2DConditionModel, parts["unet"], dtype, device)
        vae = _load_network(
            AutoencoderKL, parts["vae"], vae_dtype(_read_json(path / "vae" / "config.json"), dtype), device
        )
        text_encoders = (
            _load_network(CLIPTextModel, parts["text_encoder"], dtype, device),
            _load_network(CLIPTextModelWithProjection, parts["text_encoder_2"], dtype, device),
        )
        tokenizers = tuple(_load_tokenizer(path / part) for part in ("tokenizer", "tokenizer_2"))
        scheduler_config = _load_scheduler_config(path / "scheduler")
        controlnet = None
        if controlnet_path is not None:
            parts["controlnet"] = find_weights(controlnet_path, dtype)
            controlnet = _load_network(ControlNetModel, parts["controlnet"], dtype, device)
    zeros_for_no_text = bool(index.get("force_zeros_for_empty_prompt", True))
    check_fit(path, unet=unet, vae=vae, text_encoders=text_encoders, controlnet=controlnet, scheduler=scheduler_config)
    is_pose_bgr = controlnet is not None and _take_bgr(controlnet)
    return Components(
        info=ModelInfo(
            name=name,
            revision=model_revision(path, parts, zeros_for_no_text=zeros_for_no_text),
            **_sizes(unet.config, vae.config),
            device=str(device),
            dtype=str(dtype).removeprefix("torch."),
            sampler_version=SAMPLER_VERSION,
            takes_pose=controlnet is not None,
            path=str(path),
            controlnet_path=None if controlnet_path is None else str(controlnet_path),
            pose_detector=None,
        ),
        unet=unet,
        controlnet=controlnet,
        pose_encoder=None if controlnet is None else _take_pose_encoder(controlnet),
        is_pose_bgr=is_pose_bgr,
        vae=vae,
        tokenizers=tokenizers,
        text_encoders=text_encoders,
        scheduler_config=scheduler_config,
        zeros_for_no_text=zeros_for_no_text,
        device=device,
        dtype=dtype,
    )


def _sizes(unet_config: Any, vae_config: Any) -> dict[str, int]:
    """`ModelInfo`'s pixel sizes."""
    factor = 2 ** (len(vae_config.block_out_channels) - 1)
    # The size of the latents the UNet was trained on; diffusers allows a pair here, height first.
    side = unet_config.sample_size
    height, width = side if isinstance(side, list | tuple) else (side, side)
    return {
        "native_width": width * factor,
        "native_height": height * factor,
        "size_multiple": factor,
        "latent_factor": factor,
    }


def _read_index(path: Path) -> dict[str, Any]:
    index = _read_json(path / "model_index.json")
    missing = [part for part in _PARTS if not (path / part).is_dir()]
    if missing:
        raise ModelError(
            f"{path} is not an SDXL pipeline folder, it lacks {', '.join(missing)}: "
            "name an SDXL base model's folder, or copy it again."
        )
    return index


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{file} cannot be read ({error}): name a diffusers folder of an SDXL model, or copy it again."
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} does not hold a JSON object: copy the model again.")
    return content


def _load_network(kind: Any, weights: Weights, dtype: torch.dtype, device: torch.device) -> Any:
    with _translated(kind.__name__, weights.folder):
        network, report = kind.from_pretrained(
            weights.folder,
            variant=weights.variant,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype=dtype,
        )
    wrong = [*report["missing_keys"], *report["mismatched_keys"]]
    if wrong:
        raise ModelError(
            f"The weights in {weights.folder} are not whole: tensors of {kind.__name__} are missing or misshapen "
            f"({len(wrong)} in all, the first is {wrong[0]}): copy the model again."
        )
    return network.to(device).eval().requires_grad_(False)


def _load_tokenizer(folder: Path) -> Any:
    with _translated("CLIPTokenizer", folder):
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _load_scheduler_config(folder: Path) -> Mapping[str, Any]:
    with _translated("scheduler", folder):
        kind = getattr(diffusers, _read_json(folder / "scheduler_config.json")["_class_name"])
        if not issubclass(kind, SchedulerMixin):
            raise TypeError(f"{kind.__name__} is no scheduler")
        # By the model's own class, so that only what the file really says is carried over to the samplers.
        scheduler = kind.from_pretrained(folder, local_files_only=True)
    config: Mapping[str, Any] = scheduler.config
    return config


def _take_pose_encoder(controlnet: Any) -> Any:
    """Take the control picture's encoder out, so that the ControlNet is given its output instead of the picture."""
    encoder = controlnet.controlnet_cond_embedding
    controlnet.controlnet_cond_embedding = torch.nn.Identity()
    return encoder


def _take_bgr(controlnet: Any) -> bool:
    """Whether the control picture's channels are to be turned round; the ControlNet no longer does it itself."""
    is_bgr: bool = controlnet.config.controlnet_conditioning_channel_order == "bgr"
    controlnet.register_to_config(controlnet_conditioning_channel_order="rgb")
    return is_bgr


@contextmanager
def _translated(what: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except ModelError:
        raise
    # Loaders raise whatever their file formats do; none of it is anybody's fault but the folder's.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise ModelError(
            f"The {what} in {folder} cannot be loaded ({type(error).__name__}: {reason}): "
            "copy the model again, and check that it is an SDXL model in safetensors."
        ) from error
