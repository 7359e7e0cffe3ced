"""One run: a stack and workers under traffic and faults, then quiet, and the question whether anything is missing."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from darkroom.consumer.audit.audit import audit
from darkroom.consumer.stack import Stack
from darkroom.inference.tiny import ensure_tiny_model
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.settings import Settings, load_settings
from tests.chaos.crew import Crew
from tests.chaos.faults import Inflictor, thaw
from tests.chaos.schedule import SESSION_S, Fault, together
from tests.chaos.traffic import Mix, Traffic
from tests.chaos.verdict import Verdict, judge, recovered, rendered_twice
from tests.chaos.watch import Book, Recovery, Watcher

READY_S_MAX = 180.0
RECOVERY_S_MAX = 60.0
"""How long the next fault waits for the recovery from the one before."""
FINISH_S_MAX = 240.0
"""Without faults, for all that was accepted to have its outcome."""
DRAIN_S_MAX = 90.0
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is made of. `faults` come in order, as long as there is time."""

    seed: int
    faults: Iterator[Fault]
    seconds: float
    """When no fault begins any more; a sequence of faults that ends earlier ends it earlier."""
    workers: int = 3
    tiny_model: bool = False
    """Real pictures of the built-in model instead of the simulated device."""
    rate_per_s: float = 8.0
    poisons: int = 0
    """Requests that kill their workers; one each `poison_every_s`, as long as faults go on."""
    poison_every_s: float = 10.0
    partitions: int = 6

    @property
    def step_ms(self) -> int:
        """Of the simulated device: 5 to 20 ms, by the seed."""
        return random.Random(self.seed).randint(5, 20)

    @property
    def name(self) -> str:
        """What its topics, group, bucket and folder are named by: a run and its parts share a stack."""
        return f"chaos-{self.seed}-{'tiny' if self.tiny_model else 'simulated'}"

    @property
    def device(self) -> str:
        """In words."""
        return "the tiny model" if self.tiny_model else f"the simulated device with {self.step_ms} ms steps"


async def run(plan: Plan, stack: Stack, folder: Path) -> Verdict:
    """Run a plan on a running stack, with logs in `folder`. Leaves the stack running and nothing else."""
    settings = load_settings(environ=_environment(stack, plan, folder))
    await ensure_topics(settings)
    started, book = time.monotonic(), Book()
    mix = Mix(plan.seed, steps=(2, 3, 5) if plan.tiny_model else (10, 20, 30, 40), markers=not plan.tiny_model)
    verdict = Verdict(plan.seed, plan.device, 0.0)
    traffic = Traffic(settings, mix, book)
    async with _crew(plan, stack, folder) as crew, _following(settings, book):
        await crew.all_ready(READY_S_MAX)
        inflictor = Inflictor(stack, settings, crew, book, traffic.follow_growth)
        try:
            await _under_faults(plan, traffic, inflictor, book)
            _say("no more faults; waiting until everything is finished")
            await asyncio.to_thread(thaw, stack)
            crew.heal()
            await asyncio.to_thread(stack.up)
            await traffic.finish(FINISH_S_MAX)
            await _until(lambda: not book.waiting, FINISH_S_MAX)
            verdict.worker_ends = {str(code): count for code, count in crew.exits().items()}
            verdict.unclean_ends = await _drain(crew)
        finally:
            await traffic.stop()
        async with MinioObjects(settings.s3) as objects:
            report = await audit(settings, objects)
        await _caught_up(book, report.records)
        judge(verdict, book, mix.sent, report)
        verdict.faults = recovered(inflictor.counts, book)
        twice = rendered_twice(await asyncio.to_thread(crew.rendered))
        verdict.rendered_twice = len(twice)
    if plan.tiny_model:
        from tests.chaos.pictures import compare  # it needs torch

        _say("rendering requests alone, to compare")
        verdict.pictures_compared, verdict.wrong_pictures = await compare(settings, book, mix.sent.asked, twice)
    verdict.seconds = time.monotonic() - started
    return verdict


async def _under_faults(plan: Plan, traffic: Traffic, inflictor: Inflictor, book: Book) -> None:
    until = time.monotonic() + plan.seconds
    sending = [asyncio.create_task(traffic.run(plan.rate_per_s, plan.seed))]
    if plan.poisons:
        sending.append(asyncio.create_task(_poison(plan, traffic)))
    try:
        for group in together(plan.faults):
            await asyncio.sleep(min(group[0].gap_s, max(0.0, until - time.monotonic())))
            if time.monotonic() >= until:
                return
            _say(" and ".join(f"{fault.kind} ({fault.length_s:.1f} s)" for fault in group))
            recoveries = await asyncio.gather(*(inflictor.inflict(fault) for fault in group))
            await _until(functools.partial(_all_seen, recoveries), RECOVERY_S_MAX)
            _say(f"  recovered in {_seconds(recoveries)}; {len(book.waiting)} records wait")
            for task in sending:
                if task.done():
                    task.result()  # traffic that failed is the harness's own error
    finally:
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)


