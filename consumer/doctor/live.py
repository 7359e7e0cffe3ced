"""Checks of `darkroom doctor` that ask what is running: the consumer group, and the worker on this machine."""

from __future__ import annotations

import asyncio
import json
from typing import Final

import urllib3

from darkroom.consumer.doctor.finding import Finding
from darkroom.producer.kafka.connection import KafkaDenied, KafkaUnavailable, administering
from darkroom.producer.kafka.groups import describe_group
from darkroom.schemas.settings import Settings

ANSWER_S_MAX: Final = 5.0
"""How long a worker on this machine may take to answer a probe."""
_EVERYWHERE: Final = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared with, not bound to
"""Addresses to listen on that are none to connect to."""


async def group(settings: Settings) -> Finding:
    """Look at the consumer group: it has to be one of consumers, or not there yet."""
    kafka = settings.kafka
    try:
        async with administering(kafka, "looking at the consumer group") as admin:
            found = await describe_group(admin, kafka.group_id, timeout_s=kafka.request_timeout_ms / 1000)
    except KafkaDenied:
        return Finding("group", False, f"{kafka.group_id} may not be looked at", "See the check of rights.")
    except KafkaUnavailable as error:
        return Finding("group", False, str(error), "Do as the line says, then run this again.")
    return Finding("group", True, f"{kafka.group_id}: {len(found.members)} member(s), {found.state}")


async def worker(settings: Settings) -> Finding:
    """Ask the worker that listens on this machine, where one does, why it does not work.

    A partition that cannot publish stands there with its reason: the worker alone knows what a broker refused it.
    """
    own = settings.worker
    host = "127.0.0.1" if own.metrics_host in _EVERYWHERE else own.metrics_host
    where = f"{host}:{own.metrics_port}"
    try:
        answer = await asyncio.to_thread(
            urllib3.request, "GET", f"http://{where}/readyz", timeout=ANSWER_S_MAX, retries=False
        )
    except urllib3.exceptions.HTTPError:
        return Finding("worker", True, f"none listens on {where}")
    try:
        said = json.loads(answer.data)
        is_ready, reasons = bool(said["well"]), tuple(str(reason) for reason in said["reasons"])
    except (ValueError, LookupError, TypeError):
        says = f"something that is no worker of Darkroom's answers on {where}"
        return Finding("worker", False, says, "Let DARKROOM_WORKER__METRICS_PORT be a port of the worker's own.")
    if is_ready:
        return Finding("worker", True, f"the one on {where} is ready")
    return Finding("worker", False, f"the one on {where} is not ready:", "Do what each line says.", notes=reasons)
