"""Refuses networks that are no part of an SDXL model, by configuration and tensors, and names what they are.

diffusers loads a folder as the class that it is told, whatever `_class_name` says, and ignores tensors that the class
does not have: a union ControlNet would paint as a plain one, a distilled UNet as a guided one. Single files carry no
class name at all, so tensors are examined for folders and files alike. Differences between the loaded parts are
refused, too: they would end in a tensor error deep inside a forward, or in a picture that is quietly wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from darkroom.inference.sdxl.loading.headers import Header
from darkroom.inference.sdxl.loading.vae_kinds import TINY, is_tiny
from darkroom.inference.types import ModelError

TEXT_CLASSES: Final = frozenset({"CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel"})
"""`architectures` of a text encoder's configuration; the third class holds a text encoder and one for pictures."""
UNION: Final = "controlnet_union"
"""What a union ControlNet is checked as."""
UNION_MARK: Final = "task_embedding"
"""The tensor that tells a union ControlNet: (control types, width)."""
_UNION_CLASSES: Final = ("ControlNetUnionModel", "ControlNetModel_Union")
"""diffusers' class, and that of xinsir's own code."""
_CLASSES: Final[Mapping[str, frozenset[str]]] = {
    "unet": frozenset({"UNet2DConditionModel"}),
    "vae": frozenset({"AutoencoderKL", TINY}),
    "controlnet": frozenset({"ControlNetModel"}),
    UNION: frozenset({"ControlNetModel", *_UNION_CLASSES}),
    "text_encoder": TEXT_CLASSES,
    "text_encoder_2": TEXT_CLASSES,
}
_PLAIN_CONTROLNET: Final = "name a plain ControlNet of SDXL that was trained for OpenPose skeletons"
_PLAIN_UNET: Final = "name an SDXL base model that is guided by a negative prompt"
_UNION: Final = (
    "a union ControlNet, which follows several kinds of control: name it with its kinds in DARKROOM_MODEL__CONTROLNETS"
)
_T2I: Final = f"a T2I-Adapter, which is no ControlNet; {_PLAIN_CONTROLNET}"
_XS: Final = f"a ControlNet-XS, which is wired into the UNet differently; {_PLAIN_CONTROLNET}"
_OF_OTHERS: Final = f"of another model family; {_PLAIN_CONTROLNET}"
_TINY_VAE: Final = f"a tiny autoencoder without its configuration; put the config.json of its {TINY} beside it"
_SCALED: Final = (
    "in scaled fp8, whose weights mean nothing without their scales; use the fp16 file, or fp8 without scales"
)
_QUANTISED: Final = "quantised for one library's own kernels; use the fp16 file"

_KNOWN_CLASSES: Final[Mapping[str, str]] = {
    **dict.fromkeys(_UNION_CLASSES, _UNION),
    "ControlNetXSAdapter": _XS,
    "UNetControlNetXSModel": _XS,
    "ControlNetXSModel": _XS,
    "T2IAdapter": _T2I,
    "MultiAdapter": _T2I,
    "UNetMotionModel": f"a UNet for video; {_PLAIN_UNET}",
}
_MARKS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "controlnet": (
        ("task_embedding", _UNION),
        ("control_add_embedding.", _UNION),
        ("transformer_layes.", _UNION),
        ("lllite_", f"a ControlNet-LLLite, which patches the UNet's attention; {_PLAIN_CONTROLNET}"),
        ("lora_controlnet", f"a Control-LoRA, which is applied to a copy of the UNet; {_PLAIN_CONTROLNET}"),
        ("ctrl_to_base", _XS),
        ("base_to_ctrl", _XS),
        ("adapter.", _T2I),
        ("ip_adapter.", f"an IP-Adapter, which takes a picture for a prompt; {_PLAIN_CONTROLNET}"),
        ("image_proj.", f"an IP-Adapter, which takes a picture for a prompt; {_PLAIN_CONTROLNET}"),
        ("double_blocks.", _OF_OTHERS),
        ("joint_blocks.", _OF_OTHERS),
        ("single_transformer_blocks.", _OF_OTHERS),
        ("lora_unet_", "a LoRA, which belongs into DARKROOM_MODEL__ADAPTERS_PATH"),
    ),
    "unet": (
        (
            "cond_proj.",
            f"distilled to take the guidance scale (time_cond_proj_dim), as few-step models are; {_PLAIN_UNET}",
        ),
        ("motion_modules.", f"a UNet for video; {_PLAIN_UNET}"),
        ("encoder_hid_proj.", f"fed by another text or picture encoder (Kolors, IP-Adapter); {_PLAIN_UNET}"),
        ("to_k_ip.", f"merged with an IP-Adapter, which takes a picture for a prompt; {_PLAIN_UNET}"),
    ),
    "vae": (("encoder.layers.", _TINY_VAE), ("decoder.layers.", _TINY_VAE)),
}
"""By part: a mark in a tensor's name, at its start or after a dot, and the kind of network that has it."""
_STORED_OTHERWISE: Final = (
    ("scaled_fp8", _SCALED),
    ("scale_weight", _SCALED),
    ("weight_scale", _SCALED),
    ("quant_state.", _QUANTISED),
    ("absmax", _QUANTISED),
    ("qweight", _QUANTISED),
    ("SCB", _QUANTISED),
)
UNION_TYPES_DEFAULT: Final = 6
"""`num_control_type` of a configuration that does not say, as diffusers reads it."""
_FAMILIES: Final[Mapping[int, str]] = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2"}
"""By the width of the text that a UNet takes."""
_INPUTS: Final = ("conv_in.weight", "input_blocks.0.0.weight", "model.diffusion_model.input_blocks.0.0.weight")
_OUTPUTS: Final = ("conv_out.weight", "out.2.weight", "model.diffusion_model.out.2.weight")


