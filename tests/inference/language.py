"""Draws requests over the whole language of pictures: every field that decides pixels, mixed as senders may mix them.

Sizes and steps are small, so that hundreds can be painted. `drawn` makes the JSON object of a request, `resolved` what
a device paints of it. tests/inference/test_language.py fails for a field of the request that is never drawn.
"""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
import transformers
from safetensors.torch import save_file

from darkroom.inference.pose.skeleton import draw_people
from darkroom.inference.resolve import resolve
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import ModelInfo, RenderRequest
from darkroom.schemas.events.init import MASK_UNDONE_BY
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.events.samplers import SAMPLERS, SCHEDULES, pair_fault
from darkroom.schemas.recipes import parse_recipes
from darkroom.schemas.settings import LimitSettings
from tests.inference import loras
from tests.inference.painting import SITTING, WAVING, mask_to_paint_in, picture_to_start_from

ADAPTERS: Final = ("ink", "oil", "weave")
"""Two LoRAs, of which the second changes text encoders, too, and a LoKr."""
RECIPES: Final = """
[four-steps]
steps = 4
sampler = "euler"
schedule = "sgm_uniform"
guidance_scale = 0.0

[drawing]
sampler = "DPM++ 2M Karras"
adapters = [{ name = "ink", weight = 0.7 }]
guidance_rescale = 0.5
"""
_LEFT_TO_THE_RECIPE: Final = (
    "preset", "steps", "sampler", "schedule", "guidance_scale", "guidance_rescale", "adapter", "adapters",
)  # fmt: skip
_POSES: Final = tuple({"people": [list(pose.people[0])]} for pose in (WAVING, SITTING))


def _skeleton_file() -> bytes:
    """Return a skeleton picture as a PNG file."""
    file = io.BytesIO()
    draw_people(WAVING.people, width=64, height=64).save(file, "PNG")
    return file.getvalue()


_SKELETON: Final = _skeleton_file()
_LONG: Final = ", ".join(f"a small animal number {number}" for number in range(24))
_THREE_CHUNKS: Final = ", ".join(f"a small animal number {number}" for number in range(8))
"""For the tiny models, whose tokens are letters."""
_STARTS: Final = tuple(picture_to_start_from(seed=seed).inline for seed in range(2))
_MASK: Final = mask_to_paint_in((30, 20, 70, 60)).inline
FITS: Final = ("stretch", "contain", "cover")
_PLAIN_PROMPTS: Final = ("a red fox in the snow", "雪の中の赤い狐 🦊", "many small animals " * 9, "a (red:1.3) fox")
_WEIGHTED_PROMPTS: Final = (
    "a (red:1.4) fox", "((a fox:1.2) in [deep] snow:1.5)", "a red fox BREAK (deep snow:1.3)", "a (fox:7) :) (snow",
    _LONG, _THREE_CHUNKS, f"({_LONG}:1.2) BREAK a (fox:0.6)", f"a fox BREAK {_LONG} BREAK {_LONG}",
    "a red fox in the snow",
)  # fmt: skip
TOO_LONG: Final = (_PLAIN_PROMPTS[2], *(one for one in _WEIGHTED_PROMPTS if one.count("number 23")))
"""Prompts of which the tiny models do not read all."""
_FRACTIONS: Final = ((0.0, 1.0), (0.0, 0.5), (0.3, 1.0), (0.25, 0.75), (0.5, 0.55))


