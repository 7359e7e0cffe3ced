"""What one run proved: its figures, what of it may not be, the known faults that it shows. Pure but for the logs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from darkroom.consumer.audit.audit import AuditReport
from darkroom.schemas.events.completion import Completion, Status
from tests.autoscale.case import Case
from tests.autoscale.pod import Ending, Pod

WINDOW_S: Final = 40.0
"""Of stabilisation, by values.yaml: no worker may be stopped younger."""
TURNS_MAX: Final = 3
"""Up with the burst and down after it is one; the trickle may take the fleet up once more."""


@dataclass(slots=True)
class Figures:
    """What one run took. Seconds from the first request on, but for those that say otherwise."""

    requests: int = 0
    transactions: int = 0
    """In which half of the burst was sent."""
    partitions: int = 0
    workers_max: int = 0
    lag_max: int = 0
    lag_seen_s: float = 0.0
    """KEDA says that there is work."""
    first_worker_s: float = 0.0
    """Its process runs."""
    first_ready_s: float = 0.0
    all_workers_s: float = 0.0
    """As many as there may be are ready."""
    first_picture_s: float = 0.0
    """The first completion."""
    burst_done_s: float = 0.0
    """The last completion of the burst."""
    scale_in_s: float = 0.0
    """The first SIGTERM."""
    last_request_s: float = 0.0
    lag_gone_after_last_s: float = 0.0
    """From the last request to no lag."""
    zero_after_lag_gone_s: float = 0.0
    """From no lag to no worker, the cooldown included."""
    workers_started: int = 0
    stopped_at_work: int = 0
    """Workers that published after their SIGTERM."""
    published_while_draining: int = 0
    longest_drain_s: float = 0.0
    youngest_stopped_s: float = 0.0
    """The least time from a worker's start to its SIGTERM."""
    turns: int = 0
    """How often the number of workers that Kubernetes wants changed from growing to shrinking or back."""
    rendered_twice: int = 0
    """Requests, by the workers' logs: a partition that moves while its requests are on a device takes them along."""
    audit: dict[str, object] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def rendered(pods: Iterable[Pod]) -> Counter[str]:
    """How often each request was rendered, by the workers' logs."""
    counted: Counter[str] = Counter()
    for pod in pods:
        for line in pod.log.read_text(errors="replace").splitlines() if pod.log.exists() else ():
            if '"rendered"' in line:
                counted[json.loads(line)["request_id"]] += 1
    return counted


def turns(wanted: Iterable[int]) -> int:
    """How often a number changed its direction; one that goes up and then down does once."""
    steps = [later - earlier for earlier, later in pairwise(wanted) if later != earlier]
    return sum(1 for earlier, later in pairwise(steps) if (earlier > 0) != (later > 0))


def live_cases(figures: Figures) -> list[Case]:
    """What the story shows of the known faults."""
    whole = not figures.problems
    return [
        Case(
            3,
            "a transactional producer's control records are a lag for ever",
            f"{figures.transactions} transactions left control records, and the fleet went to zero",
            whole,
            live=True,
        ),
        Case(
            4,
            "a group without offsets is never woken",
            f"the init job gave all {figures.partitions} partitions an offset, and the fleet woke from zero",
            whole,
            live=True,
        ),
        Case(
            8,
            "scale-in kills whoever it likes",
            f"{figures.stopped_at_work} workers were stopped at work and drained: nothing lost, nothing answered twice",
            whole,
            live=True,
        ),
        Case(
            9,
            "a fleet that comes and goes pauses everybody",
            f"the number wanted turned {figures.turns} times; the youngest that was stopped was "
            f"{figures.youngest_stopped_s:.0f} s old",
            figures.turns <= TURNS_MAX and figures.youngest_stopped_s >= WINDOW_S,
            live=True,
        ),
    ]


def late_publications(endings: Iterable[Ending], completions: Iterable[Completion]) -> Counter[str]:
    """How much each worker published between its SIGTERM and its end, of those that published anything then."""
    asked = {ending.pod: ending.asked_at for ending in endings if ending.asked_at}
    return Counter(
        one.worker for one in completions if one.worker in asked and one.completed_at.timestamp() > asked[one.worker]
    )


def audit_problems(report: AuditReport, sent: int) -> list[str]:
    """What is wrong where all of so many requests were to succeed, once each, by their first rendering."""
    problems = [] if report.is_clean else [f"the audit found: {report}"]
    if report.succeeded != sent or report.records != sent:
        problems.append(f"{report.succeeded} of {report.records} records succeeded, and {sent} were sent")
    if report.pending or report.replayed:
        problems.append(f"{report.pending} are pending and {report.replayed} were answered as repetitions")
    return problems


def unlike_one_success(completions: Collection[Completion]) -> list[str]:
    """Requests that were answered twice or did not succeed, as our own reader saw them."""
    seen = Counter(one.request_id for one in completions)
    problems = [f"{request_id} was answered {times} times" for request_id, times in seen.items() if times > 1]
    failed = (one for one in completions if one.status is not Status.SUCCEEDED)
    return problems + [f"{one.request_id} ended {one.status.value}: {one.error}" for one in failed]
