"""Lag moves the fleet: 0 -> N -> 0 on a real Kafka, a real control plane and real workers; nothing lost or repeated.

The story: the chart is installed and there is no worker. A burst of requests comes, half of it in transactions, and
KEDA wakes the fleet to its largest. Requests keep coming, fewer than the fleet could take, so workers are stopped while
they work. Then nothing comes any more, and the fleet goes to zero. The audit and the completions say what was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import islice
from typing import Final

from aiokafka import AIOKafkaProducer

from darkroom.consumer.audit.audit import audit
from darkroom.producer.client.client import Client
from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.request import GenerationRequest
from tests.autoscale.case import wait_until
from tests.autoscale.deployment import Deployment
from tests.autoscale.kubelet import Kubelet
from tests.autoscale.pod import Ending, Pod
from tests.autoscale.verdict import Figures, audit_problems, late_publications, rendered, turns, unlike_one_success
from tests.autoscale.watch import Lag, Watch

BURST: Final = 80
"""Sixteen workers' worth by the threshold of 5: more than there may be."""
IN_TRANSACTIONS: Final = 40
"""Of the burst; each commit leaves a control record in the partitions that it touched."""
TRANSACTION: Final = 8
STEPS: Final = (20, 25, 30, 40)
TRICKLE_LAG: Final = 2
"""What the trickle keeps each partition's lag at: eight records are two workers' worth by the threshold of 5, and all
four have work, so that no idle one can go first."""
STOPPED_AT_WORK: Final = 2
"""Workers that are to be stopped before the trickle ends."""
LOOK_S_MAX: Final = 30.0
WAKE_S_MAX: Final = 180.0
FULL_S_MAX: Final = 180.0
SHRINK_S_MAX: Final = 300.0
DRY_S_MAX: Final = 180.0
ZERO_S_MAX: Final = 240.0

Say = Callable[[str], None]


