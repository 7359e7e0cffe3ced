"""Our engine beside diffusers' pipeline, offline, on the tiny model: one torch thread on one core, ratios in one run.

The whole process is kept on one core: our lanes are three threads, and a second core would let them win by it. So CPU
seconds are what a quiet machine's clock would show, and a ratio is of those; the clock's own ratio stands beside it.
Who is compared takes turns, A B B A, and a ratio is the median over the turns.

Alone, without Kafka and S3: `python -m tests.bench.engine`, which prints the report's section.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from darkroom.inference.contract import Device
    from tests.bench.contenders import OurEngine, Pipeline, Took

ROWS = (1, 2, 4, 8, 16)
CURVE_SIDES = ((64, 12), (128, 8), (192, 4), (256, 3))
"""Pixels and steps of each curve: fewer steps where a step takes long."""
MIXED = ((64, 64, 1), (128, 32, 1))
"""Pixels, requests and turns. Many requests, so that the end, where the last rows are few, weighs little."""
ALONE = 3
"""Calls of the pipeline with one request, beside each point of a curve."""


def engine(*, quick: bool) -> dict[str, Any]:
    """All figures, measured in a process of its own: torch reads its number of threads when it is loaded."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.bench.engine", "--json", *(["--quick"] if quick else [])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(quick: bool) -> dict[str, Any]:
    import torch

    from darkroom.inference.sdxl import SdxlDevice
    from darkroom.inference.tiny import ensure_tiny_model
    from tests.bench import language
    from tests.bench.contenders import OurEngine, Pipeline
    from tests.bench.overhead import overhead

    torch.set_num_threads(1)
    os.sched_setaffinity(0, {_calmest_core()})
    model = ensure_tiny_model()

    def make_device() -> Device[Any]:
        return SdxlDevice(model.path, model.controlnet_path, device="cpu", cpu_threads=1)

    ours, theirs = OurEngine(make_device(), rows_max=max(ROWS)), Pipeline(model)
    turns = 1 if quick else 2
    try:
        return {
            "equal": [_equal(ours, theirs, side, posed, turns) for side in (64, 128) for posed in (True, False)],
            "mixed": [_mixed(ours, theirs, *size) for size in (MIXED[1:] if quick else MIXED)],
            "curves": [_curve(ours, theirs, *size) for size in (CURVE_SIDES[:1] if quick else CURVE_SIDES)],
            "overhead": [overhead(make_device, side, 20) for side in (64, 128)],
            "language": language.measure(model, language.SIDES[:1] if quick else language.SIDES),
        }
    finally:
        ours.close()


def _equal(ours: OurEngine, theirs: Pipeline, side: int, posed: bool, turns: int) -> dict[str, Any]:
    """Requests of equal settings, in batches of eight on both sides."""
    from tests.bench.offline import BATCH, in_batches, requests

    def load() -> Any:
        return requests([20] * 2 * BATCH, side, posed=posed)

    _warm(ours, theirs, side, posed)
    took = _in_turns(turns, lambda: _timed(ours.paint, load(), BATCH), lambda: _timed(theirs.paint, in_batches(load())))
    return {"side": side, "posed": posed, "requests": 2 * BATCH, "steps": 20, **_ratio(*took), **ours.lanes_ms()}


def _mixed(ours: OurEngine, theirs: Pipeline, side: int, number: int, turns: int) -> dict[str, Any]:
    """Requests of 20, 25, 30 and 40 steps: the pipeline in windows of arrival order, and after sorting them all."""
    from tests.bench.offline import BATCH, STEPS, WINDOW, by_steps, in_windows, mixed_steps, requests

    _warm(ours, theirs, side, True)

    def load() -> Any:
        return requests(mixed_steps(number, seed=1), side)

    mine, windows, ordered = _in_turns(
        turns,
        lambda: _timed(ours.paint, load(), BATCH),
        lambda: _timed(theirs.paint, in_windows(load())),
        lambda: _timed(theirs.paint, by_steps(load())),
    )
    return {
        "side": side,
        "requests": number,
        "steps": list(STEPS),
        "window": WINDOW,
        "window_batch_mean": statistics.fmean(len(batch) for batch in in_windows(load())),
        "windows": _ratio(mine, windows),
        "sorted": _ratio(mine, ordered),
    }


