"""Latency under Poisson arrivals at 70% of what one request at a time can carry.

Darkroom, batches of whole requests, and first-come-first-served: first on a virtual clock, with curves of the tiny
model measured in this run at several sizes, and many requests; then for real at the smallest size, one engine thread,
few requests. Everybody has the same arrivals, the same cap and the same device, and prepares and finishes beside the
steps.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from statistics import mean
from typing import Any, Final

from consumer.core.limits import Limits
from consumer.simulate import Arrival, CoreRun, Delays, Run, poisson, simulate
from inference.calibration import measure_shape
from inference.contract import (
    BatchKey,
    EngineEvent,
    JobPrepared,
    JobRendered,
    RenderJob,
    RenderRequest,
    RowId,
    StepDone,
)
from inference.engine import LaneEngine
from inference.profile import DeviceProfile, ProfileKey
from schemas.pose import PeoplePose
from tests.bench.queues import first_come_first_served, request_batches, take_together

LOAD: Final = 0.7
ROWS_MAX: Final = 8
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
WAIT_S: Final = 300.0
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
    from inference.sdxl import SdxlDevice
    from inference.tiny import ensure_tiny_model

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
            ("darkroom", _darkroom(device, profile, load)),
            ("equal", _WholeRequests(device, load, cap, equal_steps=True).run()),
            ("longest", _WholeRequests(device, load, cap, equal_steps=False).run()),
            ("served", _WholeRequests(device, load, 1, equal_steps=True).run()),
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


class _LoadedDevice:
    """The device for one more engine, which is to load and close nothing."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def load(self) -> None:
        pass

    def close(self) -> None:
        pass


class _RealClock:
    """Calls in their time on one thread, where engine events are taken too."""

    def __init__(self) -> None:
        self._calls: list[tuple[float, int, Any]] = []
        self._asked = count()
        self.events: queue.SimpleQueue[EngineEvent] = queue.SimpleQueue()

    def now(self) -> float:
        return time.perf_counter()

    def later(self, seconds: float, call: Any) -> None:
        heappush(self._calls, (self.now() + seconds, next(self._asked), call))

    def run(self, run: CoreRun) -> None:
        until = self.now() + WAIT_S
        while run.unfinished:
            if self.now() > until:
                raise TimeoutError(f"{run.unfinished} requests were not answered within {WAIT_S:.0f} s")
            while self._calls and self._calls[0][0] <= self.now():
                heappop(self._calls)[2]()
            wait_s = 0.1 if not self._calls else max(0.0, min(0.1, self._calls[0][0] - self.now()))
            try:
                _tell(run, self.events.get(timeout=wait_s) if wait_s else self.events.get_nowait())
            except queue.Empty:
                continue


def _tell(run: CoreRun, event: EngineEvent) -> None:
    match event:
        case JobPrepared():
            run.prepared(event.job_id, event.batch_key, event.cap)
        case StepDone(retired=retired) if retired:
            run.boundary(retired)
        case JobRendered():
            run.rendered(event.job_id)


class _EngineSide:
    def __init__(self, engine: LaneEngine[Any]) -> None:
        self._engine = engine

    def prepare(self, job_id: str, request: RenderRequest, key: BatchKey) -> None:
        self._engine.prepare(RenderJob(job_id, request))

    def admit(self, rows: Sequence[RowId]) -> None:
        self._engine.admit(rows)


def _darkroom(device: Any, profile: DeviceProfile, load: Sequence[Arrival]) -> Run:
    engine: LaneEngine[Any] = LaneEngine(_LoadedDevice(device), rows_max=ROWS_MAX, calibration=lambda _: profile)
    clock = _RealClock()
    run = CoreRun(load, clock, Limits(batch_rows_max=ROWS_MAX), Delays())
    run.device = _EngineSide(engine)
    engine.start(clock.events.put)
    try:
        _warm_lanes(engine, clock.events, load[0])
        run.begin()
        clock.run(run)
    finally:
        engine.close()
    return Run(run.latencies_s)


