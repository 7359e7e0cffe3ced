"""A picture's settings as other tools read them: A1111's `parameters` line and InvokeAI's metadata. Pure.

A1111, Forge and the sites for sharing pictures read the line from PNG text and from EXIF's UserComment. Its form, by
`create_infotext` and `parse_generation_parameters` of A1111 1.10:

    the prompt, on one or more lines
    Negative prompt: the negative prompt, on one or more lines
    Steps: 22, Sampler: Euler a, CFG scale: 5, Seed: 7, Size: 512x512, Model: name

The reader takes the last line for settings if it has three or more of them. InvokeAI reads no such line, but a JSON
object in PNG text (`invokeai_metadata`, as of its version 3; `upload_image` and the recall of its page).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from darkroom.inference.types import AdapterUse, RenderRequest

_SAMPLERS: Final[Mapping[str, str]] = {
    "euler_ancestral": "Euler a",
    "euler": "Euler",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "ddim": "DDIM",
    "heun": "Heun",
    "unipc": "UniPC",
    "lcm": "LCM",
    "tcd": "TCD",
}
_SCHEDULES: Final[Mapping[str, str]] = {
    "karras": "Karras",
    "exponential": "Exponential",
    "beta": "Beta",
    "sgm_uniform": "SGM Uniform",
    "align_your_steps": "Align Your Steps",
}
_INVOKE_SCHEDULERS: Final[Mapping[str, str]] = {**{name: name for name in _SAMPLERS}, "euler_ancestral": "euler_a"}
_INVOKE_KARRAS: Final = frozenset({"euler", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_sde", "heun", "unipc"})
"""Samplers that have a form with Karras' schedule there, named with `_k` behind them. It has no other schedules."""
_NEGATIVE: Final = "Negative prompt:"
_LINE_BREAK: Final = re.compile(r"\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
"""Forbidden in PNG text (PNG specification, third edition, 11.3.3)."""
_MARKUP: Final = re.compile(r"[\\()\[\]]")
_LAYERS_SKIPPED: Final = 2
"""SDXL's own text layer, the last but one, is A1111's `Clip skip: 2`."""


def parameters_line(request: RenderRequest, *, seed: int, model: str) -> str | None:
    """Return the `parameters` line of one image, painted from `seed`.

    Brackets of a plain prompt are escaped, since A1111 would take them for weights. LoRAs stand as `<lora:name:weight>`
    behind the prompt; one whose name has a colon or an angle bracket cannot be named so and is left out. None for a
    prompt that the reader would take for a negative one.
    """
    is_weighted = request.prompt_syntax == "weighted"
    prompt = _prompt(request.prompt, is_weighted=is_weighted)
    if prompt.startswith(_NEGATIVE):
        return None
    loras = "".join(f" <lora:{adapter.name}:{_weights(adapter)}>" for adapter in request.adapters if _fits(adapter))
    lines = [f"{prompt}{loras}"]
    if request.negative_prompt:
        lines.append(f"{_NEGATIVE} {_prompt(request.negative_prompt, is_weighted=is_weighted)}")
    settings: dict[str, str] = {"Steps": str(request.steps), "Sampler": _SAMPLERS[request.sampler]}
    if request.schedule is not None:
        settings["Schedule type"] = _SCHEDULES[request.schedule]
    settings |= {
        "CFG scale": f"{request.guidance_scale:g}",
        "Seed": str(seed),
        "Size": f"{request.width}x{request.height}",
        "Model": _CONTROL.sub(" ", model),
    }
    if request.init is not None:
        settings["Denoising strength"] = f"{request.init.strength:g}"
    if request.clip_skip:
        settings["Clip skip"] = str(request.clip_skip + _LAYERS_SKIPPED)
    settings["Version"] = "darkroom"
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in settings.items()))
    return "\n".join(lines)


def invokeai_metadata(request: RenderRequest, *, seed: int) -> str | None:
    """Return the settings of one image as InvokeAI has them; None for a weighted prompt, which it would read otherwise.

    The scheduler is left out where InvokeAI has none of that schedule: it then keeps the one that is chosen there.
    """
    if request.prompt_syntax == "weighted":
        return None
    metadata = {
        "generation_mode": "sdxl_txt2img" if request.init is None else "sdxl_img2img",
        "positive_prompt": _MARKUP.sub(lambda found: f"\\{found[0]}", request.prompt),
        "negative_prompt": _MARKUP.sub(lambda found: f"\\{found[0]}", request.negative_prompt or ""),
        "width": request.width,
        "height": request.height,
        "seed": seed,
        "steps": request.steps,
        "cfg_scale": request.guidance_scale,
    }
    if request.init is not None:
        metadata["strength"] = request.init.strength
    if request.schedule is None:
        metadata["scheduler"] = _INVOKE_SCHEDULERS[request.sampler]
    elif request.schedule == "karras" and request.sampler in _INVOKE_KARRAS:
        metadata["scheduler"] = f"{_INVOKE_SCHEDULERS[request.sampler]}_k"
    return json.dumps(metadata)


def _prompt(text: str, *, is_weighted: bool) -> str:
    """Return a prompt as the reader gives it back: trimmed line by line, in a form that keeps its meaning there."""
    text = _CONTROL.sub(" ", _LINE_BREAK.sub("\n", text).replace("\t", " ")).strip()
    if not is_weighted:
        text = _MARKUP.sub(lambda found: f"\\{found[0]}", text)
    lines = [line.strip() for line in text.split("\n")]
    # A line that begins so would end the prompt for the reader.
    return (" " if any(line.startswith(_NEGATIVE) for line in lines) else "\n").join(lines)


def _fits(adapter: AdapterUse) -> bool:
    return not set(adapter.name) & set("<>:\n")


def _weights(adapter: AdapterUse) -> str:
    """Return A1111's weights of a LoRA: one for all, or that of the text encoders and that of the UNet."""
    if adapter.text_weight is None or adapter.text_weight == adapter.weight:
        return f"{adapter.weight:g}"
    return f"{adapter.text_weight:g}:{adapter.weight:g}"


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if set(value) & set(',:\n"') else value
