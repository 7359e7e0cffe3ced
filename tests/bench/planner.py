"""Does `darkroom plan` tell the truth? A real small fleet under a load, and the planner's simulation of the same load.

Two workers (`darkroom serve --simulated-device`, a curve that gains), a real Kafka and S3: a backlog that comes at
once, then Poisson arrivals at 70% of what they can carry. The simulation has the same arrivals, at the same times, in
the same partitions, held by the same workers. What a step really takes on this machine, where a sleep ends late while
others compute, and what everything beside the device takes (store, transactions), is measured with single requests
before, as a calibration would.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from darkroom.consumer.core.limits import Limits
from darkroom.consumer.planner.figures import quantile
from darkroom.consumer.planner.fleet import Fleet as PlannedFleet
from darkroom.consumer.planner.fleet import Spec
from darkroom.consumer.planner.gpus import profile_of_curve
from darkroom.consumer.planner.load import DEFAULT_MIX, arrivals_at
from darkroom.consumer.planner.search import device_seconds
from darkroom.consumer.planner.topic import Delays
from darkroom.producer.client.client import Client
from darkroom.schemas.events.request import GenerationRequest
from tests.integration.fleet import Fleet, until

CURVE: Final = {1: 60.0, 2: 72.0, 4: 102.0, 8: 180.0}
"""Milliseconds a step by rows: the tiny model's gain at 128 pixels, and a picture takes some seconds, as on a GPU."""
REQUESTS: Final = 100
"""Of each load: half a minute or more of work for the two."""
WORKERS: Final = 2
ROWS_MAX: Final = 8
LOAD: Final = 0.7
ALONE_STEPS: Final = (10, 60)
"""Of single requests, one after the other: two lengths tell a step's time from all that is beside the steps."""
ALONE: Final = 6
"""Of each; the first of each warms connections up."""
LIMIT_S: Final = 180.0
GOAL: Final = 0.15


@dataclass(frozen=True, slots=True)
class Compared:
    """One load: what came of it, and what was foretold."""

    load: str
    requests: int
    measured: dict[str, float]
    planned: dict[str, float]

    @property
    def worst(self) -> float:
        """The largest difference, as a share of what was measured."""
        return max(abs(self.planned[name] / self.measured[name] - 1) for name in self.measured)


@dataclass(frozen=True, slots=True)
class Seen:
    """A request of the real run."""

    sent_at: float
    steps: int
    partition: int
    worker: int
    published_at: float