def check_class(part: str, config: Mapping[str, Any], file: Path) -> None:
    """Raise `ModelError` if a configuration says that it is of another network than `part`."""
    wanted = _CLASSES[part]
    says = config.get("_class_name")
    named = [says] if isinstance(says, str) else config.get("architectures") or []
    other = next((name for name in named if name not in wanted), None)
    if other is None:
        return
    what = _KNOWN_CLASSES.get(other)
    if what is None:
        what = f"not of {' or '.join(sorted(wanted))}; name a folder of SDXL's {part}"
    raise ModelError(f"{file} is of the class {other}, {what}.")


def check_tensors(part: str, header: Header, place: Path, config: Mapping[str, Any]) -> None:
    """Raise `ModelError` if tensors show that the weights in `place` are of another network than `part`.

    `config` is the configuration that belongs to them, empty where that is not known yet.
    """
    marks = () if part == "vae" and is_tiny(config) else _MARKS.get(part, ())
    if part == UNION:
        marks = tuple(mark for mark in _MARKS["controlnet"] if mark[1] != _UNION)
    for name in sorted(header.shapes):
        for mark, what in (*marks, *_STORED_OTHERWISE):
            if name.startswith(mark) or f".{mark}" in name:
                raise ModelError(f"The {part} in {place} is {what} (its tensor {name} says so).")
    if part == "unet":
        _check_inputs(header, place)


def check_union(header: Header, config: Mapping[str, Any], place: Path) -> None:
    """Raise `ModelError` where a union ControlNet has another number of control types than its configuration says.

    One repository holds both of xinsir's, the plain one as config.json and the promax as config_promax.json.
    """
    types = header.shapes[UNION_MARK][0]
    says = config.get("num_control_type", UNION_TYPES_DEFAULT)
    if types != says:
        raise ModelError(
            f"The union ControlNet in {place} has {types} control types and its config.json says {says}: put the "
            "configuration that belongs to the weights (config_promax.json for promax) in its place."
        )


def _check_inputs(header: Header, place: Path) -> None:
    """Raise `ModelError` for a UNet that takes more than the latents that it returns."""
    name = next((name for name in _INPUTS if len(header.shapes.get(name, ())) > 1), None)
    takes = 0 if name is None else header.shapes[name][1]
    gives = next((header.shapes[name][0] for name in _OUTPUTS if header.shapes.get(name)), takes)
    # Besides the latents, these take the latents of a picture, or those and a mask.
    what = {2 * gives: "an editing model", 2 * gives + 1: "an inpainting model"}.get(takes)
    if takes and what is not None:
        raise ModelError(
            f"The unet in {place} takes {takes} channels and gives {gives} ({name}): it is {what}, which paints from a "
            f"picture and is not supported; {_PLAIN_UNET}."
        )