def _warm_batches(first: Arrival) -> Iterator[list[RenderJob]]:
    """Batches of every size, two steps each. The library keeps what it sets up for a shape by thread, so whoever is
    measured has been there before, on its own threads."""
    for rows in range(1, ROWS_MAX + 1):
        request = replace(first.request, steps=2)
        yield [RenderJob(f"warm-{rows}-{number}", request) for number in range(rows)]


def _warm_lanes(engine: LaneEngine[Any], events: queue.SimpleQueue[EngineEvent], first: Arrival) -> None:
    for jobs in _warm_batches(first):
        left = {JobPrepared: len(jobs), JobRendered: len(jobs)}
        for job in jobs:
            engine.prepare(job)
        while left[JobRendered]:
            event = events.get(timeout=WAIT_S)
            if isinstance(event, JobPrepared | JobRendered):
                left[type(event)] -= 1
                if isinstance(event, JobPrepared) and not left[JobPrepared]:
                    engine.admit([RowId(job.job_id, 0) for job in jobs])


class _WholeRequests:
    """Batches of up to `cap` whole requests in real time; prepared and finished on threads of their own, as ours."""

    def __init__(self, device: Any, load: Sequence[Arrival], cap: int, *, equal_steps: bool) -> None:
        self._device = device
        self._load = load
        self._cap = cap
        self._equal_steps = equal_steps
        self._latencies_s = [0.0] * len(load)
        self._began = 0.0
        self._warm = threading.Event()
        self._go = threading.Event()
        self._rows: dict[int, Any] = {}
        self._waiting: list[int] = []
        self._some_waits = threading.Condition()
        self._to_finish: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()

    def run(self) -> Run:
        lanes = [threading.Thread(target=lane, daemon=True) for lane in (self._prepare, self._finish)]
        for lane in lanes:
            lane.start()
        for jobs in _warm_batches(self._load[0]):
            self._denoise([(-1, self._device.prepare(job).rows[0]) for job in jobs])
        if not self._warm.wait(WAIT_S):
            raise TimeoutError("the warm-up was not finished")
        self._began = time.perf_counter()
        self._go.set()
        left = len(self._load)
        while left:
            batch = self._take()
            self._denoise([(one, self._rows.pop(one)) for one in batch])
            left -= len(batch)
        self._to_finish.put(None)
        for lane in lanes:
            lane.join(WAIT_S)
        return Run(self._latencies_s)

    def _take(self) -> list[int]:
        with self._some_waits:
            if not self._some_waits.wait_for(lambda: self._waiting, WAIT_S):
                raise TimeoutError("no request was prepared")
            batch = take_together(self._waiting, self._load, self._cap, equal_steps=self._equal_steps)
            self._waiting = [one for one in self._waiting if one not in batch]
        return batch

    def _denoise(self, batch: list[tuple[int, Any]]) -> None:
        """To the end of its longest; pictures leave together."""
        while going := [row for _, row in batch if row.steps_done < row.steps_total]:
            self._device.step(going)
        for one in batch:
            self._to_finish.put(one)

    def _prepare(self) -> None:
        self._go.wait(WAIT_S)
        for number, arrival in enumerate(self._load):
            time.sleep(max(0.0, self._began + arrival.at_s - time.perf_counter()))
            [row] = self._device.prepare(RenderJob(str(number), arrival.request)).rows
            with self._some_waits:
                self._rows[number] = row
                self._waiting.append(number)
                self._some_waits.notify()

    def _finish(self) -> None:
        warm = ROWS_MAX * (ROWS_MAX + 1) // 2
        while (finished := self._to_finish.get()) is not None:
            number, row = finished
            self._device.finish([row])
            if number < 0:
                warm -= 1
                if not warm:
                    self._warm.set()
                continue
            self._latencies_s[number] = time.perf_counter() - self._began - self._load[number].at_s


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
