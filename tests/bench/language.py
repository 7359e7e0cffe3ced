"""What a batch of everything costs: samplers, prompts of several lengths and adapters of rows that share steps.

Three comparisons on one core, ratios of CPU seconds of one run. Eight rows of eight samplers and four lengths of
prompts beside eight `euler` rows, in the denoise lane alone. Mixed arrival over everything beside diffusers' pipeline,
which is called once for each group of requests that it can take together. Rows with adapters beside rows without, and
beside diffusers' pipeline with the same weights fused.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import diffusers
import torch

from darkroom.inference.sdxl import ModelFiles, SdxlDevice
from darkroom.inference.sdxl.denoise.rows import SdxlRow
from darkroom.inference.tiny import TinyModel, ensure_tiny_model
from darkroom.inference.types import AdapterUse, RenderJob, RenderRequest
from darkroom.schemas.events.samplers import SAMPLERS, TWO_CALLS
from tests.bench.contenders import OurEngine, Pipeline, timed
from tests.bench.offline import BATCH, WINDOW, in_batches, requests
from tests.inference import loras

STEPS: Final = 10
MIXED: Final = 32
"""Requests of the mixed arrival."""
SIDES: Final = (64, 128)
PARTS: Final = ("samplers", "adapters", "mixed")
MIXED_TURNS: Final = 2
RANK: Final = 8
ONE_CALL: Final = tuple(sampler for sampler in SAMPLERS if sampler not in TWO_CALLS)
WORDS: Final = "a small red fox in deep blue snow " * 2
"""A chunk of the tiny model's tokens, of which 75 fit, is nearly full with it."""
TURNS: Final = 4


def measure(model: TinyModel, sides: Sequence[int] = SIDES, parts: Sequence[str] = PARTS) -> dict[str, Any]:
    """Return the figures of pictures of these sides, in pixels. The process is on one core, with one torch thread."""
    with tempfile.TemporaryDirectory() as folder:
        write_adapters(Path(folder), model)
        files = ModelFiles(model.path, model.controlnet_path, adapters_path=Path(folder))

        def make_device() -> SdxlDevice:
            return SdxlDevice(lambda: files, device="cpu", cpu_threads=1)

        theirs = Grouping(model, Path(folder))
        figures: dict[str, Any] = {}
        if "samplers" in parts or "adapters" in parts:
            device = make_device()
            device.load()
            if "samplers" in parts:
                figures["samplers"] = [_samplers(device, side) for side in sides]
            if "adapters" in parts:
                figures["adapters"] = [_adapters(device, theirs, side) for side in sides]
            device.close()
        if "mixed" in parts:
            ours = OurEngine(make_device(), rows_max=BATCH)
            figures["mixed"] = [_mixed(ours, theirs, side) for side in sides]
            ours.close()
        return figures


def write_adapters(folder: Path, model: TinyModel) -> None:
    """Write two LoRAs of attention and feed-forward layers for the tiny model: `ink` and `oil`."""
    # The library makes its classes by rules that a type checker cannot follow.
    library: Any = diffusers
    unet = library.UNet2DConditionModel.from_pretrained(model.path / "unet")
    names = loras.transformer_layers(unet, loras.ATTENTION + loras.FEED_FORWARD)
    for seed, name in enumerate(("ink", "oil")):
        layers = loras.Layers({"unet": unet}, seed, 0.3)
        loras.peft_file(folder / f"{name}.safetensors", layers, {"unet": names}, rank=RANK)


# --- Samplers and lengths ------------------------------------------------------------------------------------


def _samplers(device: SdxlDevice, side: int) -> dict[str, Any]:
    """Eight one-call samplers, and with four lengths of prompts, over eight `euler` rows: the denoise lane alone."""
    plain = [replace(one, sampler="euler") for one in requests([STEPS] * BATCH, side, posed=False)]
    lengths = [
        replace(one, prompt_syntax="weighted", prompt=" BREAK ".join([f"{WORDS}{number}"] * (1 + number % 4)))
        for number, one in enumerate(plain)
    ]
    cases = {
        "euler": plain,
        "samplers": _each_sampler(plain),
        "lengths": lengths,
        "both": _each_sampler(lengths),
    }
    took: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(TURNS):
        for name in cases if turn % 2 == 0 else reversed(cases):
            took[name].append(_denoised_s(device, cases[name]))
    return {"side": side, **{f"{name}_ratio": _median_ratio(took[name], took["euler"]) for name in list(cases)[1:]}}


def _each_sampler(load: Sequence[RenderRequest]) -> list[RenderRequest]:
    return [replace(one, sampler=ONE_CALL[number % len(ONE_CALL)]) for number, one in enumerate(load)]