def check_fit(
    path: Path,
    *,
    unet: Any,
    vae: Any,
    latent_factor: int,
    text_encoders: Sequence[Any],
    controlnets: Mapping[Path, Any],
) -> None:
    """Raise `ModelError` for the first property of loaded parts that does not fit. `controlnets` are by place."""
    for fits, what in _base_checks(unet.config, vae.config, [encoder.config for encoder in text_encoders]):
        if not fits:
            raise ModelError(f"The model in {path} cannot be used: {what}.")
    for place, controlnet in controlnets.items():
        for fits, what in _controlnet_checks(controlnet.config, unet.config, latent_factor):
            if not fits:
                raise ModelError(f"The ControlNet in {place} cannot be used with the model in {path}: {what}.")


def _base_checks(unet: Any, vae: Any, texts: Sequence[Any]) -> list[tuple[bool, str]]:
    pooled = texts[-1].projection_dim
    token_width = sum(text.hidden_size for text in texts)
    return [
        (
            unet.addition_embed_type == "text_time",
            "its UNet takes no size and text embeddings (addition_embed_type), so it is not SDXL",
        ),
        (
            unet.time_cond_proj_dim is None,
            "its UNet takes the guidance scale as an input (time_cond_proj_dim), as few-step models do; "
            "use a model that is guided by a negative prompt",
        ),
        (
            unet.in_channels == vae.latent_channels,
            f"its UNet takes latents of {unet.in_channels} channels and its VAE has {vae.latent_channels}: name a VAE "
            "of SDXL",
        ),
        (
            unet.cross_attention_dim == token_width,
            f"its UNet takes text of width {unet.cross_attention_dim} and its two encoders give {token_width}",
        ),
        (
            unet.projection_class_embeddings_input_dim == 6 * unet.addition_time_embed_dim + pooled,
            "its UNet does not take six time ids and this pooled text embedding; refiner models are not supported",
        ),
    ]


def _controlnet_checks(controlnet: Any, unet: Any, latent_factor: int) -> list[tuple[bool, str]]:
    picture_factor = 2 ** (len(controlnet.conditioning_embedding_out_channels) - 1)
    same = ("block_out_channels", "layers_per_block", "cross_attention_dim", "addition_embed_type")
    different = [name for name in same if _plain(getattr(controlnet, name)) != _plain(getattr(unet, name))]
    return [
        (
            not controlnet.global_pool_conditions,
            "it pools its output over the picture (global_pool_conditions), which a control picture cannot use",
        ),
        (
            not different,
            f"it was made for another UNet{_family(controlnet)}, they differ in {' and '.join(different)}; "
            "use a ControlNet for SDXL",
        ),
        (
            picture_factor == latent_factor,
            f"it reduces the control picture {picture_factor} times and the VAE reduces pictures {latent_factor} times",
        ),
    ]


def _family(controlnet: Any) -> str:
    """Return the model family that a ControlNet's text width tells, in parentheses; empty for SDXL and unknown ones."""
    family = _FAMILIES.get(controlnet.cross_attention_dim)
    return f" (that of {family})" if family else ""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def economy_refused(unet: Any) -> str | None:
    """Return why the UNet's outermost layers cannot run alone, as economy pictures need: a clause; None if they can.

    They are SDXL's: a first and a last block without attention, joined by skip connections, and an embedding of time
    and text that needs no other input.
    """
    config = unet.config
    first, last = type(unet.down_blocks[0]).__name__, type(unet.up_blocks[-1]).__name__
    if (first, last) != ("DownBlock2D", "UpBlock2D"):
        return f"its UNet begins with {first} and ends with {last}, where SDXL has DownBlock2D and UpBlock2D"
    if len(unet.up_blocks) < 2 or len(unet.up_blocks[-1].resnets) != len(unet.down_blocks[0].resnets) + 1:
        return "its UNet's last block does not take the skip connections of its first block alone"
    if config.addition_embed_type != "text_time" or unet.class_embedding is not None:
        return f"its UNet embeds {config.addition_embed_type} with the time, where SDXL embeds text_time"
    if config.center_input_sample or config.time_embedding_act_fn is not None or unet.conv_norm_out is None:
        return "its UNet treats its input, its time or its output in another way than SDXL's"
    return None
