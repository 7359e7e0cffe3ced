"""Proves that a wall clock that is wrong, or jumps, decides neither an order nor a deadline that was read before."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from consumer.core.jobs import JobFacts
from consumer.core.partition_key import PartitionKey
from consumer.intake import AGE_S_MAX, Intake
from consumer.ports import Record
from inference.simulated import SimulatedDevice
from schemas.settings import LimitSettings

NOON = datetime(2030, 6, 1, 12, tzinfo=UTC)
P0 = PartitionKey("requests", 0)


def taken(offset: int, *, now: float, wall: datetime, written: datetime = NOON, **fields: object) -> JobFacts:
    """What the core is told of a record written at a time, read when the loop's clock says `now` and the wall's so."""
    intake = Intake(SimulatedDevice(0.0).info, LimitSettings(), request_bytes_max=1 << 20)
    value = json.dumps({"request_id": f"r{offset}", "prompt": "a figure", **fields}).encode()
    record = Record(offset, None, value, (), int(written.timestamp() * 1000))
    return intake.take(P0, record, now=now, wall=wall)[0]


def test_a_deadline_is_kept_by_the_clock_that_cannot_jump() -> None:
    facts = taken(0, now=100.0, wall=NOON, deadline=(NOON + timedelta(seconds=30)).isoformat())
    assert facts.deadline == 130.0, "whatever becomes of the wall clock from here on"


def test_a_clock_that_jumps_moves_a_record_in_the_order_by_an_hour_at_the_most() -> None:
    for jump in (timedelta(days=-3650), timedelta(days=3650)):
        before, after = taken(0, now=100.0, wall=NOON), taken(1, now=101.0, wall=NOON + jump)
        assert abs(after.waiting_since - before.waiting_since) <= AGE_S_MAX + 1.0
        assert after.waiting_since <= 101.0, "nothing waits since a time to come"


def test_a_time_stamp_of_another_age_is_bounded_the_same_way() -> None:
    for written in (datetime(1970, 1, 1, tzinfo=UTC), NOON, datetime(2900, 1, 1, tzinfo=UTC)):
        facts = taken(0, now=5000.0, wall=NOON, written=written)
        assert 5000.0 - AGE_S_MAX <= facts.waiting_since <= 5000.0
