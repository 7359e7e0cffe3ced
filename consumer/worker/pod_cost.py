"""Tells Kubernetes which workers to stop first: an idle worker lowers the deletion cost of its own pod.

When the fleet shrinks the ReplicaSet's controller picks the pods, and without a hint it picks whoever it likes, also
one that is in the middle of a batch. The annotation `controller.kubernetes.io/pod-deletion-cost` is that hint. It is a
wish, not a lock: a worker that is stopped all the same drains.

Kubernetes asks that it be written seldom, so it has two values here, and is written when a worker has been idle for a
while and when it has work again.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import structlog
import urllib3

from darkroom.producer.kafka.tls import API_SERVER, client_context
from darkroom.producer.outages import KUBERNETES
from darkroom.schemas.errors import SettingsError

log = structlog.get_logger(__name__)

ANNOTATION: Final = "controller.kubernetes.io/pod-deletion-cost"
IDLE_COST: Final = -100
"""Below what a pod without the annotation costs, which is 0."""
BUSY_COST: Final = 0
CHECK_S: Final = 1.0
IDLE_S: Final = 10.0
"""How long a worker is without work before it says so: well below any window of stabilisation."""
RETRY_S: Final = 30.0
ANSWER_S_MAX: Final = 5.0


class NoCluster(Exception):  # noqa: N818 - named for what is not there
    """The process is in no pod that may speak with the API server: one sentence."""


class PodApi:
    """The one call of the API server that is needed. Blocks: belongs on a thread."""

    def __init__(self, pod: str, credentials: Path, environ: Mapping[str, str] = os.environ) -> None:
        """`credentials` is the folder of a mounted service account: `token`, `namespace` and `ca.crt`.

        Raises `NoCluster`.
        """
        host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise NoCluster("KUBERNETES_SERVICE_HOST is not set: this process is in no pod. Unset the pod's name.")
        try:
            namespace = (credentials / "namespace").read_text().strip()
            context = client_context(API_SERVER, credentials / "ca.crt")
        except (OSError, SettingsError) as error:
            raise NoCluster(
                f"The service account in {credentials} cannot be read ({error}): mount it, or unset the pod's name."
            ) from error
        address = f"[{host}]" if ":" in host else host
        self._url = f"https://{address}:{port}/api/v1/namespaces/{namespace}/pods/{pod}"
        self._token = credentials / "token"
        self._http = urllib3.PoolManager(ssl_context=context, retries=False, timeout=ANSWER_S_MAX)

    def set_cost(self, cost: int) -> None:
        """Write the annotation. Raises `OSError` and urllib3's errors, and `PermissionError` where it is forbidden."""
        answer = self._http.request(
            "PATCH",
            self._url,
            body=json.dumps({"metadata": {"annotations": {ANNOTATION: str(cost)}}}),
            headers={
                # Read each time: the kubelet replaces it before it expires.
                "Authorization": f"Bearer {self._token.read_text().strip()}",
                "Content-Type": "application/merge-patch+json",
            },
        )
        if answer.status in (401, 403):
            raise PermissionError("the service account may not patch pods in its namespace: bind it a role that may")
        if answer.status >= 300:
            raise OSError(f"the API server answered {answer.status}")


class PodCost:
    """Follows the worker's work and writes the cost when it changes."""

    def __init__(
        self,
        set_cost: Callable[[int], None],
        has_work: Callable[[], bool],
        *,
        idle_s: float = IDLE_S,
        check_s: float = CHECK_S,
        retry_s: float = RETRY_S,
    ) -> None:
        """`set_cost` is called on a thread."""
        self._set_cost = set_cost
        self._has_work = has_work
        self._idle_s = idle_s
        self._check_s = check_s
        self._retry_s = retry_s
        self._written = BUSY_COST

    async def run(self) -> None:
        """Until cancelled. The absence of the API server does not concern the worker: it is logged, and tried again."""
        clock = asyncio.get_running_loop().time
        busy_at = clock()
        while True:
            now = clock()
            if self._has_work():
                busy_at = now
            wanted = IDLE_COST if now - busy_at >= self._idle_s else BUSY_COST
            if wanted == self._written:
                await asyncio.sleep(self._check_s)
                continue
            try:
                await asyncio.to_thread(self._set_cost, wanted)
            except (OSError, urllib3.exceptions.HTTPError) as error:
                log.debug("the pod's deletion cost was not written", cost=wanted, error=str(error))
                KUBERNETES.failed("pod_cost", error)
                await asyncio.sleep(self._retry_s)
            else:
                KUBERNETES.answered("pod_cost")
                self._written = wanted
                log.debug("the pod's deletion cost was written", cost=wanted)