def _curve(ours: OurEngine, theirs: Pipeline, side: int, steps: int) -> dict[str, Any]:
    """By rows that may share a step: images a second over the pipeline's, called once a request."""
    _warm(ours, theirs, side, True)
    points = [_point(ours, theirs, side, steps, rows) for rows in ROWS]
    best = max(point["images_per_second"] for point in points)
    cap = next(point["rows"] for point in points if point["images_per_second"] >= 0.95 * best)
    return {"side": side, "steps": steps, "requests": max(ROWS), "points": points, "cap": cap}


def _point(ours: OurEngine, theirs: Pipeline, side: int, steps: int, rows: int) -> dict[str, Any]:
    from tests.bench.offline import in_batches, requests

    number = max(ROWS)
    mine = _timed(ours.paint, requests([steps] * number, side), rows)
    alone = _timed(theirs.paint, in_batches(requests([steps] * ALONE, side), 1))
    return {
        "rows": rows,
        "images_per_second": number / mine.cpu_seconds,
        "pipeline_images_per_second": ALONE / alone.cpu_seconds,
        "ratio": number / mine.cpu_seconds * alone.cpu_seconds / ALONE,
        "clock_ratio": number / mine.seconds * alone.seconds / ALONE,
    }


def _warm(ours: OurEngine, theirs: Pipeline, side: int, posed: bool) -> None:
    from tests.bench.offline import BATCH, requests

    ours.paint(requests([2] * BATCH, side, posed=posed), BATCH)
    theirs.paint([requests([2] * BATCH, side, posed=posed)])


def _calmest_core() -> int:
    """The allowed core that others use least at the moment."""
    busy = psutil.cpu_percent(interval=1.0, percpu=True)
    return min(os.sched_getaffinity(0), key=lambda core: busy[core])


def _timed(call: Callable[..., Any], *arguments: Any) -> Took:
    from tests.bench.contenders import timed

    return timed(call, *arguments)


def _in_turns(turns: int, *runs: Callable[[], Took]) -> list[list[Took]]:
    """What each run took in each turn; every second turn goes backwards."""
    took: list[list[Took]] = [[] for _ in runs]
    for turn in range(turns):
        order = range(len(runs)) if turn % 2 == 0 else reversed(range(len(runs)))
        for place in order:
            took[place].append(runs[place]())
    return took


def _ratio(ours: Sequence[Took], theirs: Sequence[Took]) -> dict[str, Any]:
    """How many times as fast ours is: the median, lowest and highest of the turns."""
    pairs = list(zip(ours, theirs, strict=True))
    ratios = [their.cpu_seconds / our.cpu_seconds for our, their in pairs]
    return {
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "clock_ratio": statistics.median(their.seconds / our.seconds for our, their in pairs),
        "cpu_seconds": statistics.median(our.cpu_seconds for our in ours),
        "pipeline_cpu_seconds": statistics.median(their.cpu_seconds for their in theirs),
    }


def main() -> None:
    from tests.bench import engine_page

    parser = argparse.ArgumentParser(prog="python -m tests.bench.engine", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer turns and the smallest curve")
    parser.add_argument("--json", action="store_true", help="print the figures as one line instead of the section")
    parser.add_argument("--out", type=Path, help="a folder for the plot")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    figures = measure(arguments.quick)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        engine_page.plot(arguments.out, figures)
    print(json.dumps(figures) if arguments.json else "\n".join(engine_page.section(figures)))


if __name__ == "__main__":
    main()
