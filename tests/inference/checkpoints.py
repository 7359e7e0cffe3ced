"""The tiny model as a single file, in the layout that SDXL's first release has: the way back from diffusers' names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]

_LAYERS = 1
"""Of a block of the tiny model's UNet (`layers_per_block`)."""
_WHOLE_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "text_model.encoder.layers.": "transformer.resblocks.",
    "text_model.final_layer_norm": "ln_final",
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.": "attn.",
}


def write_checkpoint(model: Path, file: Path, change: Callable[[Tensors], object] = lambda _tensors: None) -> None:
    """The diffusers folder `model` as one file. `change` may do something to its tensors first."""
    unet = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    tensors = {f"model.diffusion_model.{_unet(name, unet)}": value for name, value in unet.items()}
    tensors |= {f"first_stage_model.{name}": value for name, value in vae_tensors(model / "vae").items()}
    for name, value in load_file(model / "text_encoder" / "model.safetensors").items():
        tensors[f"conditioner.embedders.0.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    second = _open_clip(load_file(model / "text_encoder_2" / "model.safetensors"))
    tensors |= {f"conditioner.embedders.1.model.{name}": value for name, value in second.items()}
    change(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, file)


def vae_tensors(folder: Path) -> Tensors:
    """A VAE's tensors under their first names; its attention was of 1 x 1 convolutions then."""
    tensors = {}
    for name, value in load_file(folder / "diffusion_pytorch_model.safetensors").items():
        is_projection = re.search(r"attentions.*(to_[qkv]|to_out\.0)\.weight", name)
        tensors[_vae(name)] = value[..., None, None] if is_projection else value
    return tensors


def _unet(name: str, unet: Tensors) -> str:
    for ours, theirs in _WHOLE_UNET.items():
        if name.startswith(ours + "."):
            return _resnet(theirs + name.removeprefix(ours)) if "resnets" in ours else theirs + name.removeprefix(ours)
    kind, block, what, number, rest = name.split(".", 4)
    first = int(block) * (_LAYERS + 1)
    if what == "downsamplers":
        return f"input_blocks.{first + _LAYERS + 1}.0.{rest.replace('conv', 'op')}"
    if what == "upsamplers":
        has_attention = any(key.startswith(f"up_blocks.{block}.attentions") for key in unet)
        return f"output_blocks.{first + _LAYERS}.{2 if has_attention else 1}.{rest}"
    place = (
        f"input_blocks.{1 + first + int(number)}" if kind == "down_blocks" else f"output_blocks.{first + int(number)}"
    )
    return _resnet(f"{place}.0.{rest}") if what == "resnets" else f"{place}.1.{rest}"


def _resnet(name: str) -> str:
    for ours, theirs in _RESNET.items():
        name = re.sub(rf"\.{ours}\.", f".{theirs}.", name)
    return name


def _vae(name: str) -> str:
    name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda found: f"up.{3 - int(found[1])}.block.", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{3 - int(found[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        for ours, theirs in _ATTENTION.items():
            name = name.replace(f"attentions.0.{ours}.", f"attentions.0.{theirs}.")
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def _open_clip(tensors: Tensors) -> Tensors:
    result: Tensors = {}
    for name, value in tensors.items():
        if ".self_attn.q_proj." in name:
            of_all = torch.cat([tensors[name.replace("q_proj", f"{one}_proj")] for one in "qkv"])
            result[_in_open_clip(name.replace("q_proj.", "in_proj_"))] = of_all
        elif name == "text_projection.weight":
            result["text_projection"] = value.T
        elif ".self_attn.k_proj." not in name and ".self_attn.v_proj." not in name:
            result[_in_open_clip(name)] = value
    return result


def _in_open_clip(name: str) -> str:
    for ours, theirs in _OPEN_CLIP.items():
        name = name.replace(ours, theirs)
    return name
