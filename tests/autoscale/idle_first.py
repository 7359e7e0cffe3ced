"""When a fleet shrinks the idle worker goes, by its own word: real workers, a real ReplicaSet, a real service account.

Without that word a ReplicaSet takes the pod that became ready last. So the older worker is left idle here, the newer
one is given work, and the fleet is told to shrink by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Final

import urllib3
from aiokafka import AIOKafkaProducer

from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.schemas.events.request import GenerationRequest
from tests.autoscale.case import Case, wait_until
from tests.autoscale.deployment import Deployment
from tests.autoscale.kubelet import Kubelet
from tests.autoscale.pod import Ending, Pod

STEPS: Final = 30
"""Three seconds for two at a time: a batch ends well within a drain."""
WORK_EVERY_S: Final = 1.0
_LAG = re.compile(r'^darkroom_lag_records\{[^}]*partition="(\d+)"[^}]*\} (\S+)$', re.MULTILINE)


async def idle_goes_first(deployment: Deployment, kubelet: Kubelet) -> Case:
    """Two workers, work for the newer one alone, then one worker. Raises `TooLong`."""
    await asyncio.to_thread(_fleet_of, deployment, kubelet, 1)
    older = _workers(deployment, kubelet)[0]
    await asyncio.to_thread(_fleet_of, deployment, kubelet, 2)
    newer = next(pod for pod in _workers(deployment, kubelet) if pod is not older)

    def gone() -> list[Ending]:
        """Of the two: the pod of the upgrade's job ends and goes as well."""
        return [ending for ending in tuple(kubelet.endings) if ending.pod in (older.name, newer.name)]

    async with _work(deployment, newer):

        def told_apart() -> bool:
            works = sum(_partitions(newer).values()) > 0
            return works and deployment.deletion_cost(older.name) < 0 == deployment.deletion_cost(newer.name)

        await asyncio.to_thread(wait_until, "the idle worker alone to have lowered its cost", told_apart)
        await asyncio.to_thread(deployment.install, _fixed_at(1))
        await asyncio.to_thread(wait_until, "one of two workers to go", lambda: bool(gone()))
    first = gone()[0]
    idle_went = first.pod == older.name
    seen = (
        "an older worker was idle and had lowered its pod's deletion cost, a newer one was at work: the "
        f"{'idle' if idle_went else 'working'} one was stopped"
    )
    holds = idle_went and not first.killed and first.exit_code == 0
    return Case(8, "scale-in kills whoever it likes", seen, holds, live=True)


def _fleet_of(deployment: Deployment, kubelet: Kubelet, number_of: int) -> None:
    deployment.install(_fixed_at(number_of))
    wait_until(
        f"{number_of} real workers",
        lambda: (
            deployment.workers() == (number_of, number_of)
            and [pod.is_ready for pod in _workers(deployment, kubelet)] == [True] * number_of
            and all(_partitions(pod) for pod in _workers(deployment, kubelet))
        ),
    )


def _fixed_at(number_of: int) -> dict[str, object]:
    """Without an autoscaler: how many is said here, the choice of the pod is the ReplicaSet's."""
    return {"autoscaling": {"mode": "none"}, "worker": {"replicas": number_of}}


def _workers(deployment: Deployment, kubelet: Kubelet) -> list[Pod]:
    """Of this deployment, running."""
    return [
        pod
        for pod in tuple(kubelet.pods.values())
        if pod.is_running and pod.manifest["metadata"]["namespace"] == deployment.namespace and "-worker-" in pod.name
    ]


def _partitions(pod: Pod) -> dict[int, float]:
    """Those that a worker holds, with their lag; none where it cannot be asked."""
    try:
        answer = urllib3.request("GET", f"http://{pod.address}:9464/metrics", timeout=5.0, retries=False)
    except urllib3.exceptions.HTTPError:
        return {}
    return {int(number): float(lag) for number, lag in _LAG.findall(answer.data.decode())}


@contextlib.asynccontextmanager
async def _work(deployment: Deployment, worker: Pod) -> AsyncIterator[None]:
    """Requests for this worker alone, one after the other, by the partitions that it holds."""
    settings = deployment.settings
    producer = AIOKafkaProducer(**kafka_arguments(settings.kafka), acks="all")
    await producer.start()
    try:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(_send(producer, settings.topics.requests, worker))
            yield
            sending.cancel()
    finally:
        await producer.stop()


async def _send(producer: AIOKafkaProducer, topic: str, worker: Pod) -> None:
    number = 0
    while True:
        for partition in await asyncio.to_thread(_partitions, worker):
            request = GenerationRequest(request_id=f"idle-first-{number}", prompt="work", steps=STEPS)
            value = request.model_dump_json(exclude_unset=True).encode()
            await producer.send_and_wait(topic, value, key=request.request_id.encode(), partition=partition)
            number += 1
        await asyncio.sleep(WORK_EVERY_S)
