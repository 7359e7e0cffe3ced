"""Proves what the batcher is for, under Poisson arrivals at 70% of what one request at a time can carry.

The real core and batcher run on a virtual clock. The device is a curve: on a flat one sharing steps only delays, on one
that gains it pays. The same arrivals are served one by one and in batches of whole requests; those two are plain loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean

import pytest

from darkroom.consumer.core.limits import Limits
from darkroom.consumer.planner.topic import Arrival, Delays
from darkroom.inference.planning.profile import DeviceProfile
from darkroom.inference.types import BatchKey, RowCaps
from tests.bench.one_worker import Run, poisson, simulate
from tests.bench.queues import first_come_first_served, request_batches
from tests.inference.profiles import flat, gaining, profile, shape
from tests.inference.scripted import job

KEY = BatchKey(8, 8, "revision")
GUIDED = replace(job("any", steps=25).request, guidance_scale=5.0)
MIXED = (20, 25, 30, 40)
ROWS_MAX = 8
LIMITS = Limits(batch_rows_max=ROWS_MAX)
SEEDS = range(8)
SAME = 1.001
"""Arrivals and the times of steps are the same to the last bit for all policies, so what serves one by one in the order
of arrival has the same latencies but for the rounding of sums: there is no sampling noise between them to allow for."""


def made(ms: Callable[[int], float]) -> DeviceProfile:
    return profile(shape(ms, rows=ROWS_MAX))


def nearly_flat(slots: int) -> float:
    """Eight rows together have 4% more throughput than one: not worth eight times the latency."""
    return 1.0 + 10.0 * slots


def load(device: DeviceProfile, seed: int, *, share: float = 0.7, count: int = 300) -> list[Arrival]:
    alone_s = mean(MIXED) * device.step_ms(8, 8, unet_slots=2, control_slots=0) / 1000
    return list(poisson(GUIDED, KEY, per_second=share / alone_s, count=count, seed=seed, steps=MIXED))


def p95(runs: Sequence[Run]) -> float:
    return mean(run.latency_s(0.95) for run in runs)


@pytest.mark.parametrize("curve", [flat, nearly_flat])
def test_on_a_flat_curve_latency_is_that_of_first_come_first_served(curve: Callable[[int], float]) -> None:
    device = made(curve)
    assert device.cap(8, 8, rows_max=ROWS_MAX) == 1
    for seed in SEEDS:
        arrivals = load(device, seed)
        ours, theirs = simulate(device, arrivals, LIMITS), first_come_first_served(device, arrivals)
        assert ours.latency_s(0.95) <= SAME * theirs.latency_s(0.95)
        assert mean(ours.latencies_s) <= SAME * mean(theirs.latencies_s)


def test_joining_without_a_cap_would_be_worse_on_a_flat_curve() -> None:
    """The cap is what keeps the promise above: without it the same batcher breaks it."""
    device = made(flat)
    loads = [load(device, seed) for seed in SEEDS]
    # A profile that promises a gain which the device does not have.
    uncapped = [simulate(_lying(device), arrivals, LIMITS) for arrivals in loads]
    served = [first_come_first_served(device, arrivals) for arrivals in loads]
    assert p95(uncapped) > 1.2 * p95(served)


def test_on_a_curve_that_gains_it_is_better_than_both() -> None:
    device = made(gaining)
    cap = device.cap(8, 8, rows_max=ROWS_MAX)
    assert cap > 2
    loads = [load(device, seed) for seed in SEEDS]
    ours = [simulate(device, arrivals, LIMITS) for arrivals in loads]
    assert max(rows for run in ours for rows in run.steps_by_rows) <= cap
    served = p95([first_come_first_served(device, arrivals) for arrivals in loads])
    batched = min(
        p95([request_batches(device, arrivals, cap=cap, equal_steps=equal) for arrivals in loads])
        for equal in (True, False)
    )
    assert p95(ours) <= 0.6 * served
    assert p95(ours) <= 0.8 * batched


def test_a_backlog_has_the_best_throughput_and_arrivals_keep_their_latency() -> None:
    device = made(nearly_flat)
    paying, best = device.caps(8, 8, rows_max=ROWS_MAX)
    assert paying == 1 < best
    never = replace(LIMITS, backlog_s=1e9)
    alone_s = 25 * device.step_ms(8, 8, unet_slots=2, control_slots=0) / 1000
    together_s = 25 * device.step_ms(8, 8, unet_slots=2 * best, control_slots=0) / 1000
    backlog = [Arrival(0.0, GUIDED, KEY) for _ in range(10 * best)]
    ours, before = simulate(device, backlog, LIMITS), simulate(device, backlog, never)
    assert before.busy_s == pytest.approx(10 * best * alone_s)
    assert ours.busy_s <= 1.002 * 10 * together_s < 0.97 * before.busy_s
    for seed in SEEDS:
        arrivals = load(device, seed)
        assert simulate(device, arrivals, LIMITS).latencies_s == simulate(device, arrivals, never).latencies_s
    crowded = load(device, 1, share=1.02)
    assert simulate(device, crowded, LIMITS).busy_s < simulate(device, crowded, never).busy_s


def test_the_same_load_has_the_same_answer_and_every_request_one_latency() -> None:
    device = made(gaining)
    delays = Delays(look_up_s=0.01, commit_s=0.03, prepare_s=0.02, settle_s=0.05)
    runs = [simulate(device, load(device, 1), LIMITS, delays, partitions=4) for _ in range(2)]
    assert runs[0] == runs[1]
    least = 0.01 + 2 * 0.03 + 0.02 + 0.05
    fastest = min(MIXED) * device.step_ms(8, 8, unet_slots=2, control_slots=0) / 1000
    assert all(latency >= least + fastest for latency in runs[0].latencies_s)
    without = simulate(device, load(device, 1), LIMITS)
    assert p95(runs) > p95([without])


def test_more_than_the_device_can_carry_is_held_back_and_still_answered() -> None:
    device = made(flat)
    small = Limits(batch_rows_max=ROWS_MAX, waiting_rows_max=5, offset_window=8)
    run = simulate(device, load(device, 1, share=10.0, count=100), small, partitions=2)
    assert run.busy_s == pytest.approx(run.ended_at_s, rel=0.05), "the device was never idle"
    assert len(run.latencies_s) == 100


def test_requests_of_several_images_and_sizes_are_answered() -> None:
    device = profile(shape(flat, side=16), shape(gaining, side=8))
    large = BatchKey(16, 16, "revision")
    arrivals = [
        Arrival(0.01 * number, replace(GUIDED, count=1 + number % 3, steps=3), large if number % 4 == 0 else KEY)
        for number in range(60)
    ]
    run = simulate(device, arrivals, LIMITS, partitions=3)
    assert all(latency > 0 for latency in run.latencies_s)


def _lying(device: DeviceProfile) -> DeviceProfile:
    class Lying(DeviceProfile):
        def caps(self, latent_height: int, latent_width: int, *, rows_max: int) -> RowCaps:
            return RowCaps(rows_max, rows_max)

    return Lying(device.key, device.shapes)
