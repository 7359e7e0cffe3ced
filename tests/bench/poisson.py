"""Latency under Poisson arrivals at 70% of what one request at a time can carry.

Darkroom, batches of whole requests, and first-come-first-served: first on a virtual clock, with curves of the tiny
model measured in this run at several sizes, and many requests; then for real at the smallest size, one engine thread,
few requests. Everybody has the same arrivals, the same cap and the same device, and prepares and finishes beside the
steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Final

from darkroom.consumer.core.limits import Limits
from darkroom.inference.planning.calibration import measure_shape
from darkroom.inference.planning.profile import DeviceProfile, ProfileKey
from darkroom.inference.types import BatchKey, RenderJob, RenderRequest
from darkroom.schemas.events.pose import PeoplePose
from tests.bench.one_worker import Run, poisson, simulate
from tests.bench.queues import first_come_first_served, request_batches
from tests.bench.real_time import ROWS_MAX, WholeRequests, darkroom

LOAD: Final = 0.7
MIXED_STEPS: Final = (20, 25, 30, 40)
REAL_STEPS: Final = (8, 10, 12, 16)
"""The same mixture, shorter, so that enough requests fit into half a minute."""
REAL_ROUNDS: Final = 3
"""In each of them every policy runs once, so that a busy stretch of the machine meets all of them alike."""
REAL_REQUESTS: Final = (10, 40)
"""Of a round: the fewest and the most."""
REAL_ROUND_S: Final = 12.0
"""What the arrivals of a round take, as far as those bounds allow."""
PIXELS: Final = (64, 128, 256, 512)
LARGE_ROWS_MAX: Final = 4
"""From 512 pixels on, where a step takes a second: nothing is gained by more."""
PERSON: Final = tuple((0.3 + 0.02 * point, 0.05 * point) for point in range(18))


@dataclass(frozen=True, slots=True)
class Figure:
    """What came of one size."""

    pixels: int
    cap: int
    requests: int
    alone_s: float
    """The device's mean time for one request alone."""
    darkroom_p95_s: float
    request_batches_p95_s: float
    """Of the better one of its two ways: with requests of equal steps only, or with any until the longest is done."""
    first_come_p95_s: float
    over_request_batches: float
    over_first_come: float


