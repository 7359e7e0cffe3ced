"""Proves that every task and thread of the product has an owner: each place that begins one is known, with a reason.

A place that is not in the table fails the test. Begin it with `darkroom.producer.tasks.TaskSupervisor`, or, where
whoever begins it also awaits it, add it here and say so.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("schemas", "inference", "producer", "consumer", "tools")
BEGINS = {
    "create_task",
    "ensure_future",
    "TaskGroup",
    "Thread",
    "Timer",
    "ThreadPoolExecutor",
    "ProcessPoolExecutor",
    "run_in_executor",
    "run_coroutine_threadsafe",
    "start_new_thread",
}

AWAITED = "whoever begins it awaits it, and takes its exception"
KNOWN: dict[str, tuple[Counter[str], str]] = {
    "producer/tasks.py": (Counter(create_task=3), "the owner itself"),
    "producer/kafka/closing.py": (
        Counter(create_task=2),
        "closing ends within a limit, and what is left then is cancelled until it has ended",
    ),
    "producer/gateway/routes/waiting.py": (Counter(create_task=2), AWAITED),
    "producer/kafka/administrator.py": (Counter(ensure_future=1), AWAITED),
    "producer/daemon_threads.py": (
        Counter(Thread=1),
        "one call that may never return; its outcome is awaited",
    ),
    "producer/tracing.py": (Counter(Thread=1), "the last spans' sending; the process ends without it after seconds"),
    "producer/renewing.py": (
        Counter(Thread=1),
        "one fetch that may never return; whatever it raises is told to callers",
    ),
    "producer/client/client.py": (Counter(create_task=1, ensure_future=2), AWAITED),
    "producer/store/s3_objects.py": (Counter(ThreadPoolExecutor=1, run_in_executor=1), AWAITED),
    "producer/store/s3_bucket.py": (Counter(ThreadPoolExecutor=1), AWAITED),
    "consumer/audit/pictures.py": (Counter(create_task=1), AWAITED),
    "consumer/worker/devices.py": (Counter(create_task=2), AWAITED),
    "consumer/worker/health.py": (Counter(Thread=1), "begins its server again when it ends, and counts that"),
    "consumer/provenance/remote_signer.py": (
        Counter(Thread=1),
        "one call that may never return; its outcome is awaited",
    ),
    "consumer/stack/download.py": (Counter(ThreadPoolExecutor=1), AWAITED),
    "inference/engine/lanes.py": (
        Counter(Thread=1),
        "a lane says `EngineStopped` however it ends, and the worker ends",
    ),
}
"""By module: the calls that begin something, and who owns what they begin."""


def begun(path: Path) -> Counter[str]:
    """The calls in a module that begin a task, a thread or a pool."""
    found: Counter[str] = Counter()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in BEGINS:
                found[name] += 1
    return found


def test_everything_that_runs_beside_has_an_owner() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): calls
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if (calls := begun(path))
    }
    assert found == {module: calls for module, (calls, _) in KNOWN.items()}


def swallowed(path: Path) -> list[int]:
    """Lines where results of several tasks are gathered with their exceptions, and the answer is thrown away."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Await)
        and isinstance(node.value.value, ast.Call)
        and getattr(node.value.value.func, "attr", "") == "gather"
        and any(keyword.arg == "return_exceptions" for keyword in node.value.value.keywords)
    ]


def test_exceptions_are_thrown_away_only_of_tasks_that_were_cancelled() -> None:
    """Each of these follows a loop that cancelled the tasks, at the end of whoever began them."""
    places = {
        path.relative_to(ROOT).as_posix(): len(lines)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if (lines := swallowed(path))
    }
    assert places == {
        "producer/tasks.py": 2,
        "producer/gateway/routes/waiting.py": 1,
        "producer/kafka/administrator.py": 1,
        "producer/client/client.py": 1,
        "consumer/audit/pictures.py": 1,
    }
