"""Sees that a Kafka consumer still works: aiokafka's own background tasks can end for good without a word.

Seen with aiokafka 0.14: a refusal by the group's coordinator that lasts for seconds (an ACL taken away and given back)
ends its coordination task, after which every poll raises the same error until the consumer is made anew; and once its
fetching or its metadata task has ended, polls return nothing for ever.
"""

from __future__ import annotations

from typing import Any

from darkroom.producer.tasks import described


def ended_task(consumer: Any) -> str | None:
    """Say which background task of an `AIOKafkaConsumer` has ended, and by what; None while all of them run.

    A consumer whose start failed has none of them. None also for a consumer that was stopped: it says so itself.
    """
    if consumer._closed:
        return None
    if consumer._fetcher is None:
        return "it is not started"
    tasks = {
        "coordination": getattr(consumer._coordinator, "_coordination_task", None),
        "fetching": consumer._fetcher._fetch_task,
        "metadata": consumer._client._sync_task,
    }
    for name, task in tasks.items():
        if task is not None and task.done():
            error = None if task.cancelled() else task.exception()
            return f"its {name} task ended" + ("" if error is None else f" with {described(error)}")
    return None
