"""Times the parts of a step and of a decode, each by itself, on made-up inputs.

Nothing here touches a request's rows, the caches or torch's global random state. Inputs are noise rather than zeros,
because a GPU draws less power, and so runs faster, on zeros.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from darkroom.inference.sdxl.denoise.rows import Guidance, SdxlRow, draw_noise
from darkroom.inference.sdxl.denoise.schedule import DEFAULT_SAMPLER, Schedules
from darkroom.inference.sdxl.denoise.step import Networks, Stepper
from darkroom.inference.sdxl.loading.components import Components
from darkroom.inference.sdxl.loading.placement import Placement
from darkroom.inference.sdxl.prepare.conditions import TextEmbedding, time_ids
from darkroom.inference.types import BatchKey, Part, RenderRequest, RowId

RUNS_MAX: Final = 5
"""Timed runs, of which the fastest counts: other load on the machine can only add time."""
RUNS_S_MAX: Final = 1.0
"""No further run starts once the runs took this long together: disturbances are small compared with a long run."""
_TOKENS: Final = 77


def measured_on(networks: Networks, placement: Placement) -> Mapping[str, str]:
    """Return the hardware, the libraries and the form of the model that decide how long a forward takes."""
    shapes, plan = networks.shapes, placement.plan
    sizes = " ".join(sorted(f"{height}x{width}" for height, width in shapes.latent_sizes))
    return {
        "hardware": _hardware(networks.device),
        **{library: version(library) for library in ("torch", "diffusers")},
        "form": f"{plan.attention.value}, channels last {plan.channels_last}, fused {plan.fuse_qkv}",
        "vae": f"{placement.vae_device.type}, slices {plan.vae_slicing}, tiles above {plan.vae_tiled_above_pixels}",
        "compiled": "no" if networks.regions is None else f"latents {sizes}, slots {shapes.buckets}",
    }


def measure_part(  # noqa: PLR0917 - the protocol's order
    part: Part, components: Components, networks: Networks, height: int, width: int, count: int
) -> float:
    """Return the seconds of a part, as `darkroom.inference.contract.Device.measure`. Call it in inference mode."""
    if part is Part.CONTROLNET and not networks.controlnets:
        return 0.0
    if part is Part.SHALLOW and networks.shallow is None:
        return 0.0
    if part is Part.DECODE:
        return _seconds(_decoding(components, height, width, count), components.placement.vae_device)
    makers = {
        Part.UNET: _unet_forward,
        Part.CONTROLNET: _controlnet_forward,
        Part.REST: _rest_of_a_step,
        Part.SHALLOW: _shallow_forward,
    }
    return _seconds(makers[part](components, networks, height, width, count), networks.device)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    _timed(run, device)
    runs = [_timed(run, device)]
    while len(runs) < RUNS_MAX and sum(runs) < RUNS_S_MAX:
        runs.append(_timed(run, device))
    return min(runs)


def _timed(run: Callable[[], object], device: torch.device) -> float:
    """Return the wall-clock seconds until the device is done, kernel launches included, as a step waits for them."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _unet_forward(
    components: Components, networks: Networks, height: int, width: int, slots: int
) -> Callable[[], object]:
    padded = networks.shapes.pad(height, width, unet_slots=slots, control_slots=0)
    inputs = _inputs(components, networks, height, width, padded.unet_slots)
    return _entered(networks, padded.is_static, lambda: networks.unet(**inputs))


def _controlnet_forward(
    components: Components, networks: Networks, height: int, width: int, slots: int
) -> Callable[[], object]:
    controlnet = networks.controlnets[0]
    padded = networks.shapes.pad(height, width, unet_slots=slots, control_slots=slots)
    inputs = _inputs(components, networks, height, width, padded.control_slots)
    channels = networks.unet.config.block_out_channels[0]
    inputs["controlnet_cond"] = _noise(networks, padded.control_slots, channels, height, width)
    inputs["conditioning_scale"] = torch.ones(padded.control_slots, 1, 1, 1).to(networks.device, networks.dtype)
    return _entered(networks, padded.is_static, lambda: controlnet(**inputs))


def _shallow_forward(
    components: Components, networks: Networks, height: int, width: int, rows: int
) -> Callable[[], object]:
    """Return the forward of a shallow call whose rows have no pose: a pose adds a few sums to it."""
    shallow = networks.shallow
    assert shallow is not None
    inputs = _inputs(components, networks, height, width, rows)
    deep = _noise(networks, rows, *shallow.deep_shape(height, width))
    return lambda: shallow(inputs["sample"], inputs["timestep"], inputs["added_cond_kwargs"], deep, ())


