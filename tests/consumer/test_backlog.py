"""Proves the estimate behind `darkroom_lag_seconds`: by the profile where there is one, else by the measured rate."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from darkroom.consumer.core import events as on
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.worker.backlog import MeanSeconds, backlog_seconds
from darkroom.consumer.worker.metrics import Metrics, WorkerGauges
from darkroom.consumer.worker.payload import Payload, Received
from darkroom.consumer.worker.ports import Delivery, Record
from darkroom.inference.engine import LaneEngine
from darkroom.inference.planning.calibration import Calibration
from darkroom.inference.planning.profile_store import ProfileStore
from darkroom.inference.planning.reuse import full_calls_of
from darkroom.inference.planning.step_curve import StepCurve
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.inference.types import SHALLOW_SHARE, JobRendered, RenderRequest
from tests.consumer.core.builders import P0, arrive, facts, key, opened
from tests.inference.profiles import flat, gaining, profile, shape
from tests.inference.scripted import INFO, job

REQUEST = job("any", steps=10).request


def seconds(known: list[RenderRequest], unread: int = 0, mean_s: float | None = None) -> float | None:
    made = profile(shape(gaining, side=8, decode_ms=0.0), shape(flat, side=16, decode_ms=0.0))
    return backlog_seconds(made, INFO, known, unread, rows_max=8, mean_s=mean_s)


def test_rows_share_their_steps_as_far_as_the_cap_and_their_number_go() -> None:
    guided = replace(REQUEST, guidance_scale=5.0)
    assert seconds([]) == 0
    assert seconds([guided]) == pytest.approx(10 * gaining(2) / 1000), "nobody to share with"
    assert seconds([guided, guided]) == pytest.approx(10 * gaining(4) / 1000)
    assert seconds([replace(guided, count=2)]) == pytest.approx(10 * gaining(4) / 1000), "an image is a row"
    large = replace(guided, width=128, height=128)
    assert seconds([large] * 5) == pytest.approx(5 * 10 * flat(2) / 1000)
    assert seconds([guided, large]) == pytest.approx(10 * (gaining(2) + flat(2)) / 1000), "sizes do not share"


def test_an_economy_row_counts_by_the_full_steps_that_it_is_worth() -> None:
    exact = replace(REQUEST, steps=22, sampler="euler", guidance_scale=5.0, width=128, height=128)
    full = full_calls_of(replace(exact, fidelity="economy"))
    assert full == 8
    worth = full + SHALLOW_SHARE * (22 - full)
    assert seconds([replace(exact, fidelity="economy")]) == pytest.approx(worth * flat(2) / 1000)
    assert seconds([exact]) == pytest.approx(22 * flat(2) / 1000)


def test_an_economy_row_counts_by_the_measured_time_of_its_shallow_steps() -> None:
    exact = replace(REQUEST, steps=22, sampler="euler", guidance_scale=5.0)
    measured = replace(shape(gaining, side=8, decode_ms=0.0), shallow=StepCurve({1: 2.0, 2: 3.0}))
    economy = [replace(exact, fidelity="economy")] * 2
    found = backlog_seconds(profile(measured), INFO, economy, 0, rows_max=8, mean_s=None)
    assert found == pytest.approx((8 * gaining(4) + 14 * 3.0) / 1000)


def test_unread_records_count_with_the_mean_of_what_is_known_or_was_rendered_last() -> None:
    large = replace(REQUEST, guidance_scale=5.0, width=128, height=128)
    one = seconds([large])
    assert one is not None
    assert seconds([large], unread=9) == pytest.approx(10 * one)
    assert seconds([], unread=4, mean_s=0.5) == 2.0
    assert seconds([], unread=4) is None, "nothing to tell by"


def test_the_running_mean_follows_a_change() -> None:
    mean = MeanSeconds()
    assert mean.value is None
    mean.add(1.0)
    assert mean.value == 1.0
    for _ in range(100):
        mean.add(3.0)
    assert mean.value == pytest.approx(3.0, abs=0.05)


def gauges(engine: LaneEngine, unread: int) -> WorkerGauges:  # type: ignore[type-arg]
    """A worker that holds one request, looked up, with `unread` records behind it."""
    core = opened(Limits())
    arrive(core, facts(0))
    received = Received(
        record=Record(offset=0, timestamp_ms=0, key=None, value=b"", headers=()),
        event_id="e",
        request_digest="d",
        requested_at=datetime.now(UTC),
        render=REQUEST,
    )
    delivered = {P0: Delivery(P0, (), position=1, end=1 + unread)}
    metrics = Metrics(CollectorRegistry())
    gauge = WorkerGauges(core.snapshot, engine, delivered, {key(0): Payload(received)}, metrics, rows_max=8)
    assert gauge.lag_records() == {P0: 1 + unread}
    if unread == 0:
        core.handle(on.OutcomeFound(key(0)), 0.0)
        assert gauge.lag_seconds() == 0.0 or engine.profile is None, "what needs no device takes none of its time"
    metrics.on_engine(JobRendered("x", (), 1.0, 1.0, 2.0, 1, 1))
    return gauge


def test_with_a_profile_the_lag_is_device_seconds(tmp_path: Path) -> None:
    engine = LaneEngine(
        SimulatedDevice(curve={1: 100.0, 8: 800.0}), rows_max=8, calibration=Calibration(ProfileStore(tmp_path), 1.0, 8)
    )
    engine.start(lambda event: None)
    try:
        assert gauges(engine, unread=3).lag_seconds() == pytest.approx(4 * 10 * 0.1)
        done = gauges(engine, unread=0)
        assert done.lag_seconds() == 0.0
    finally:
        engine.close()


def test_without_a_profile_the_lag_follows_the_measured_rate() -> None:
    engine = LaneEngine(SimulatedDevice(100.0), rows_max=8)
    gauge = gauges(engine, unread=9)
    assert gauge.lag_seconds() == float("inf"), "nothing was finished yet"
    gauge._busy.finished(5)
    assert 0 < gauge.lag_seconds() < float("inf")
