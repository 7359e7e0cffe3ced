"""The report of `make bench-gpu`, with what others published beside it."""

from __future__ import annotations

from typing import Any

PUBLISHED = (
    ("SDXL 1024x1024, 20 Euler steps, no ControlNet, fp8 TensorRT, offline, per H200; H100; L40S",
     "0.46; 0.49; 1.45", "MLPerf Inference v4.1 result logs (2.18, 2.04, 0.69 images/s)"),
    ("SDXL, A100, 30 steps, batch 1: fp32; bf16; SDPA; compiled; fused QKV; int8",
     "7.36; 4.63; 3.32; 2.54; 2.52; 2.43", "PyTorch, Diffusion Fast"),
    ("SDXL, A100, 50 steps, fp16: SDPA; xformers; compiled; channels-last; TensorRT",
     "5.93; 5.72; 5.25; 5.13; 4.10", "fal-ai/stable-diffusion-benchmarks"),
    ("RTX 3090, 1024x1024: 20; 25; 30 steps", "about 4; 6; 8", "the deployment guide that this engine follows"),
)  # fmt: skip
"""What, seconds an image, where."""

SMOKE = (
    "**A smoke run on the tiny model: it shows that the script runs. No figure below is a measurement of anything.**"
)


def page(figures: dict[str, Any]) -> list[str]:
    """Lines of Markdown."""
    smoke = figures["smoke"]
    model = "the tiny model" if smoke else "SDXL base 1.0 with an OpenPose ControlNet, random weights"
    return [
        "# Bench on a GPU" if not smoke else "# Bench on a GPU: smoke run",
        "",
        *([SMOKE, ""] if smoke else []),
        f"Run at {figures['at']} on {figures['device_name']} ({figures['device']}), torch {figures['torch']}, "
        f"{figures['dtype']}: {model}, {figures['side']} x {figures['side']} pixels, guided, every row with a pose of "
        "its own. Ours is the whole engine (three lanes, PNG); the pipeline is diffusers' "
        "`StableDiffusionXLControlNetPipeline`, called with the batch, its transformer blocks compiled by the same "
        "backend where ours are, its PNG counted too. Both load the same folders.",
        "",
        *_ways(figures["ways"]),
        "",
        *_runs(figures),
        "",
        *_gaps(figures),
        "",
        *_parity(figures["parity"]),
        "",
        "## Published figures",
        "",
        "By others, not measured here, and without a ControlNet, which makes each step longer:",
        "",
        "| what | seconds an image | source |",
        "|---|---|---|",
        *(f"| {what} | {seconds} | {source} |" for what, seconds, source in PUBLISHED),
    ]


def _ways(ways: list[dict[str, Any]]) -> list[str]:
    seconds = {one["way"]: seconds_an_image(one) for one in ways}
    return [
        "## Exact and cheaper pictures",
        "",
        f"Ours, eager, {ways[0]['batch']} rows, {ways[0]['steps']} steps where nothing else is said, the same requests "
        "each time. Times are of the whole call, decoding and PNG included. The difference is from the exact picture "
        "of the same sampler, or of the first row's. With random weights it says how far the numbers went apart, and "
        "nothing of what a person sees.",
        "",
        "| way | seconds an image | exact over it | PSNR, dB | least |",
        "|---|---|---|---|---|",
        *(
            f"| {one['way']} | {seconds[one['way']]:.3f} | {seconds[one['exact']] / seconds[one['way']]:.2f} "
            f"| {_noise(one, 'psnr')} | {_noise(one, 'psnr_min')} |"
            for one in ways
        ),
    ]


def _noise(one: dict[str, Any], name: str) -> str:
    return "-" if one["way"] == one["exact"] else f"{one[name]:.1f}"


def _runs(figures: dict[str, Any]) -> list[str]:
    by_place = {(run["mode"], run["batch"], run["steps"], run["side"]): run for run in figures["runs"]}
    lines = [
        "## Seconds an image",
        "",
        "GPU time by CUDA events around the whole call, the device idle before and after; by the clock on a CPU. Peak "
        "memory is what torch had allocated, weights included.",
        "",
        "| mode | batch | steps | ours, s | pipeline, s | ratio | ours, GiB | pipeline, GiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for mode, batch, steps in dict.fromkeys(place[:3] for place in by_place):
        if not all((mode, batch, steps, side) in by_place for side in ("ours", "pipeline")):
            continue  # the time was up between the two, and the page says what was left out
        ours, theirs = (by_place[mode, batch, steps, side] for side in ("ours", "pipeline"))
        our_s, their_s = seconds_an_image(ours), seconds_an_image(theirs)
        lines.append(
            f"| {mode} | {batch} | {steps} | {our_s:.3f} | {their_s:.3f} | {their_s / our_s:.2f} | "
            f"{_gib(ours)} | {_gib(theirs)} |"
        )
    if figures["left_out"]:
        lines += ["", f"Left out, because the time was up: {'; '.join(figures['left_out'])}."]
    return lines


def seconds_an_image(run: dict[str, Any]) -> float:
    """By the GPU's own events where there were any."""
    seconds: float = run["seconds"] if run["gpu_seconds"] is None else run["gpu_seconds"]
    return seconds / int(run["batch"])


def _gib(run: dict[str, Any]) -> str:
    return "-" if run["peak_bytes"] is None else f"{run['peak_bytes'] / 2**30:.1f}"


def _gaps(figures: dict[str, Any]) -> list[str]:
    rows = [one for one in figures["gaps"] if one["busy_share"] is not None]
    if not rows:
        return ["## Idle gaps", "", "Not measured: there was no GPU to be idle."]
    return [
        "## Idle gaps",
        "",
        "From a profiler's trace of all kernels of a short run, from the first kernel to the last; profiling itself "
        "makes gaps longer.",
        "",
        "| side | mode | batch | GPU busy | idle, ms a step | longest gap, ms |",
        "|---|---|---|---|---|---|",
        *(
            f"| {one['side']} | {one['mode']} | {one['batch']} | {one['busy_share']:.1%} | "
            f"{one['idle_ms_a_step']:.2f} | {one['longest_ms']:.2f} |"
            for one in rows
        ),
    ]


def _parity(parity: dict[str, Any]) -> list[str]:
    verdict = "kept" if parity["kept"] else "NOT KEPT"
    return [
        "## Parity",
        "",
        f"Latents after {parity['steps']} steps, two rows that shared them against one pipeline call each: relative "
        f"root mean square {parity['relative_rms']:.2g}, tolerance {parity['tolerance']:.2g}: {verdict}. Latents of "
        f"another request are at {parity['other']:.2g}.",
    ]
