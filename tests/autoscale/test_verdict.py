"""Proves that the proof's verdict is bad for each thing that may not happen, and that late publications are told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from darkroom.consumer.audit.audit import AuditReport
from darkroom.producer.outcomes import completions
from darkroom.producer.outcomes.completions import Answered
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import Completion, ImageRef, Source
from tests.autoscale.case import Case
from tests.autoscale.pod import Ending
from tests.autoscale.report import table
from tests.autoscale.verdict import Figures, audit_problems, late_publications, live_cases, turns, unlike_one_success

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLEAN = AuditReport(2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, [], [], [], [], [])


def succeeded(request_id: str, worker: str = "worker-1", after_s: float = 0.0) -> Completion:
    source = Source(topic="requests", partition=0, offset=int(request_id))
    answered = Answered(request_id, "default", "event", source, f"sha256:{'1' * 64}", worker)
    image = ImageRef(
        bucket="darkroom",
        key=f"default/{request_id}/0-{'a' * 16}.png",
        width=64,
        height=64,
        seed=1,
        content_type="image/png",
        size_bytes=10,
        sha256="a" * 64,
    )
    return completions.succeeded(answered, [image], completions.NO_WORK, completed_at=NOW + timedelta(seconds=after_s))


@pytest.mark.parametrize(
    "report",
    [
        replace(CLEAN, missing=["requests-0-1"]),
        replace(CLEAN, duplicated=["requests-0-1"]),
        replace(CLEAN, objects_missing=["darkroom/a"]),
        replace(CLEAN, objects_corrupt=["darkroom/a"]),
        replace(CLEAN, pending=1),
        replace(CLEAN, replayed=1),
        replace(CLEAN, succeeded=1, failed=1),
        replace(CLEAN, records=3, succeeded=3),
    ],
)
def test_what_the_audit_may_not_find_is_a_problem(report: AuditReport) -> None:
    assert audit_problems(CLEAN, sent=2) == []
    assert audit_problems(report, sent=2)


def test_two_answers_or_a_failure_are_problems() -> None:
    one, two = succeeded("1"), succeeded("2")
    assert unlike_one_success([one, two]) == []
    assert unlike_one_success([one, two, one]) == ["1 was answered 2 times"]
    answered = Answered("3", "default", "event", two.source, None, "worker-1")
    failed = completions.failed(answered, ErrorCode.RENDER_FAILED, "It failed.", completed_at=NOW)
    assert len(unlike_one_success([one, failed])) == 1


def test_only_what_came_after_a_workers_own_sigterm_was_published_while_it_drained() -> None:
    endings = [
        Ending(pod, NOW.timestamp() + 10, NOW.timestamp() + 12, 0, killed=False) for pod in ("worker-1", "worker-2")
    ]
    found = [succeeded("1", after_s=9), succeeded("2", after_s=11), succeeded("3", "worker-3", after_s=11)]
    assert late_publications(endings, found) == {"worker-1": 1}


@pytest.mark.parametrize(
    ("wanted", "times"),
    [([0, 0, 1, 4, 4, 2, 0], 1), ([0, 4, 2, 3, 3, 0], 3), ([], 0), ([2, 2], 0), ([1, 3, 2, 5, 4], 3)],
)
def test_turns_are_changes_of_direction(wanted: list[int], times: int) -> None:
    assert turns(wanted) == times


def test_a_fleet_that_flaps_or_stops_young_workers_is_a_fault() -> None:
    def holds(figures: Figures) -> list[int]:
        return [case.number for case in live_cases(figures) if not case.holds]

    assert holds(Figures(turns=1, youngest_stopped_s=60.0)) == []
    assert holds(Figures(turns=5, youngest_stopped_s=60.0)) == [9]
    assert holds(Figures(turns=1, youngest_stopped_s=20.0)) == [9]
    assert holds(Figures(turns=1, youngest_stopped_s=60.0, problems=["a record is lost"])) == [3, 4, 8]


def test_the_table_says_what_was_wrong() -> None:
    good = Case(1, "a fault", "seen", holds=True, live=True)
    assert table(None, [good], good=True).endswith("GOOD")
    figures = Figures(problems=["a record is lost"])
    said = table(figures, [replace(good, holds=False)], good=False)
    assert "PROBLEM: a record is lost" in said
    assert "BAD  a fault" in said
    assert said.endswith("BAD")
