"""Proves that a run's verdict is bad for each thing that may not happen, and that the book measures what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from darkroom.consumer.audit.audit import AuditReport
from darkroom.producer.outcomes import completions
from darkroom.producer.outcomes.completions import Answered
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import Completion, ImageRef, Source, Status
from tests.chaos.traffic import SUCCEEDED, Ending, Sent
from tests.chaos.verdict import Verdict, judge, recovered
from tests.chaos.watch import Book, Spot

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLEAN = AuditReport(2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, [], [], [], [], [])


def answered(spot: Spot, request_id: str, digest: str) -> Answered:
    source = Source(topic="requests", partition=spot[0], offset=spot[1])
    return Answered(request_id, "default", "event", source, f"sha256:{digest * 64}", "worker")


def succeeded(spot: Spot, request_id: str, picture: str = "a", *, digest: str = "1") -> Completion:
    image = ImageRef(
        bucket="darkroom",
        key=f"default/{request_id}/0-{picture * 16}.png",
        width=64,
        height=64,
        seed=1,
        content_type="image/png",
        size_bytes=10,
        sha256=picture * 64,
    )
    return completions.succeeded(answered(spot, request_id, digest), [image], completions.NO_WORK, completed_at=NOW)


def failed(spot: Spot, request_id: str, code: ErrorCode) -> Completion:
    return completions.failed(answered(spot, request_id, "2"), code, "It failed.", completed_at=NOW)


def cancelled(spot: Spot, request_id: str) -> Completion:
    return completions.cancelled(answered(spot, request_id, "1"), None, completions.NO_WORK, completed_at=NOW)


class Case:
    """A clean run of two requests, to be spoilt."""

    def __init__(self) -> None:
        self.book, self.sent, self.report = Book(), Sent(), CLEAN
        self.sent.expected = {"one": SUCCEEDED, "two": SUCCEEDED}
        for spot, request_id in (((0, 0), "one"), ((1, 0), "two")):
            self.book.accepted(spot, 0.0)
            self.book.answered(spot, succeeded(spot, request_id), 1.0)

    def verdict(self) -> Verdict:
        verdict = Verdict(1, "a device", 1.0)
        judge(verdict, self.book, self.sent, self.report)
        return verdict


def lost(case: Case) -> None:
    case.report = replace(CLEAN, missing=["requests-0-1"])


def picture_missing(case: Case) -> None:
    case.report = replace(CLEAN, objects_missing=["darkroom/x"])


def picture_corrupt(case: Case) -> None:
    case.report = replace(CLEAN, objects_corrupt=["darkroom/x"])


def pending(case: Case) -> None:
    case.report = replace(CLEAN, pending=1)


def doubled_by_the_audit(case: Case) -> None:
    case.report = replace(CLEAN, duplicated=["requests-0-1"])


def never_answered(case: Case) -> None:
    case.book.accepted((3, 3), 2.0)


def answered_twice(case: Case) -> None:
    case.book.answered((0, 0), succeeded((0, 0), "one"), 2.0)


def an_innocent_failed(case: Case) -> None:
    case.sent.expected["three"] = SUCCEEDED
    case.book.answered((2, 0), failed((2, 0), "three", ErrorCode.WORKER_CRASH), 2.0)


def a_conflict_where_none_was_sent(case: Case) -> None:
    case.book.answered((2, 0), failed((2, 0), "one", ErrorCode.REQUEST_ID_CONFLICT), 2.0)


def another_picture_for_the_double(case: Case) -> None:
    case.book.answered((2, 0), succeeded((2, 0), "one", "b"), 2.0)


def both_of_a_conflict_succeeded(case: Case) -> None:
    case.sent.contested.add("one")
    case.book.answered((2, 0), succeeded((2, 0), "one", "b", digest="2"), 2.0)


def a_cancellation_that_nobody_sent(case: Case) -> None:
    case.sent.expected["three"] = SUCCEEDED
    case.book.answered((2, 0), cancelled((2, 0), "three"), 2.0)


def cancelled_for_one_record_and_not_for_the_other(case: Case) -> None:
    case.sent.withdrawn.add("one")
    case.book.answered((2, 0), cancelled((2, 0), "one"), 2.0)


def a_cancelled_request_answered_twice(case: Case) -> None:
    case.sent.expected["three"] = SUCCEEDED
    case.sent.withdrawn.add("three")
    for _ in range(2):
        case.book.answered((2, 0), cancelled((2, 0), "three"), 2.0)


def an_unreadable_record_not_in_the_dead_letters(case: Case) -> None:
    case.sent.unreadable.add((4, 4))


def a_killer_not_in_the_dead_letters(case: Case) -> None:
    case.sent.expected["killer"] = Ending(Status.FAILED, ErrorCode.WORKER_CRASH)
    case.book.answered((4, 4), failed((4, 4), "killer", ErrorCode.WORKER_CRASH), 2.0)


def a_dead_letter_twice(case: Case) -> None:
    for _ in range(2):
        case.book.answered((4, 4), "invalid_request", 2.0)


def an_aborted_record_answered(case: Case) -> None:
    case.sent.aborted.add((1, 0))


SPOILERS: tuple[Callable[[Case], None], ...] = (
    lost,
    picture_missing,
    picture_corrupt,
    pending,
    doubled_by_the_audit,
    never_answered,
    answered_twice,
    an_innocent_failed,
    a_conflict_where_none_was_sent,
    another_picture_for_the_double,
    both_of_a_conflict_succeeded,
    a_cancellation_that_nobody_sent,
    cancelled_for_one_record_and_not_for_the_other,
    a_cancelled_request_answered_twice,
    an_unreadable_record_not_in_the_dead_letters,
    a_killer_not_in_the_dead_letters,
    a_dead_letter_twice,
    an_aborted_record_answered,
)


def test_a_clean_run_is_good() -> None:
    verdict = Case().verdict()
    assert verdict.is_good
    assert verdict.as_dict()["good"] is True
    assert verdict.table().endswith("GOOD")


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_what_may_not_happen_makes_it_bad(spoil: Callable[[Case], None]) -> None:
    case = Case()
    spoil(case)
    verdict = case.verdict()
    assert not verdict.is_good
    assert verdict.table().endswith("BAD")


def test_a_worker_that_does_not_end_makes_it_bad() -> None:
    verdict = Case().verdict()
    verdict.unclean_ends.append("the worker at place 0 ended with 1")
    assert not verdict.is_good


def test_a_picture_that_is_not_its_requests_makes_it_bad() -> None:
    verdict = Case().verdict()
    verdict.wrong_pictures.append("one, image 0: differs by 200 of 255")
    assert not verdict.is_good


def test_a_cancelled_request_ends_as_cancelled_or_as_what_was_decided_before() -> None:
    case = Case()
    case.sent.withdrawn |= {"one", "three"}
    case.sent.expected["three"] = SUCCEEDED
    for spot in ((2, 0), (2, 1)):
        case.book.answered(spot, cancelled(spot, "three"), 2.0)
    assert case.verdict().is_good


def test_doubles_and_a_lost_conflict_are_as_they_should_be() -> None:
    case = Case()
    case.sent.contested.add("one")
    case.book.answered((2, 0), succeeded((2, 0), "one"), 2.0)
    case.book.answered((2, 1), failed((2, 1), "one", ErrorCode.REQUEST_ID_CONFLICT), 2.0)
    assert case.verdict().is_good


def test_the_book_measures_waits_and_stalls_only_while_work_is_waiting() -> None:
    book = Book()
    book.accepted((0, 0), 100.0)
    book.answered((0, 0), "code", 103.0)
    book.looked(500.0)  # nothing waits
    book.accepted((0, 1), 500.0)
    book.accepted((0, 2), 501.0)
    book.answered((0, 2), "code", 504.0)
    book.looked(509.0)
    assert book.longest_stall_s == 5.0
    assert book.longest_wait_s == 3.0
    book.answered((0, 3), "code", 510.0)  # visible before its acknowledgement
    book.accepted((0, 3), 511.0)
    assert list(book.waiting) == [(0, 1)]


def test_a_fault_is_recovered_from_when_every_partition_that_waited_has_moved() -> None:
    book = Book()
    for partition in (0, 1):
        book.accepted((partition, 0), 1.0)
    first = book.fault_ended("kill", 2.0)
    book.answered((0, 0), "code", 3.0)
    assert first.seconds is None
    book.answered((1, 0), "code", 5.5)
    assert first.seconds == 3.5
    assert book.fault_ended("kill", 6.0).seconds == 0.0, "nothing was held up"
    book.fault_ended("growth", 6.0, {7})
    rows = recovered({"kill": 2, "growth": 1}, book)
    assert rows["kill"] == {"count": 2, "median_s": 3.5, "worst_s": 3.5}
    assert rows["growth"]["worst_s"] is None