class Proof:
    """One run. `figures.problems` is empty where all held."""

    def __init__(self, deployment: Deployment, kubelet: Kubelet, say: Say) -> None:
        self.figures = Figures()
        self._deployment = deployment
        self._kubelet = kubelet
        self._say = say
        self._sent = 0
        self._sent_at = 0.0
        self._completions: list[Completion] = []
        self._before = (0, 0)

    async def run(self) -> None:
        """The whole story. Raises `TooLong`, and what the parts raise."""
        settings = self._deployment.settings
        async with Lag.of(settings) as lag, Client(settings) as client:
            await self._check_asleep(lag)
            reading = asyncio.create_task(self._read(client))
            try:
                async with Watch(self._deployment, self._kubelet, lag).watching() as watch:
                    await self._wake(client, watch)
                    await self._shrink(watch)
                    await self._sleep(watch)
                    self.figures.lag_max = max(sample.lag for sample in watch.samples)
                    self.figures.workers_max = max(sample.running for sample in watch.samples)
                    self.figures.turns = turns([sample.wanted for sample in watch.samples])
                await self._all_answered()
            finally:
                reading.cancel()
        await self._judge()

    # --- The story ----------------------------------------------------------------------------------------

    async def _check_asleep(self, lag: Lag) -> None:
        """The init job has given each partition an offset, without which KEDA sees no lag there, and nobody runs.

        A Deployment that names no number of replicas begins with one, which KEDA takes away when it first looks.
        """
        partitions, committed = await lag.by_partition(), await lag.committed()
        self.figures.partitions = len(partitions)
        self._expect(
            committed.keys() == partitions.keys(), f"offsets before the first worker only at {sorted(committed)}"
        )
        await asyncio.to_thread(wait_until, "KEDA to put the new fleet to sleep", self._is_asleep)
        self._before = len(self._kubelet.history), len(self._kubelet.endings)

    async def _wake(self, client: Client, watch: Watch) -> None:
        began = self._sent_at = time.time()
        await client.send(self._requests(BURST - IN_TRANSACTIONS))
        await self._send_in_transactions(self._requests(IN_TRANSACTIONS))
        figures = self.figures
        figures.lag_seen_s = (await watch.until("KEDA to see the lag", lambda s: s.active, WAKE_S_MAX)).at - began
        self._say(f"{figures.lag_seen_s:6.1f} s  KEDA sees the lag")
        figures.first_worker_s = (await watch.until("a worker", lambda s: s.running > 0, WAKE_S_MAX)).at - began
        self._say(f"{figures.first_worker_s:6.1f} s  the first worker runs")
        figures.first_ready_s = (
            await watch.until("a worker to be ready", lambda s: s.ready > 0, WAKE_S_MAX)
        ).at - began
        self._say(f"{figures.first_ready_s:6.1f} s  it is ready")
        wanted = figures.partitions
        full = await watch.until(f"{wanted} workers to be ready", lambda s: s.ready == wanted, FULL_S_MAX)
        figures.all_workers_s = full.at - began
        self._say(f"{figures.all_workers_s:6.1f} s  {wanted} workers are ready, {full.lag} records wait")

    async def _shrink(self, watch: Watch) -> None:
        """Keep some work coming to each worker until enough of them were stopped in the middle of it."""
        began, deadline = self._sent_at, time.monotonic() + SHRINK_S_MAX
        async with self._producer() as producer:
            while len(self._stopped()) < STOPPED_AT_WORK:
                if time.monotonic() > deadline:
                    self._expect(False, f"no {STOPPED_AT_WORK} workers were stopped within {SHRINK_S_MAX:.0f} s")
                    break
                sample = await watch.until("a look", lambda _: True, LOOK_S_MAX)
                for partition, lag in sample.lags.items():
                    if lag < TRICKLE_LAG:
                        await self._put(producer, next(iter(self._requests(1))), partition)
        self.figures.last_request_s = time.time() - began
        for ending in self._stopped():
            self._say(f"{ending.asked_at - began:6.1f} s  {ending.pod}: SIGTERM; gone after {_drain_s(ending):.1f} s")
        self._say(f"{self.figures.last_request_s:6.1f} s  the last of {self._sent} requests")

    async def _sleep(self, watch: Watch) -> None:
        began, figures = self._sent_at, self.figures
        gone = await watch.until("the lag to be gone", lambda s: s.lag == 0, DRY_S_MAX)
        figures.lag_gone_after_last_s = gone.at - began - figures.last_request_s
        self._say(f"{gone.at - began:6.1f} s  no lag")
        zero = await watch.until("no worker", lambda s: s.wanted == 0 and s.running == 0, ZERO_S_MAX)
        figures.zero_after_lag_gone_s = zero.at - gone.at
        self._say(f"{zero.at - began:6.1f} s  no worker")

    # --- Sending and reading ------------------------------------------------------------------------------

    def _requests(self, number_of: int) -> Iterable[GenerationRequest]:
        for _ in range(number_of):
            number = self._sent
            self._sent += 1
            steps = STEPS[number % len(STEPS)]
            request_id = f"{self._deployment.namespace}-{number}"
            yield GenerationRequest(request_id=request_id, prompt=f"figure {number}", steps=steps)

    async def _send_in_transactions(self, requests: Iterable[GenerationRequest]) -> None:
        async with self._producer(transactional_id=f"{self._deployment.settings.kafka.group_id}-sender") as producer:
            waiting = iter(requests)
            while together := list(islice(waiting, TRANSACTION)):
                async with producer.transaction():
                    for request in together:
                        await self._put(producer, request)

    @contextlib.asynccontextmanager
    async def _producer(self, **arguments: str) -> AsyncIterator[AIOKafkaProducer]:
        producer = AIOKafkaProducer(**kafka_arguments(self._deployment.settings.kafka), acks="all", **arguments)
        await producer.start()
        try:
            yield producer
        finally:
            await producer.stop()

    async def _put(self, producer: AIOKafkaProducer, request: GenerationRequest, partition: int | None = None) -> None:
        value, key = request.model_dump_json(exclude_unset=True).encode(), request.request_id.encode()
        await producer.send_and_wait(self._deployment.settings.topics.requests, value, key=key, partition=partition)

    async def _read(self, client: Client) -> None:
        async for completion in client.completions(from_beginning=True):
            self._completions.append(completion)

    async def _all_answered(self) -> None:
        async with asyncio.timeout(DRY_S_MAX):
            while len(self._completions) < self._sent:
                await asyncio.sleep(0.2)

    # --- Judging ------------------------------------------------------------------------------------------

    async def _judge(self) -> None:
        settings, figures, began = self._deployment.settings, self.figures, self._sent_at
        async with MinioObjects(settings.s3) as objects:
            report = await audit(settings, objects)
        figures.audit = report.as_dict()
        figures.requests, figures.transactions = self._sent, IN_TRANSACTIONS // TRANSACTION
        at = [completion.completed_at.timestamp() - began for completion in self._completions]
        burst = [second for second, one in zip(at, self._completions, strict=True) if _number(one) < BURST]
        figures.first_picture_s, figures.burst_done_s = min(at), max(burst)
        workers, stopped = self._started(), self._stopped()
        figures.workers_started = len(workers)
        figures.scale_in_s = min(ending.asked_at for ending in stopped) - began
        figures.longest_drain_s = max(_drain_s(ending) for ending in stopped)
        started = {pod.name: pod.started_at or 0.0 for pod in workers}
        figures.youngest_stopped_s = min(ending.asked_at - started[ending.pod] for ending in stopped)
        late = late_publications(stopped, self._completions)
        figures.stopped_at_work, figures.published_while_draining = len(late), sum(late.values())
        figures.problems += [*audit_problems(report, self._sent), *unlike_one_success(self._completions)]
        figures.problems += [f"{one.pod} ended badly: {one}" for one in stopped if one.killed or one.exit_code != 0]
        figures.rendered_twice = sum(1 for times in rendered(workers).values() if times > 1)
        restarted = [pod.name for pod in workers if pod.restarts]
        self._expect(not restarted, f"containers were started again: {restarted}")
        self._expect(figures.stopped_at_work > 0, "no worker was stopped while it had work")
        self._expect(figures.workers_max <= figures.partitions, f"{figures.workers_max} workers at a time")

    def _is_asleep(self) -> bool:
        return self._deployment.is_watched() and self._deployment.workers() == (0, 0) and not self._kubelet.pods

    def _started(self) -> list[Pod]:
        """Workers of the story."""
        return [pod for pod in tuple(self._kubelet.history)[self._before[0] :] if "-worker-" in pod.name]

    def _stopped(self) -> list[Ending]:
        """Those of them that were stopped."""
        return [ending for ending in tuple(self._kubelet.endings)[self._before[1] :] if "-worker-" in ending.pod]

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.figures.problems.append(otherwise)


def _drain_s(ending: Ending) -> float:
    return ending.ended_at - ending.asked_at


def _number(completion: Completion) -> int:
    return int(completion.request_id.rsplit("-", 1)[-1])
