"""Identifies tensors in an adapter file that are not a LoRA's for this model.

Trainers write LoRA's relatives into files that look the same, and store other things alongside a LoRA. Each has its own
formula, so ignoring one would paint another picture: the file is refused, with the name of the tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

EMBEDDING: Final = "bundle_emb."
"""Prefix of the tensors of an embedding that kohya's and OneTrainer's tools bundle with a LoRA."""
_PLAIN: Final = "use a plain LoRA"
_MERGE: Final = "merge it into the model's weights, or train a plain LoRA"
_RELATIVES: Final = (
    ("oft_", "an OFT, a rotation of a layer's outputs", _PLAIN),
    ("boft_", "a BOFT, a rotation of a layer's outputs", _PLAIN),
    ("ia3_l", "an IA3, which scales outputs", _PLAIN),
    (".on_input", "an IA3, which scales outputs", _PLAIN),
    ("vera_lambda", "a VeRA", _PLAIN),
    ("lora_controlnet", "a Control-LoRA, which is a kind of ControlNet", _PLAIN),
    ("lora_embedding_", "a LoRA of an embedding", "train it without the embedding"),
    ("lllite_", "a ControlNet-LLLite, which is a kind of ControlNet", _PLAIN),
    ("to_k_ip.", "an IP-Adapter", _PLAIN),
    ("ip_adapter.", "an IP-Adapter", _PLAIN),
)
_ENDS: Final = (
    (".set_weight", "a whole layer's new weight", _MERGE),
    (".reshape_weight", "a whole layer's new shape", _MERGE),
    (".bias", "a bias", "train the LoRA without biases"),
    (".a1.weight", "a GLoRA", _PLAIN),
    (".a2.weight", "a GLoRA", _PLAIN),
    (".b1.weight", "a GLoRA", _PLAIN),
    (".b2.weight", "a GLoRA", _PLAIN),
)
_WHOLE: Final[Mapping[str, str]] = {
    "clip_l": "an embedding (textual inversion)",
    "clip_g": "an embedding (textual inversion)",
    "emb_params": "an embedding (textual inversion)",
    "string_to_param": "an embedding (textual inversion)",
}
_FAMILIES: Final = (
    ("double_blocks", "Flux"),
    ("single_blocks", "Flux"),
    ("single_transformer_blocks", "Flux"),
    ("joint_blocks", "Stable Diffusion 3"),
    ("transformer.transformer_blocks", "a model without a UNet, as Stable Diffusion 3 or Flux"),
    ("lora_transformer_", "a model without a UNet, as Stable Diffusion 3 or Flux"),
    ("transformer.", "a model without a UNet"),
    ("diffusion_model.blocks.", "a model without a UNet, as Wan"),
    ("lora_unet_blocks_", "a model without a UNet, as Wan"),
    ("diffusion_model.layers.", "a model without a UNet"),
    ("diffusion_model.transformer_blocks.", "a model without a UNet, as Qwen-Image"),
    ("down_blocks_0_attentions", "Stable Diffusion 1 or 2"),
    ("down_blocks.0.attentions", "Stable Diffusion 1 or 2"),
    ("lora_unet_input_blocks_1_1_", "Stable Diffusion 1 or 2"),
    ("lora_te3_", "a model with a third text encoder, as Stable Diffusion 3"),
    ("text_encoder_3.", "a model with a third text encoder, as Stable Diffusion 3"),
    ("text_encoders.t5", "a model with a T5 text encoder, as Stable Diffusion 3"),
)
_BASES: Final = ("modelspec.architecture", "ss_base_model_version")
TEXT_WIDTHS: Final = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: "SDXL's refiner", 2048: "SDXL"}
"""The models by the width of their text embeddings."""


def foreign(key: str) -> tuple[str, str] | None:
    """Return the kind of a tensor that no LoRA has, and the remedy; None if its name looks like a LoRA's."""
    for mark, what, remedy in _RELATIVES:
        if mark in key:
            return what, remedy
    for end, what, remedy in _ENDS:
        if key.endswith(end):
            return what, remedy
    return (_WHOLE[key], _PLAIN) if key in _WHOLE else None


def family(key: str, metadata: Mapping[str, str]) -> str:
    """Return, as the end of a clause, the other model that a layer's name or the metadata indicates; empty if
    unknown."""
    made_for = next((what for mark, what in _FAMILIES if mark in key), None)
    says = next((metadata[name] for name in _BASES if name in metadata), None)
    if made_for is not None:
        return f", and such layers are of {made_for}"
    return "" if says is None else f", and the file says that it was made for {says[:80]!r}"


def family_of_width(layer: str, width: int) -> str:
    """Return, as the end of a clause, the model whose text embeddings have this width; empty if unknown."""
    model = TEXT_WIDTHS.get(width) if layer.endswith(("attn2.to_k", "attn2.to_v")) else None
    return "" if model is None else f", it was trained on the text embeddings of {model}"