def latencies_under_load(seed: int, scale: int = 1) -> dict[str, Any]:
    """Every figure, as JSON takes it. `scale` divides the numbers of requests."""
    with _tiny_device() as device:
        profile = _measured(device)
        virtual = [_virtual(profile, device.info, pixels, seed, 400 // scale) for pixels in PIXELS]
        real = _real(device, profile, seed, scale)
    return {
        "load": LOAD,
        "rows_max": ROWS_MAX,
        "curves": [_curve(profile, pixels) for pixels in PIXELS],
        "virtual": [asdict(one) for one in virtual],
        "real": asdict(real),
    }


@contextmanager
def _tiny_device() -> Iterator[Any]:
    from darkroom.inference.sdxl import SdxlDevice
    from darkroom.inference.tiny import ensure_tiny_model

    tiny = ensure_tiny_model()
    device = SdxlDevice(tiny.path, tiny.controlnet_path, device="cpu", cpu_threads=1)
    device.load()
    try:
        yield device
    finally:
        device.close()


def _measured(device: Any) -> DeviceProfile:
    shapes = tuple(
        measure_shape(device, pixels // 8, pixels // 8, rows_max=LARGE_ROWS_MAX if pixels >= 512 else ROWS_MAX)
        for pixels in PIXELS
    )
    return DeviceProfile(ProfileKey.of(device.info, device.measured_on()), shapes)


def _curve(profile: DeviceProfile, pixels: int) -> dict[str, Any]:
    side = pixels // 8
    shape = profile.measured(side, side)
    assert shape is not None
    rows = [slots // 2 for slots, _ in shape.unet.points if slots > 1]
    alone = profile.rows_per_second(side, side, 1)
    return {
        "pixels": pixels,
        "cap": profile.cap(side, side, rows_max=ROWS_MAX),
        "gain_by_rows": {one: profile.rows_per_second(side, side, one) / alone for one in rows},
        "step_ms_alone": 1000 / alone,
    }


def _request(pixels: int) -> RenderRequest:
    return RenderRequest(
        prompt="a figure",
        negative_prompt=None,
        width=pixels,
        height=pixels,
        steps=MIXED_STEPS[0],
        guidance_scale=5.0,
        sampler="euler_ancestral",
        seed=0,
        pose=PeoplePose(people=(PERSON,)),
    )


def _figure(
    pixels: int, cap: int, alone_s: float, darkroom: list[Run], batches: list[list[Run]], served: list[Run]
) -> Figure:
    p95 = {name: _p95(runs) for name, runs in (("darkroom", darkroom), ("served", served))}
    batched = min(_p95(runs) for runs in batches)
    return Figure(
        pixels=pixels,
        cap=cap,
        requests=sum(len(run.latencies_s) for run in darkroom),
        alone_s=alone_s,
        darkroom_p95_s=p95["darkroom"],
        request_batches_p95_s=batched,
        first_come_p95_s=p95["served"],
        over_request_batches=p95["darkroom"] / batched,
        over_first_come=p95["darkroom"] / p95["served"],
    )


def _p95(runs: Sequence[Run]) -> float:
    return mean(run.latency_s(0.95) for run in runs)


# --- On a virtual clock ----------------------------------------------------------------------------------------


def _virtual(profile: DeviceProfile, info: Any, pixels: int, seed: int, requests: int) -> Figure:
    side = pixels // 8
    key = BatchKey(side, side, info.revision)
    cap = profile.cap(side, side, rows_max=ROWS_MAX)
    alone_s = mean(MIXED_STEPS) * profile.step_ms(side, side, unet_slots=2, control_slots=2) / 1000
    loads = [
        list(poisson(_request(pixels), key, per_second=LOAD / alone_s, count=requests, seed=one, steps=MIXED_STEPS))
        for one in range(seed, seed + 8)
    ]
    return _figure(
        pixels,
        cap,
        alone_s,
        [simulate(profile, load, Limits(batch_rows_max=ROWS_MAX)) for load in loads],
        [[request_batches(profile, load, cap=cap, equal_steps=equal) for load in loads] for equal in (True, False)],
        [first_come_first_served(profile, load) for load in loads],
    )


# --- For real ----------------------------------------------------------------------------------------------------


def _real(device: Any, profile: DeviceProfile, seed: int, scale: int) -> Figure:
    pixels = PIXELS[0]
    side = pixels // 8
    key = BatchKey(side, side, device.info.revision)
    cap = profile.cap(side, side, rows_max=ROWS_MAX)
    request = _request(pixels)
    alone_s = mean(REAL_STEPS) * _seconds_a_step(device, request)
    per_second = LOAD / alone_s
    fewest, most = REAL_REQUESTS
    requests = max(fewest, min(most, int(per_second * REAL_ROUND_S))) // scale
    runs: dict[str, Run] = {name: Run([]) for name in ("darkroom", "equal", "longest", "served")}
    for turn in range(REAL_ROUNDS):
        arrivals = poisson(request, key, per_second=per_second, count=requests, seed=seed + turn, steps=REAL_STEPS)
        load = list(arrivals)
        for name, run in (
            ("darkroom", darkroom(device, profile, load)),
            ("equal", WholeRequests(device, load, cap, equal_steps=True).run()),
            ("longest", WholeRequests(device, load, cap, equal_steps=False).run()),
            ("served", WholeRequests(device, load, 1, equal_steps=True).run()),
        ):
            runs[name].latencies_s += run.latencies_s
    return _figure(pixels, cap, alone_s, [runs["darkroom"]], [[runs["equal"]], [runs["longest"]]], [runs["served"]])


def _seconds_a_step(device: Any, request: RenderRequest) -> float:
    """Of one request alone, the mean over a whole request after a first one."""
    for _ in range(2):
        [row] = device.prepare(RenderJob("alone", request)).rows
        began = time.perf_counter()
        while row.steps_done < row.steps_total:
            device.step([row])
        seconds = time.perf_counter() - began
        device.finish([row])
    return seconds / request.steps


# --- In the report -------------------------------------------------------------------------------------------------


def section(figures: dict[str, Any]) -> list[str]:
    """Lines of Markdown: one table of both runs, and the plot."""
    lines = [_line("virtual clock", one) for one in figures["virtual"]]
    return [
        f"## Poisson arrivals at {figures['load']:.0%} load",
        "",
        "The load is that share of what one request at a time can carry. p95 in units of one request's time alone; "
        "request-level batching has the same cap and the better of its two ways (equal steps only, or any until the "
        "longest is done). Goals: at most 0.8 of it where the curve gains, at most 1 of first-come-first-served where "
        "the cap is 1.",
        "",
        "| size | run | cap | requests | Darkroom | request-level | first come | Darkroom over them | |",
        "|---|---|---|---|---|---|---|---|---|",
        *lines,
        _line("real time", figures["real"]),
        "",
        "![Latency under load](poisson.png)",
        "",
    ]


def _line(run: str, one: dict[str, Any]) -> str:
    names = ("darkroom_p95_s", "request_batches_p95_s", "first_come_p95_s")
    latencies = " | ".join(f"{one[name] / one['alone_s']:.2f}" for name in names)
    ratios = f"{one['over_request_batches']:.2f} | {one['over_first_come']:.2f}"
    return f"| {one['pixels']} px | {run} | {one['cap']} | {one['requests']} | {latencies} | {ratios} |"


def plot(out: Path, figures: dict[str, Any]) -> None:
    """`poisson.png`: the measured curves, and p95 by size and policy."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for curve in figures["curves"]:
        rows = [int(one) for one in curve["gain_by_rows"]]
        left.plot(
            rows, list(curve["gain_by_rows"].values()), marker="o", label=f"{curve['pixels']} px, cap {curve['cap']}"
        )
    left.set_xlabel("rows that share a step")
    left.set_ylabel("throughput, one row = 1")
    left.set_ylim(bottom=0)
    left.legend()
    bars = [*figures["virtual"], figures["real"]]
    names = [*(f"{one['pixels']} px" for one in figures["virtual"]), f"{figures['real']['pixels']} px,\nreal time"]
    policies = [
        ("Darkroom", "darkroom_p95_s", "#2b6cb0"),
        ("request-level batches", "request_batches_p95_s", "#a0aec0"),
        ("first come, first served", "first_come_p95_s", "#dd8a3c"),
    ]
    for place, (label, name, color) in enumerate(policies):
        at = [position + (place - 1) * 0.27 for position in range(len(bars))]
        right.bar(at, [one[name] / one["alone_s"] for one in bars], width=0.25, label=label, color=color)
    right.set_xticks(range(len(bars)), names)
    right.set_ylabel("p95 latency, one request alone = 1")
    # Above the bars, which fill the rest.
    right.set_ylim(top=1.35 * max(one[name] / one["alone_s"] for one in bars for _, name, _ in policies))
    right.legend()
    figure.savefig(out / "poisson.png", dpi=120)
    plt.close(figure)
