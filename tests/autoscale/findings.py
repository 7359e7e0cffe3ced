"""KEDA's and the HPA's known faults, each as a case: what the chart makes of it, seen live where that can be.

Most of it is seen on a lag that nobody works off, with workers that only wait: then the number of replicas is a plain
function of the lag. `proof.py` sees the rest on real workers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

from darkroom.producer.client.client import Client
from darkroom.schemas.events.request import GenerationRequest
from tests.autoscale.api import Json
from tests.autoscale.case import LOOK_S, Case, TooLong, wait_until
from tests.autoscale.deployment import Deployment
from tests.autoscale.helm import HelmRefused
from tests.autoscale.idle_first import idle_goes_first
from tests.autoscale.kubelet import Kubelet
from tests.autoscale.proof import Say

WAITS: Final = ["sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait"]
"""A worker that takes nothing off Kafka."""
AFTER_SYNCS_S: Final = 12.0
"""Four looks of the HPA: what it has not done by then it does not do."""


GUARDS: Final[tuple[tuple[int, str, Json, str], ...]] = (
    (1, "more workers than partitions", {"autoscaling": {"maxReplicas": 5}}, "requests_partitions 4"),
    (
        2,
        "excludePersistentLag flips the metric while requests are slow",
        {"autoscaling": {"keda": {"kafka": {"metadata": {"excludePersistentLag": "true"}}}}},
        "excludePersistentLag may not be set",
    ),
    (
        4,
        "scaleToZeroOnInvalidOffset holds a fresh group at zero for ever",
        {"autoscaling": {"keda": {"kafka": {"metadata": {"scaleToZeroOnInvalidOffset": "true"}}}}},
        "scaleToZeroOnInvalidOffset may not be set",
    ),
    (
        8,
        "a grace period shorter than the longest batch",
        {"worker": {"terminationGracePeriodSeconds": 30}},
        "terminationGracePeriodSeconds",
    ),
    (
        9,
        "a window shorter than a model load",
        {"autoscaling": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 10}}}},
        "stabilizationWindowSeconds 10 is below worker.loadSeconds",
    ),
)
"""What Helm must refuse, and words of the sentence with which it does."""


async def run(deployment: Deployment, kubelet: Kubelet, say: Say) -> list[Case]:
    """All cases. Raises `TooLong`, and what the parts raise."""
    cases = [*guards(deployment)]
    deployment.make_namespace()
    deployment.install(_waiting(threshold=10, tolerance=None))
    cases.append(refreshed(deployment, kubelet))
    async with Client(deployment.settings, follow=False) as client:
        await _send(client, 0, 20)
        cases.append(await _tolerance(deployment, client))
    cases.append(await _more_than_partitions(deployment))
    cases.append(await idle_goes_first(deployment, kubelet))
    deployment.helm.uninstall()
    for case in cases:
        say(f"finding {case.number}: {case.seen}")
    return cases


def guards(deployment: Deployment) -> list[Case]:
    """Values that the chart must refuse, given to Helm."""
    cases = []
    for number, finding, changes, words in GUARDS:
        try:
            deployment.helm.template(*deployment.layers(changes))
            seen, holds = "Helm took the values", False
        except HelmRefused as error:
            seen, holds = f"refused: {str(error).rsplit('): ', 1)[-1]}", words in str(error)
        cases.append(Case(number, finding, seen, holds, live=False))
    return cases


def refreshed(deployment: Deployment, kubelet: Kubelet) -> Case:
    """Offsets of a group at zero workers expire: run the CronJob's job now, as `kubectl create job --from` does."""
    batch = f"/apis/batch/v1/namespaces/{deployment.namespace}"
    cron = deployment.api.call("GET", f"{batch}/cronjobs/{deployment.helm.release}-darkroom-offsets")
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "offsets-now"},
        "spec": cron["spec"]["jobTemplate"]["spec"],
    }
    deployment.api.call("POST", f"{batch}/jobs", job)

    def done() -> bool:
        status = deployment.api.call("GET", f"{batch}/jobs/offsets-now").get("status", {})
        return bool(status.get("succeeded") or status.get("failed"))

    wait_until("the offsets' job to end", done)
    pod = next(pod for pod in kubelet.history if pod.name.startswith("offsets-now"))
    said = [line for line in pod.log.read_text().splitlines() if line.startswith("offsets  refreshed")]
    seen = f"the CronJob's job wrote them anew: {said[0] if said else pod.log.read_text()[-200:]}"
    return Case(6, "offsets of a group that stays at zero expire", seen, "0, 1, 2, 3" in seen, live=True)