def _denoised_s(device: SdxlDevice, load: Sequence[RenderRequest]) -> float:
    """Return the CPU seconds of all steps of rows that begin and end together."""
    rows: list[SdxlRow] = [
        row for number, one in enumerate(load) for row in device.prepare(RenderJob(f"job-{number}", one)).rows
    ]

    def steps() -> None:
        while rows[0].steps_done < rows[0].steps_total:
            device.step(rows)

    assert len({row.steps_total for row in rows}) == 1
    device.step(rows)
    return timed(steps).cpu_seconds


def _median_ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


# --- Adapters ------------------------------------------------------------------------------------------------


def _adapters(device: SdxlDevice, theirs: Grouping, side: int) -> dict[str, Any]:
    """Rows with adapters over rows without; diffusers with the same weights fused over diffusers without, as CPU."""
    plain = [replace(one, sampler="euler") for one in requests([STEPS] * BATCH, side, posed=False)]
    uses = (AdapterUse("ink", 0.7), AdapterUse("oil", 0.4))
    cases = {
        "none": plain,
        "one": [replace(one, adapters=uses[:1]) for one in plain],
        "two": [replace(one, adapters=uses) for one in plain],
        "sets": [replace(one, adapters=((), uses[:1], uses[1:], uses)[number % 4]) for number, one in enumerate(plain)],
    }
    took: dict[str, list[float]] = {name: [] for name in [*cases, "fused"]}
    for turn in range(TURNS):
        for name in cases if turn % 2 == 0 else reversed(cases):
            took[name].append(_denoised_s(device, cases[name]))
        took["fused"].append(theirs.fused_s(cases["two"]))
    ratios = {f"{name}_ratio": _median_ratio(took[name], took["none"]) for name in list(cases)[1:]}
    return {"side": side, **ratios, "two_over_fused": _median_ratio(took["two"], took["fused"])}


# --- Mixed arrival -------------------------------------------------------------------------------------------


def mixed_language(number: int, side: int, seed: int) -> list[RenderRequest]:
    """Requests that draw each of their settings by itself, the usual value most often, as a shop's customers do."""
    dice = random.Random(seed)

    def usual(first: Any, *others: Any) -> Any:
        return first if dice.random() < 0.5 else dice.choice(others)

    made = []
    for one in requests([0] * number, side):
        posed = dice.random() < 0.3
        made.append(
            replace(
                one,
                steps=usual(20, 25, 30),
                sampler=usual("dpmpp_2m", "euler_ancestral", "euler", "unipc", "ddim", "heun"),
                guidance_scale=usual(5.0, 7.5, 1.0),
                guidance_end=1.0 if posed else usual(1.0, 0.6),
                guidance_rescale=0.0 if posed else usual(0.0, 0.7),
                clip_skip=usual(0, 0, 1),
                prompt_syntax="weighted",
                prompt=" BREAK ".join([f"(dancer:1.2) number {one.seed} {WORDS}"] * usual(1, 2)),
                adapters=usual((), (AdapterUse("ink", 0.7),), (AdapterUse("ink", 0.7), AdapterUse("oil", 0.4))),
                pose=one.pose if posed else None,
            )
        )
    return [replace(one, schedule=None if one.sampler == "ddim" else usual("karras", None)) for one in made]


