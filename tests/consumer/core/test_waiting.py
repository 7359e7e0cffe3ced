"""Proves the order of the waiting room: by age, and by turns among partitions whose records came together."""

from __future__ import annotations

from darkroom.consumer.core import effects as do
from darkroom.consumer.core import events as on
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.core.partition_key import JobKey
from darkroom.consumer.core.waiting import TURN_S
from tests.consumer.core.builders import P0, P1, arrive, facts, of, opened


def begun_one_after_the_other(*arrivals: tuple[object, ...]) -> list[JobKey]:
    """The order in which waiting records are begun, one at a time. Arrivals: partition, offset, since when it waits."""
    core = opened(Limits(batch_rows_max=1, begin_ahead_rows_max=1), P0, P1)
    [first] = of(do.LookUp, arrive(core, facts(0, waiting_since=-100.0)))
    for partition, offset, since in arrivals:
        assert not of(do.LookUp, arrive(core, facts(offset, partition=partition, waiting_since=since)))  # type: ignore[arg-type]
    order = [first.job]
    for _ in arrivals:
        [following] = of(do.LookUp, core.handle(on.OutcomeFound(order[-1]), 0.0))
        order.append(following.job)
    return order[1:]


def test_partitions_whose_records_came_together_take_turns() -> None:
    burst = [(P0, offset, 0.0) for offset in (1, 2, 3)] + [(P1, offset, TURN_S / 2) for offset in (0, 1, 2)]
    order = begun_one_after_the_other(*burst)
    assert [key.partition for key in order] == [0, 1, 0, 1, 0, 1]
    for partition in (0, 1):
        offsets = [key.offset for key in order if key.partition == partition]
        assert offsets == sorted(offsets), "each partition's in their order"


def test_who_came_clearly_earlier_goes_first_however_many_they_are() -> None:
    late, early = [(P1, offset, 3 * TURN_S) for offset in (0, 1)], [(P0, offset, 0.0) for offset in (1, 2, 3)]
    assert [key.partition for key in begun_one_after_the_other(*late, *early)] == [0, 0, 0, 1, 1]