def _entered(networks: Networks, is_static: bool, forward: Callable[[], object]) -> Callable[[], object]:
    """Return the forward in the form in which a step runs it: compiled if its shape is."""

    def run() -> None:
        with nullcontext() if networks.regions is None else networks.regions.entered(is_static=is_static):
            forward()

    return run


def _rest_of_a_step(
    components: Components, networks: Networks, height: int, width: int, slots: int
) -> Callable[[], object]:
    """Return a whole step whose UNet answers at once."""
    guided, alone = divmod(slots, 2)
    rows = [
        _row(components, networks, height, width, number, guided=number < guided) for number in range(guided + alone)
    ]
    answering = replace(networks, unet=lambda sample, *_, **__: (sample,), controlnets=(), regions=None)
    stepper = Stepper(answering)

    def run() -> None:
        for row in rows:
            row.steps_done = 0
        stepper.take(rows)

    return run


def _decoding(components: Components, height: int, width: int, pictures: int) -> Callable[[], object]:
    vae, placement = components.vae, components.placement
    # As in `darkroom.inference.sdxl.model`: the picture's size alone decides on tiles.
    vae.use_tiling = height * width * components.info.latent_factor**2 > placement.plan.vae_tiled_above_pixels
    latents = draw_noise(_seeded(), (pictures, vae.config.latent_channels, height, width))
    on_device = latents.to(placement.vae_device, vae.dtype)
    return lambda: vae.decode(on_device, return_dict=False)


def _inputs(components: Components, networks: Networks, height: int, width: int, slots: int) -> dict[str, Any]:
    config = components.unet.config
    ids = _time_ids(networks, components, height, width)
    return {
        "sample": _noise(networks, slots, config.in_channels, height, width),
        "timestep": torch.full((slots,), 500.0, device=networks.device),
        "encoder_hidden_states": _noise(networks, slots, _TOKENS, config.cross_attention_dim),
        "added_cond_kwargs": {
            "text_embeds": _noise(networks, slots, _pooled_width(config)),
            "time_ids": ids.expand(slots, -1),
        },
        "return_dict": False,
    }


def _row(components: Components, networks: Networks, height: int, width: int, number: int, *, guided: bool) -> SdxlRow:
    config, info = components.unet.config, components.info
    request = RenderRequest(
        prompt="",
        negative_prompt=None,
        width=width * info.latent_factor,
        height=height * info.latent_factor,
        steps=2,
        guidance_scale=5.0 if guided else 1.0,
        sampler=DEFAULT_SAMPLER,
        seed=number,
    )
    text = TextEmbedding(
        tokens=_noise(networks, 1, _TOKENS, config.cross_attention_dim),
        pooled=_noise(networks, 1, _pooled_width(config)),
    )
    return SdxlRow(
        row_id=RowId("measured", number),
        batch_key=BatchKey(height, width, info.revision),
        request=request,
        seed=number,
        schedule=Schedules(components.scheduler_config).get(request.sampler, request.steps),
        text=text,
        negative=text if guided else None,
        time_ids=_time_ids(networks, components, height, width),
        controls=(),
        guidance=Guidance(request.guidance_scale),
        generator=torch.Generator("cpu").manual_seed(number),
        latents=_noise(networks, 1, config.in_channels, height, width),
    )


def _time_ids(networks: Networks, components: Components, height: int, width: int) -> torch.Tensor:
    factor = components.info.latent_factor
    return time_ids(width=width * factor, height=height * factor, device=networks.device, dtype=networks.dtype)


def _pooled_width(config: Any) -> int:
    """Return the width of the pooled embedding: the added embedding's input without the six time ids."""
    return int(config.projection_class_embeddings_input_dim) - 6 * int(config.addition_time_embed_dim)


def _noise(networks: Networks, *shape: int) -> torch.Tensor:
    return draw_noise(_seeded(), shape).to(networks.device, networks.dtype)


def _seeded() -> torch.Generator:
    return torch.Generator("cpu").manual_seed(0)


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type} {_processor()}, {torch.get_num_threads()} threads"[:200]


def _processor() -> str:
    """Return the processor's model from Linux's /proc, because Python reports only the architecture."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