async def _tolerance(deployment: Deployment, client: Client) -> Case:
    """20 records are two workers' worth at 10 each, 21 are three's: within 10% of two, the HPA does nothing."""
    finding = "the HPA's tolerance of 10% keeps a fleet one short"
    await asyncio.to_thread(wait_until, "two workers", lambda: deployment.workers()[0] == 2)
    await _send(client, 20, 1)
    await asyncio.to_thread(wait_until, "the HPA to see 21 records", lambda: _mean(_hpa(deployment)) == "10500m")
    await _hold(AFTER_SYNCS_S)
    before = deployment.workers()[0]
    await asyncio.to_thread(deployment.install, _waiting(threshold=10, tolerance=0))
    try:
        await asyncio.to_thread(wait_until, "three workers", lambda: deployment.workers()[0] == 3)
    except TooLong:
        return Case(7, finding, f"{before} workers, and no third with tolerance 0", holds=False, live=True)
    seen = f"21 records at 10 each: {before} workers with the cluster's tolerance, 3 with scaleUp.tolerance 0"
    return Case(7, finding, seen, before == 2, live=True)


async def _more_than_partitions(deployment: Deployment) -> Case:
    """21 records are five workers' worth at 5 each, and there are four partitions."""
    await asyncio.to_thread(deployment.install, _waiting(threshold=5, tolerance=0))
    await asyncio.to_thread(wait_until, "four workers", lambda: deployment.workers()[0] == 4)
    wanted = set()
    deadline = time.monotonic() + AFTER_SYNCS_S
    while time.monotonic() < deadline:
        wanted.add(deployment.workers()[0])
        await asyncio.sleep(LOOK_S)
    seen = f"21 records at 5 each, four partitions: {max(wanted)} workers"
    return Case(1, "KEDA's count ignores partitions: one worker idle", seen, wanted == {4}, live=True)


def _waiting(*, threshold: int, tolerance: float | None) -> Json:
    scale_up = {} if tolerance is None else {"tolerance": tolerance}
    return {
        "worker": {"command": WAITS},
        "autoscaling": {
            "keda": {"kafka": {"lagThreshold": threshold, "limitToPartitionsWithLag": False}},
            "behavior": {"scaleUp": scale_up or {"tolerance": None}},
        },
    }


async def _send(client: Client, first: int, number_of: int) -> None:
    numbers = range(first, first + number_of)
    await client.send([GenerationRequest(request_id=f"still-{number}", prompt="waits", steps=4) for number in numbers])


def _hpa(deployment: Deployment) -> Mapping[str, Any]:
    name = f"{deployment.helm.release}-darkroom-worker"
    path = f"/apis/autoscaling/v2/namespaces/{deployment.namespace}/horizontalpodautoscalers/{name}"
    return deployment.api.call("GET", path)


def _mean(hpa: Mapping[str, Any]) -> str:
    """The metric for each replica, as Kubernetes writes quantities; empty where the HPA has not asked yet."""
    metrics = hpa.get("status", {}).get("currentMetrics") or []
    return str(metrics[0].get("external", {}).get("current", {}).get("averageValue", "")) if metrics else ""


async def _hold(seconds: float) -> None:
    """That something does not happen can only be seen over time."""
    await asyncio.sleep(seconds)
