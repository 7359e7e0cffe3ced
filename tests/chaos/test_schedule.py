"""Proves that faults and requests follow from the seed, and that each kind of both comes."""

from __future__ import annotations

import json
from itertools import islice

from tests.chaos.schedule import SESSION_S, Fault, Kind, schedule, together
from tests.chaos.traffic import Mix, Sort


def test_a_seed_gives_its_faults_and_every_kind_comes_before_any_comes_again() -> None:
    faults = list(islice(schedule(5, 3), 3 * len(Kind)))
    assert faults == list(islice(schedule(5, 3), 3 * len(Kind)))
    assert faults != list(islice(schedule(6, 3), 3 * len(Kind)))
    for start in range(0, len(faults), len(Kind)):
        assert {fault.kind for fault in faults[start : start + len(Kind)]} == set(Kind)
    assert {fault.victim for fault in faults} == {0, 1, 2}
    outlasting = {Kind.FREEZE_WORKER, Kind.CUT_OFF_WORKER}
    assert all(fault.length_s > SESSION_S for fault in faults if fault.kind in outlasting)


def test_faults_that_come_beside_another_are_in_its_group() -> None:
    kill, cut, slow = Fault(Kind.KILL_S3), Fault(Kind.CUT_KAFKA, beside=True), Fault(Kind.SLOW_S3)
    assert list(together(iter((kill, cut, slow)))) == [[kill, cut], [slow]]


def test_a_seed_gives_its_requests_and_every_sort_comes() -> None:
    mixes = [Mix(3, steps=(10, 20), markers=True) for _ in range(2)]
    made = [[mix.next() for _ in range(600)] for mix in mixes]
    sorts = {sort for sort, _ in made[0]}
    assert sorts == set(Sort) - {Sort.POISON}
    ids = [
        [json.loads(item.value or b"{}") for _, items in one for item in items if item.key[:1] == b"s"] for one in made
    ]
    for each in ids:
        for fields in each:
            fields.pop("deadline", None)  # the one thing that the clock decides
    assert ids[0] == ids[1]
    plain = Mix(3, steps=(2,), markers=False)
    assert not any(b"[[" in (item.value or b"") for _ in range(600) for item in plain.next()[1])