async def _poison(plan: Plan, traffic: Traffic) -> None:
    for _ in range(plan.poisons):
        await asyncio.sleep(plan.poison_every_s)
        _say("a request that kills its worker")
        await traffic.send_poison()


async def _drain(crew: Crew) -> list[str]:
    """The workers that did not end as they should."""
    try:
        codes = await crew.drain(DRAIN_S_MAX)
    except TimeoutError:
        return [f"a worker did not end within {DRAIN_S_MAX:.0f} s of SIGTERM"]
    return [f"the worker at place {place} ended with {code}" for place, code in enumerate(codes) if code]


def _tiny_model_flags() -> tuple[str, ...]:
    """The random model: what is tested here is who paints and how often, not what."""
    tiny = ensure_tiny_model()
    return ("--model-path", str(tiny.path), "--controlnet-path", str(tiny.controlnet_path))


@contextlib.asynccontextmanager
async def _crew(plan: Plan, stack: Stack, folder: Path) -> AsyncIterator[Crew]:
    environment = _environment(stack, plan, folder)
    flags = _tiny_model_flags() if plan.tiny_model else ("--simulated-device", str(plan.step_ms))
    crew = Crew(
        environment,
        folder,
        flags,
        kafka_port=_port(environment["DARKROOM_KAFKA__BOOTSTRAP_SERVERS"]),
        s3_port=_port(environment["DARKROOM_S3__ENDPOINT"]),
    )
    try:
        await crew.start(plan.workers)
        yield crew
    finally:
        await asyncio.to_thread(thaw, stack)
        await crew.stop()


@contextlib.asynccontextmanager
async def _following(settings: Settings, book: Book) -> AsyncIterator[None]:
    watching = asyncio.create_task(Watcher(settings, book).run())
    try:
        yield
        if watching.done():
            watching.result()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _caught_up(book: Book, records: int) -> None:
    """Give our own reader the time to see what the audit saw."""
    await _until(lambda: len(book.completions.keys() | book.dead_letters.keys()) >= records, RECOVERY_S_MAX)


def _environment(stack: Stack, plan: Plan, folder: Path) -> dict[str, str]:
    scratch = folder / "tmp"  # the locks by which workers know their places are this run's own
    scratch.mkdir(exist_ok=True)
    session_ms = int(SESSION_S * 1000)
    return {
        **stack.environment,
        "TMPDIR": str(scratch),
        "DARKROOM_TOPICS__PREFIX": f"{plan.name}.",
        "DARKROOM_TOPICS__REQUESTS_PARTITIONS": str(plan.partitions),
        "DARKROOM_TOPICS__COMPLETIONS_PARTITIONS": "3",
        "DARKROOM_KAFKA__GROUP_ID": plan.name,
        "DARKROOM_S3__BUCKET": plan.name,
        "DARKROOM_DEVICE": "cpu",  # of the tiny model: pictures are compared, and a GPU's differ by the batch
        "DARKROOM_KAFKA__SESSION_TIMEOUT_MS": str(session_ms),
        "DARKROOM_KAFKA__REQUEST_TIMEOUT_MS": "8000",
        "DARKROOM_KAFKA__TRANSACTION_TIMEOUT_MS": "6000",
        "DARKROOM_S3__READ_TIMEOUT_S": "5",
        "DARKROOM_WORKER__BACKOFF_MS_MAX": "3000",
        "DARKROOM_SIMULATED__OBEY_MARKERS": "true",
        "DARKROOM_LOG__LEVEL": "debug",
    }


def _port(address: str) -> int:
    return int(address.rpartition(":")[2].rstrip("/"))


def _all_seen(recoveries: list[Recovery]) -> bool:
    return all(one.seconds is not None for one in recoveries)


def _seconds(recoveries: list[Recovery]) -> str:
    return ", ".join("a time not seen" if one.seconds is None else f"{one.seconds:.1f} s" for one in recoveries)


async def _until(condition: Callable[[], bool], limit_s: float) -> None:
    """Wait for a condition, or for the limit: what did not come is seen in the verdict."""
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        await asyncio.sleep(POLL_S)


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
