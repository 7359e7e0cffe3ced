"""Proves the audit's book: whatever it was told, in whatever order, its findings are those of a plain model."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.consumer.audit.tally import LISTED_MAX, PAGE_OFFSETS, Committed, Tally
from darkroom.producer.outcomes import completions
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import Completion, Status
from tests.producer.examples import NOON, answered, source, success

TOPIC = "generation.requests"
OFFSETS = st.sampled_from([0, 1, 2, 3, PAGE_OFFSETS - 1, PAGE_OFFSETS, PAGE_OFFSETS + 1, 5_000_000_000])
PLACES = st.tuples(st.integers(0, 1), OFFSETS)
KINDS = st.sampled_from(["succeeded", "failed", "expired", "cancelled", "erased", "replayed", "conflict"])
TOLD = st.one_of(
    st.tuples(st.just("record"), PLACES, st.none()),
    st.tuples(st.just("completion"), PLACES, KINDS),
    st.tuples(st.just("dead"), PLACES, st.sampled_from(["invalid_request", "worker_crash"])),
)
COMMITTED = st.dictionaries(st.integers(0, 1), st.tuples(OFFSETS, st.frozensets(OFFSETS, max_size=3)))


def completion(partition: int, offset: int, kind: str, topic: str = TOPIC) -> Completion:
    about = answered(source=source(offset, partition, topic))
    match kind:
        case "succeeded":
            return success(source=about.source)
        case "expired":
            return completions.expired(about, completed_at=NOON)
        case "cancelled":
            return completions.cancelled(about, completed_at=NOON)
        case "erased":
            tombstone = completions.erased(about.tenant, about.request_id, None, by="a test", completed_at=NOON)
            return completions.for_record(tombstone, about, now=NOON)
        case "replayed":
            return completions.for_record(success(source=source(1, 9)), about, now=NOON)
        case "conflict":
            return completions.failed(about, ErrorCode.REQUEST_ID_CONFLICT, "", completed_at=NOON)
        case _:
            return completions.failed(about, ErrorCode.RENDER_FAILED, "", completed_at=NOON)


def tell(tally: Tally, told: tuple[str, tuple[int, int], Any]) -> None:
    what, (partition, offset), detail = told
    if what == "record":
        tally.record(partition, offset)
    elif what == "completion":
        tally.completion(completion(partition, offset, detail))
    else:
        tally.dead_letter(TOPIC, partition, offset, detail)


@settings(max_examples=150, deadline=None)
@given(st.lists(TOLD, max_size=30), COMMITTED)
def test_findings_are_those_of_a_plain_model(
    told: list[tuple[str, tuple[int, int], Any]], offsets: dict[int, tuple[int, frozenset[int]]]
) -> None:
    tally = Tally(TOPIC)
    for one in told:
        tell(tally, one)
    findings = tally.findings({partition: Committed(*at) for partition, at in offsets.items()})

    records = {place for what, place, _ in told if what == "record"}
    answers: dict[tuple[int, int], list[str]] = {}
    deaths: dict[tuple[int, int], list[str]] = {}
    for what, place, detail in told:
        if what == "completion":
            answers.setdefault(place, []).append(detail)
        elif what == "dead":
            deaths.setdefault(place, []).append(detail)
    name = "generation.requests-{}-{}".format
    wrong = {
        place
        for place in answers.keys() | deaths.keys()
        if len(answers.get(place, [])) > 1
        or len(deaths.get(place, [])) > 1
        or (place in answers and place in deaths and "worker_crash" not in deaths[place])
    }
    bare = records - answers.keys() - deaths.keys()
    finished = {
        (partition, offset)
        for partition, offset in bare
        if partition in offsets and (offset < offsets[partition][0] or offset in offsets[partition][1])
    }
    firsts = Counter(kinds[0] for place, kinds in answers.items() if place in records)
    assert findings.records == len(records)
    assert findings.by_status == {
        Status.SUCCEEDED: firsts["succeeded"] + firsts["replayed"],
        Status.FAILED: firsts["failed"] + firsts["conflict"],
        Status.EXPIRED: firsts["expired"],
        Status.CANCELLED: firsts["cancelled"],
        Status.ERASED: firsts["erased"],
    }
    assert findings.replayed == firsts["replayed"]
    assert findings.conflicts == firsts["conflict"]
    assert findings.dead_lettered == len(deaths.keys() & records)
    assert findings.missing == [name(*place) for place in sorted(finished)]
    assert findings.duplicated == [name(*place) for place in sorted(wrong)]
    assert findings.pending == len(bare - finished)


def test_outcomes_of_another_topics_records_are_not_of_this_book() -> None:
    tally = Tally(TOPIC)
    tally.record(0, 1)
    for _ in range(2):
        tally.completion(completion(0, 1, "succeeded", topic="staging.generation.requests"))
        tally.dead_letter("staging.generation.requests", 0, 1, "invalid_request")
    findings = tally.findings({})
    assert (findings.pending, findings.duplicated) == (1, [])


def test_a_list_is_bounded_and_says_by_how_much() -> None:
    tally = Tally(TOPIC)
    for offset in range(LISTED_MAX + 7):
        tally.record(0, offset)
    findings = tally.findings({0: Committed(LISTED_MAX + 7)})
    assert len(findings.missing) == LISTED_MAX + 1
    assert findings.missing[0] == "generation.requests-0-0"
    assert findings.missing[-1] == "and 7 more"