async def plan_against_fleet(environment: Mapping[str, str], folder: Path, seed: int, scale: int = 1) -> dict[str, Any]:
    """Both loads, as JSON takes them. `scale` divides the numbers of requests."""
    curve = folder / "curve.json"
    curve.write_text(json.dumps(CURVE))
    fleet = Fleet(environment, folder, DARKROOM_BATCH__MAX_ROWS=str(ROWS_MAX))
    await fleet.make_topics()
    rate = LOAD * WORKERS / device_seconds(profile_of_curve(CURVE), DEFAULT_MIX, ROWS_MAX)
    rng = random.Random(seed)
    try:
        for _ in range(WORKERS):
            fleet.start("--simulated-curve", str(curve))
        await until(lambda: all(one.is_ready() for one in fleet.workers), LIMIT_S, "the workers to be ready")
        await until(lambda: sum(len(own) for own in _assigned(fleet)) == 12, LIMIT_S, "all partitions to be assigned")
        late_ms, delays = _alone(await _serve(fleet, [*ALONE_STEPS] * ALONE, one_by_one=True))
        backlog = await _serve(fleet, [rng.choice((20, 25, 30, 40)) for _ in range(REQUESTS // scale)])
        times: list[float] = []
        for _ in range(REQUESTS // scale):
            times.append((times[-1] if times else 0.0) + rng.expovariate(rate))
        poisson = await _serve(fleet, [rng.choice((20, 25, 30, 40)) for _ in times], times)
    finally:
        fleet.stop()
    taken = {rows: ms + late_ms for rows, ms in CURVE.items()}
    compared = [_compared(name, seen, taken, delays) for name, seen in (("backlog", backlog), ("Poisson", poisson))]
    return {
        "curve": {str(rows): ms for rows, ms in CURVE.items()},
        "workers": WORKERS,
        "load": LOAD,
        "goal": GOAL,
        "late_ms": late_ms,
        "delays": asdict(delays),
        "compared": [asdict(one) | {"worst": one.worst} for one in compared],
    }


async def _serve(
    fleet: Fleet, steps: Sequence[int], times: Sequence[float] = (), *, one_by_one: bool = False
) -> list[Seen]:
    """Send requests: at once, at `times`, or each after the answer to the one before. Waits for all answers."""
    serial = random.randbytes(4).hex()
    requests = [
        GenerationRequest(request_id=f"{serial}-{number}", prompt="a figure", steps=one, guidance_scale=5.0)
        for number, one in enumerate(steps)
    ]
    sent: dict[str, float] = {}
    async with Client(fleet.settings, follow=False) as client:
        began = time.time()
        if times or one_by_one:
            for number, request in enumerate(requests):
                await asyncio.sleep(max(0.0, began + (times[number] if times else 0.0) - time.time()))
                sent[request.request_id] = time.time()
                await client.send(request)
                if one_by_one:
                    await until(_answered(fleet, serial, number + 1), LIMIT_S, "an answer")
        else:
            sent = {request.request_id: time.time() for request in requests}
            await client.send(requests)
        # Seldom: looking takes a processor's time from the workers.
        async with asyncio.timeout(LIMIT_S):
            while not _answered(fleet, serial, len(requests))():
                await asyncio.sleep(2.0)
    seen = []
    for worker, process in enumerate(fleet.workers):
        for entry in process.events("published"):
            if entry["request_id"] in sent:
                number = int(entry["request_id"].rpartition("-")[2])
                partition = int(entry["source"].split("-")[-2])
                published_at = datetime.fromisoformat(entry["timestamp"]).timestamp()
                seen.append(Seen(sent[entry["request_id"]], steps[number], partition, worker, published_at))
    return sorted(seen, key=lambda one: one.sent_at)


def _answered(fleet: Fleet, serial: str, count: int) -> Callable[[], bool]:
    def are() -> bool:
        published: list[str] = [entry["request_id"] for one in fleet.workers for entry in one.events("published")]
        return sum(request_id.startswith(serial) for request_id in published) >= count

    return are


def _assigned(fleet: Fleet) -> list[list[int]]:
    lasts = [one.events("partitions assigned")[-1:] for one in fleet.workers]
    return [last[0]["partitions"] if last else [] for last in lasts]


def _alone(seen: Sequence[Seen]) -> tuple[float, Delays]:
    """How late a step ends, in milliseconds, and what a single request takes beside its steps, laid on the calls that
    it makes: a look-up, two transactions, preparing, and three puts.
    """
    short, long = (
        median([one.published_at - one.sent_at for one in seen if one.steps == steps][1:]) for steps in ALONE_STEPS
    )
    step_s = max(CURVE[1] / 1000, (long - short) / (ALONE_STEPS[1] - ALONE_STEPS[0]))
    beside = max(0.0, short - ALONE_STEPS[0] * step_s)
    delays = Delays(look_up_s=0.1 * beside, commit_s=0.25 * beside, prepare_s=0.1 * beside, settle_s=0.3 * beside)
    return 1000 * step_s - CURVE[1], delays


def _compared(load: str, seen: Sequence[Seen], curve: Mapping[int, float], delays: Delays) -> Compared:
    first = seen[0].sent_at
    measured = _figures([one.published_at - one.sent_at for one in seen], max(one.published_at for one in seen) - first)
    template = arrivals_at([0.0], DEFAULT_MIX, 1)[0]
    bare = replace(template.request, pose=None)
    arrivals = [replace(template, at_s=one.sent_at - first, request=replace(bare, steps=one.steps)) for one in seen]
    spec = Spec(
        profile_of_curve(curve), 12, WORKERS, limits=Limits(batch_rows_max=ROWS_MAX), delays=delays, rebalance_s=0.0
    )
    run = PlannedFleet(spec, arrivals, _as_planned(seen)).run()
    return Compared(load, len(seen), measured, _figures(run.latencies_s, run.last_answer_s))


def _as_planned(seen: Sequence[Seen]) -> list[int]:
    """The partitions under the numbers that the simulated workers hold: the first one's from 0, the other's after."""
    numbers: dict[tuple[int, int], int] = {}
    free = [iter(range(6 * worker, 6 * worker + 6)) for worker in range(WORKERS)]
    for worker, partition in sorted({(one.worker, one.partition) for one in seen}):
        numbers[worker, partition] = next(free[worker])
    return [numbers[one.worker, one.partition] for one in seen]


def _figures(latencies_s: Sequence[float], lasted_s: float) -> dict[str, float]:
    return {
        "per_second": len(latencies_s) / lasted_s,
        "p50_s": quantile(latencies_s, 0.5),
        "p95_s": quantile(latencies_s, 0.95),
    }


def section(figures: dict[str, Any]) -> list[str]:
    """Lines of Markdown."""
    lines = []
    for one in figures["compared"]:
        pairs = [(one["measured"][name], one["planned"][name]) for name in one["measured"]]
        cells = " | ".join(f"{real:.2f}, {planned:.2f} ({planned / real:.2f})" for real, planned in pairs)
        lines.append(f"| {one['load']} | {one['requests']} | {cells} | {one['worst']:.1%} |")
    beside_ms = 1000 * sum(figures["delays"].values()) + 1000 * figures["delays"]["commit_s"]
    return [
        "## The planner against a real fleet",
        "",
        f"{figures['workers']} workers whose simulated devices take {figures['curve']} ms a step by rows, and "
        f"`darkroom plan`'s simulation of the same arrivals; a single request takes {beside_ms:.0f} ms beside "
        f"its steps, each of which ends {figures['late_ms']:.1f} ms late here. "
        "Measured, planned (and planned over measured); the goal is a difference of at "
        f"most {figures['goal']:.0%}.",
        "",
        "| load | requests | requests/s | p50 s | p95 s | largest difference |",
        "|---|---|---|---|---|---|",
        *lines,
        "",
    ]


def main() -> None:
    """This comparison alone: `python -m tests.bench.planner`."""
    import tempfile

    from darkroom.consumer.stack import Stack
    from darkroom.producer.logs import configure
    from darkroom.schemas.settings import LogSettings

    configure(LogSettings(level="warning"), worker="bench")
    with tempfile.TemporaryDirectory(prefix="darkroom-bench-") as folder:
        stack = Stack(Path(folder) / "stack")
        stack.up()
        try:
            figures = asyncio.run(plan_against_fleet(stack.environment, Path(folder), 1))
        finally:
            stack.down()
    print(json.dumps(figures))
    print("\n".join(section(figures)))


if __name__ == "__main__":
    main()