def _mixed(ours: OurEngine, theirs: Grouping, side: int) -> dict[str, Any]:
    def load(seed: int = 1) -> list[RenderRequest]:
        return mixed_language(MIXED, side, seed)

    ours.paint(load()[:BATCH], BATCH)
    theirs.paint([load()[:1]])
    ratios = []
    for turn in range(MIXED_TURNS):
        ran = {}
        for name in ("ours", "theirs") if turn % 2 == 0 else ("theirs", "ours"):
            ran[name] = timed(ours.paint, load(), BATCH) if name == "ours" else timed(theirs.paint, grouped(load()))
        ratios.append(ran["theirs"].cpu_seconds / ran["ours"].cpu_seconds)
    return {
        "side": side,
        "requests": MIXED,
        "call_mean": statistics.fmean(len(group) for group in grouped(load())),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def grouped(load: Sequence[RenderRequest]) -> list[list[RenderRequest]]:
    """Return what one call of the pipeline can take: equal settings out of each window of arrival order."""
    groups: list[list[RenderRequest]] = []
    for window in in_batches(load, WINDOW):
        alike: dict[str, list[RenderRequest]] = {}
        for one in window:
            key = replace(one, prompt=str(one.prompt.count("BREAK")), seed=0, pose=None)
            alike.setdefault(f"{key!r} {one.pose is None}", []).append(one)
        groups += [batch for group in alike.values() for batch in in_batches(group)]
    return groups


class Grouping(Pipeline):
    """diffusers' pipeline for all of it: its schedulers, LoRAs by `set_adapters`, embeddings made beforehand.

    Guidance ends by the callback of diffusers' guide ("dynamic classifier-free guidance"). LoRAs are loaded once and
    switched where a call's set differs from that of the one before.
    """

    def __init__(self, model: TinyModel, adapters: Path) -> None:
        super().__init__(model)
        self._config: Mapping[str, Any] = self._plain.scheduler.config
        for name in ("ink", "oil"):
            self._plain.load_lora_weights(adapters, weight_name=f"{name}.safetensors", adapter_name=name)
        self._plain.disable_lora()
        self._used: tuple[AdapterUse, ...] = ()

    def fused_s(self, load: Sequence[RenderRequest]) -> float:
        """Return the CPU seconds of the load in one call with its adapters fused, encoding and VAE left out."""
        self._use(load[0].adapters)
        self._plain.fuse_lora()
        try:
            return self._denoised_s(load)
        finally:
            self._plain.unfuse_lora()

    def _denoised_s(self, load: Sequence[RenderRequest]) -> float:
        began: list[float] = []

        def note(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            began.append(time.process_time())
            return values

        self._call(load, output_type="latent", callback_on_step_end=note)
        return (began[-1] - began[0]) / (len(began) - 1) * (STEPS - 1)

    def _use(self, uses: tuple[AdapterUse, ...]) -> None:
        if uses == self._used:
            return
        self._used = uses
        if not uses:
            self._plain.disable_lora()
            return
        self._plain.enable_lora()
        self._plain.set_adapters([use.name for use in uses], [use.weight for use in uses])

    def _call(self, batch: Sequence[RenderRequest], output_type: str = "pil", **more: Any) -> Any:
        from tests.bench.contenders import _opened
        from tests.inference.schedulers import scheduler_of

        first = batch[0]
        self._use(first.adapters)
        pipeline = self._plain if first.pose is None else self._posed
        pipeline.scheduler = scheduler_of(first.sampler, first.schedule, self._config)
        arguments: dict[str, Any] = dict(more)
        if first.pose is not None:
            arguments["image"] = [_opened(request) for request in batch]
        elif first.guidance_rescale:
            arguments["guidance_rescale"] = first.guidance_rescale
        if first.guidance_end < 1 and first.guidance_scale > 1:
            arguments |= _ending(first)
        embedded = [self._encoded(one) for one in batch]
        tokens = torch.cat([one for one, _ in embedded])
        pooled = torch.cat([one for _, one in embedded])
        return pipeline(
            prompt_embeds=tokens,
            pooled_prompt_embeds=pooled,
            negative_prompt_embeds=torch.zeros_like(tokens),
            negative_pooled_prompt_embeds=torch.zeros_like(pooled),
            width=first.width,
            height=first.height,
            num_inference_steps=first.steps,
            guidance_scale=first.guidance_scale,
            generator=[torch.Generator("cpu").manual_seed(request.seed) for request in batch],
            output_type=output_type,
            **arguments,
        )

    def _encoded(self, request: RenderRequest) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode chunk by chunk, as the community's pipelines for weighted prompts do; the weight is left out."""
        chunks = request.prompt.replace("(dancer:1.2)", "dancer").split(" BREAK ")
        made = [
            self._plain.encode_prompt(text, do_classifier_free_guidance=False, clip_skip=request.clip_skip or None)
            for text in chunks
        ]
        return torch.cat([one[0] for one in made], dim=1), made[0][2]


def _ending(request: RenderRequest) -> dict[str, Any]:
    """Return the arguments that end guidance at its fraction of the steps."""

    def after(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if pipeline._guidance_scale > 1 and (step + 2) / pipeline.num_timesteps > request.guidance_end:
            pipeline._guidance_scale = 0.0
            for name in values:
                if name != "latents":
                    values[name] = values[name].chunk(2)[-1]
        return values

    inputs = ["latents", "prompt_embeds", "add_text_embeds", "add_time_ids"]
    return {"callback_on_step_end": after, "callback_on_step_end_tensor_inputs": inputs}


def main() -> None:
    """Print the figures of one size, or of all."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.language", description=__doc__)
    parser.add_argument("--side", type=int, action="append", help="pixels; may be repeated")
    parser.add_argument("--part", choices=PARTS, action="append", help="of the comparisons; may be repeated")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(json.dumps(measure(ensure_tiny_model(), arguments.side or SIDES, arguments.part or PARTS), indent=1))


if __name__ == "__main__":
    main()