def drawn(dice: random.Random) -> dict[str, Any]:
    """Return a valid request without its identity, as the JSON object that a producer would write."""
    sampler = dice.choice(SAMPLERS)
    steps = dice.randrange(1, 7)
    syntax = dice.choice(("plain", "weighted"))
    prompts = _WEIGHTED_PROMPTS if syntax == "weighted" else _PLAIN_PROMPTS
    wide = dice.random() < 0.2
    fields: dict[str, Any] = {
        "prompt": dice.choice(prompts),
        "negative_prompt": dice.choice((None, "", *prompts)),
        "prompt_syntax": syntax,
        "preset": dice.choice(("fast", "quality")),
        "steps": steps,
        "width": 96 if wide else dice.choice((None, 64)),
        "height": 64 if wide else dice.choice((None, 64)),
        "seed": dice.choice((None, dice.randrange(2**32))),
        "count": 2 if dice.random() < 0.1 else 1,
        "sampler": sampler,
        "schedule": dice.choice([one for one in (None, *SCHEDULES) if pair_fault(sampler, one, steps) is None]),
        "guidance_scale": dice.choice((0.0, 1.0, 4.0, 5.0, 9.0)),
        "guidance_rescale": dice.choice((0.0, 0.0, 0.7)),
        "clip_skip": dice.choice((0, 0, 1)),
        "fidelity": dice.choice(("exact", "exact", "economy")),
        "output": {"format": dice.choice(("png", "png", "png", "webp", "jpeg")), "quality": 80},
    }
    fields["guidance_start"], fields["guidance_end"] = dice.choice(_FRACTIONS)
    if dice.random() < 0.4:
        fields["pose"] = dice.choice(_POSES)
        fields["control_scale"] = dice.choice((0.0, 0.6, 1.0, 1.7))
        fields["control_start"], fields["control_end"] = dice.choice(_FRACTIONS)
    elif dice.random() < 0.2:
        start, end = dice.choice(_FRACTIONS)
        image = {"inline": base64.b64encode(_SKELETON).decode()}
        fields["controls"] = [
            {"kind": "openpose", "image": image, "scale": dice.choice((0.6, 1.0)), "start": start, "end": end}
        ]
    strengths = [one for one in (0.3, 0.6, 0.95) if int(min(steps, 4) * one)]  # a recipe may take four steps
    if strengths and dice.random() < 0.3:
        image = {"inline": dice.choice(_STARTS)}
        fields["init"] = {"image": image, "strength": dice.choice(strengths), "fit": dice.choice(FITS)}
        if sampler not in MASK_UNDONE_BY and dice.random() < 0.5:
            fields["mask"] = {"image": {"inline": _MASK}, "blur": dice.choice((0, 4)), "composite": dice.random() < 0.5}
    fields |= _drawn_adapters(dice)
    if dice.random() < 0.1:
        fields = {name: value for name, value in fields.items() if name not in _LEFT_TO_THE_RECIPE}
        fields["recipe"] = dice.choice(("four-steps", "drawing"))
        if fields["recipe"] == "drawing":
            fields["steps"] = steps
    return fields


def _drawn_adapters(dice: random.Random) -> dict[str, Any]:
    chance = dice.random()
    if chance < 0.4:
        return {}
    if chance < 0.6:
        return {"adapter": {"name": dice.choice(ADAPTERS), "weight": dice.choice((-0.7, 0.5, 1.0))}}
    weights = (-0.5, 0.3, 0.7)
    return {
        "adapters": [
            {"name": name, "weight": dice.choice(weights), "text_weight": dice.choice((None, *weights))}
            for name in dice.sample(ADAPTERS, dice.randrange(1, len(ADAPTERS) + 1))
        ]
    }


def resolved(fields: Mapping[str, Any], info: ModelInfo) -> list[RenderRequest]:
    """Return what a device paints of a drawn request: one request of one picture, as PNG, for each of its images."""
    request = GenerationRequest.model_validate({"request_id": "drawn", **fields})
    made = resolve(parse_recipes(RECIPES).filled(request), info, LimitSettings())
    return [
        replace(made, seed=made.seed + index, count=1, image_format="png", image_text={}) for index in range(made.count)
    ]


def write_adapters(folder: Path, tiny: TinyModel) -> None:
    """Write the files of `ADAPTERS` for the tiny model."""
    # Both libraries make their classes by rules that a type checker cannot follow.
    library: Any = diffusers
    unet = library.UNet2DConditionModel.from_pretrained(tiny.path / "unet")
    encoder: Any = transformers.CLIPTextModel.from_pretrained(tiny.path / "text_encoder")
    networks: dict[str, torch.nn.Module] = {"unet": unet, "text_encoder": encoder}
    attention = loras.transformer_layers(unet, loras.ATTENTION)
    texts = [f"encoder.layers.{layer}.{name}" for layer in range(3) for name in loras.TEXT]
    loras.peft_file(folder / "ink.safetensors", loras.Layers(networks, 1), {"unet": attention})
    loras.peft_file(
        folder / "oil.safetensors", loras.Layers(networks, 2, 0.6), {"unet": attention, "text_encoder": texts}
    )
    save_file(lokr_tensors(unet, attention), folder / "weave.safetensors")


def lokr_tensors(unet: torch.nn.Module, layers: Sequence[str], seed: int = 9) -> loras.Tensors:
    """Return a LoKr of whole factors in LyCORIS's names: the change of a layer is kron(w1, w2)."""
    generator = torch.Generator().manual_seed(seed)
    tensors: loras.Tensors = {}
    for layer in layers:
        weight: Any = unet.get_submodule(layer).weight
        out, width = weight.shape
        flat = f"lycoris_{layer.replace('.', '_')}"
        tensors[f"{flat}.lokr_w1"] = torch.randn(4, 4, generator=generator) * 0.3
        tensors[f"{flat}.lokr_w2"] = torch.randn(out // 4, width // 4, generator=generator) / width**0.5
    return tensors


def until_each(dice: random.Random, number: int, told: Callable[[dict[str, Any]], Any]) -> list[dict[str, Any]]:
    """Return so many drawn requests, of which the first ones have a `told` of their own, as far as there are any."""
    made = [drawn(dice) for _ in range(number)]
    firsts = {repr(told(one)): one for one in reversed(made)}.values()
    return [*firsts, *(one for one in made if all(one is not first for first in firsts))]
