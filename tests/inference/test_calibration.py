"""Proves what is measured and when it ends, where a profile comes from at the start, and that devices can be timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from darkroom.inference.engine import LaneEngine
from darkroom.inference.planning.calibration import Calibration, NotMeasurableError, measure_shape, with_shape
from darkroom.inference.planning.profile import DeviceProfile, Ended, ProfileKey
from darkroom.inference.planning.profile_store import ProfileStore
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.inference.types import (
    DeviceLost,
    FaultKind,
    JobPrepared,
    ModelError,
    Part,
    RenderFault,
    RowCaps,
    RowId,
    StepDone,
)
from tests.inference.devices import EVERY, make_device
from tests.inference.profiles import flat, gaining
from tests.inference.scripted import EventLog, FakeClock, ScriptedDevice, job

NO_MEMORY = RenderFault(FaultKind.BATCH_MEMORY, "out_of_memory", "no")


def timed(ms: Callable[[int], float], clock: FakeClock | None = None) -> ScriptedDevice:
    """A device whose UNet takes so long and whose ControlNet half of it, on the clock too where one is given."""

    def measure(part: Part, height: int, width: int, count: int) -> float:
        took = {
            Part.UNET: ms(count),
            Part.CONTROLNET: ms(count) / 2,
            Part.REST: 0.0,
            Part.SHALLOW: 1.0 + count / 4,
            Part.DECODE: 7.0,
        }
        seconds = took[part] / 1000
        if clock is not None:
            clock.pass_by(seconds)
        return seconds

    return ScriptedDevice(on_measure=measure)


def slots_of(device: ScriptedDevice, part: Part = Part.UNET) -> list[int]:
    return [count for measured, _, _, count in device.measured if measured is part]


def test_batches_are_doubled_up_to_the_most_that_may_share_a_step() -> None:
    device = timed(gaining)
    shape = measure_shape(device, 8, 4, rows_max=6)
    assert slots_of(device) == [1, 2, 4, 8, 12]
    assert {(height, width) for _, height, width, _ in device.measured} == {(8, 4)}
    assert (shape.ended, shape.rows_asked, shape.decode_ms, shape.rest) == (Ended.ROWS_MAX, 6, 7.0, None)
    assert dict(shape.unet.points) == pytest.approx({slots: gaining(slots) for slots in (1, 2, 4, 8, 12)})
    assert shape.controlnet is not None
    assert dict(shape.controlnet.points) == pytest.approx({slots: gaining(slots) / 2 for slots in (1, 2, 4, 8, 12)})
    assert shape.shallow is not None
    assert dict(shape.shallow.points) == pytest.approx({rows: 1.0 + rows / 4 for rows in (1, 2, 4, 6)})


def test_it_ends_where_the_next_batch_does_not_fit() -> None:
    def until_eight(slots: int) -> float:
        if slots > 8:
            raise NO_MEMORY
        return gaining(slots)

    shape = measure_shape(timed(until_eight), 8, 8, rows_max=16)
    assert (shape.ended, shape.unet.rows_max) == (Ended.MEMORY, 8)


def test_it_ends_when_two_batches_in_a_row_are_worse_and_not_after_one() -> None:
    device = timed(lambda slots: slots**2)
    assert measure_shape(device, 8, 8, rows_max=64).ended is Ended.THROUGHPUT
    assert slots_of(device) == [1, 2, 4, 8]
    unlucky = timed(lambda slots: 1000.0 if slots == 4 else gaining(slots))
    assert measure_shape(unlucky, 8, 8, rows_max=16).ended is Ended.ROWS_MAX


def test_a_batch_that_took_longer_than_a_larger_one_was_disturbed() -> None:
    shape = measure_shape(timed(lambda slots: 1000.0 if slots == 4 else gaining(slots)), 8, 8, rows_max=8)
    assert dict(shape.unet.points)[4] == gaining(8)


def test_it_ends_before_the_budget_is_overdrawn() -> None:
    clock = FakeClock()
    device = timed(lambda slots: slots * 100.0, clock)
    began = clock()
    shape = measure_shape(device, 8, 8, rows_max=64, budget_s=5.0, clock=clock)
    assert (shape.ended, shape.unet.rows_max) == (Ended.BUDGET, 16)
    assert clock() - began <= 5.0 + shape.decode_ms / 1000


def test_steps_that_take_no_time_have_no_curve() -> None:
    with pytest.raises(NotMeasurableError, match="no time"):
        measure_shape(timed(lambda slots: 0.0), 8, 8, rows_max=4)


def test_a_budget_that_holds_no_batch_of_two_says_nothing() -> None:
    clock = FakeClock()
    with pytest.raises(NotMeasurableError, match="CALIBRATE_S"):
        measure_shape(timed(lambda slots: slots * 100.0, clock), 8, 8, rows_max=4, budget_s=0.5, clock=clock)


def test_a_device_without_room_for_one_row_cannot_be_measured() -> None:
    def never(slots: int) -> float:
        raise NO_MEMORY

    with pytest.raises(NotMeasurableError, match="memory"):
        measure_shape(timed(never), 8, 8, rows_max=4)


# --- At the start -----------------------------------------------------------------------------------------


def at_start(folder: Path, device: ScriptedDevice, *, rows_max: int = 8, budget_s: float = 9.0) -> DeviceProfile | None:
    return Calibration(ProfileStore(folder), budget_s, rows_max)(device)


def test_a_profile_is_measured_once_and_then_found(tmp_path: Path) -> None:
    device = timed(gaining)
    measured = at_start(tmp_path, device)
    assert measured is not None
    assert measured.measured(8, 8) is not None, "the native size"
    again = timed(gaining)
    assert at_start(tmp_path, again) == measured
    assert again.measured == []


def test_it_is_measured_again_on_other_hardware_and_for_larger_batches(tmp_path: Path) -> None:
    at_start(tmp_path, timed(gaining))
    other = timed(flat)
    other.hardware = {"hardware": "another"}
    at_start(tmp_path, other)
    assert other.measured
    larger = timed(gaining)
    profile = at_start(tmp_path, larger, rows_max=16)
    assert slots_of(larger)[-1] == 32
    assert profile is not None
    smaller = timed(gaining)
    assert at_start(tmp_path, smaller, rows_max=2) == profile
    assert smaller.measured == []


def test_a_profile_without_shallow_calls_is_measured_again(tmp_path: Path) -> None:
    device = timed(gaining)
    whole = at_start(tmp_path, device)
    assert whole is not None
    store = ProfileStore(tmp_path)
    store.save(replace(whole, shapes=tuple(replace(one, shallow=None) for one in whole.shapes)))
    again = timed(gaining)
    assert at_start(tmp_path, again) == whole == store.load(whole.key)
    assert again.measured, "an earlier release stored it"


def test_sizes_measured_before_are_kept(tmp_path: Path) -> None:
    device = timed(gaining)
    key = ProfileKey.of(device.info, device.measured_on())
    ProfileStore(tmp_path).save(with_shape(None, key, measure_shape(device, 16, 16, rows_max=2)))
    profile = at_start(tmp_path, device)
    assert profile is not None
    assert {one.area for one in profile.shapes} == {64, 256}
    assert ProfileStore(tmp_path).load(key) == profile


def test_a_torn_file_is_measured_over(tmp_path: Path) -> None:
    device = timed(gaining)
    path = ProfileStore(tmp_path).path(ProfileKey.of(device.info, device.measured_on()))
    path.write_text("{")
    profile = at_start(tmp_path, device)
    assert profile is not None
    assert ProfileStore(tmp_path).load(profile.key) == profile


def test_what_the_budget_cut_short_is_used_and_not_kept(tmp_path: Path) -> None:
    clock = FakeClock()
    device = timed(lambda slots: slots * 100.0, clock)
    profile = Calibration(ProfileStore(tmp_path), 5.0, 64, clock)(device)
    assert profile is not None
    assert list(tmp_path.iterdir()) == []


def test_no_budget_no_profile(tmp_path: Path) -> None:
    device = timed(gaining)
    assert at_start(tmp_path, device, budget_s=0) is None
    assert device.measured == []


def test_a_device_that_is_lost_ends_the_start(tmp_path: Path) -> None:
    def lost(slots: int) -> float:
        raise DeviceLost("the GPU is gone")

    with pytest.raises(ModelError, match="the GPU is gone"):
        at_start(tmp_path, timed(lost))


def test_a_padded_device_s_buckets_are_in_its_profile() -> None:
    device = timed(gaining)
    device.padded_to = (2, 8)
    assert measure_shape(device, 8, 8, rows_max=4).step_ms(3, 0) == pytest.approx(gaining(8))


def test_nothing_else_that_goes_wrong_ends_the_start(tmp_path: Path) -> None:
    def broken(slots: int) -> float:
        raise RuntimeError("a kernel failed")

    assert at_start(tmp_path, timed(broken)) is None
    (tmp_path / "file").write_text("")
    assert at_start(tmp_path / "file", timed(gaining)) is not None, "a folder that cannot be used"


# --- In the engine ----------------------------------------------------------------------------------------


def test_the_engine_keeps_to_the_cap_and_tells_it(tmp_path: Path) -> None:
    device = timed(flat)
    engine = LaneEngine(device, rows_max=8, calibration=Calibration(ProfileStore(tmp_path), 9.0, 8))
    assert engine.profile is None
    log = EventLog()
    engine.start(log)
    try:
        assert engine.profile is not None
        for name in "abc":
            engine.prepare(job(name, steps=2))
        assert [log.wait(JobPrepared, name).caps for name in "abc"] == [RowCaps(1, 1)] * 3
        engine.admit([RowId(name, 0) for name in "abc"])
        log.wait(StepDone, count=6)
        assert {len(step.rows) for step in log.of(StepDone)} == {1}
    finally:
        engine.close()


def test_the_engine_takes_another_cap_up_to_the_best_one(tmp_path: Path) -> None:
    device = timed(lambda slots: 1.0 + 10.0 * slots)
    engine = LaneEngine(device, rows_max=4, calibration=Calibration(ProfileStore(tmp_path), 9.0, 4))
    log = EventLog()
    engine.start(log)
    try:
        engine.prepare(job("first", steps=1))
        told = log.wait(JobPrepared, "first")
        assert told.caps == RowCaps(1, 4)
        engine.set_cap(told.batch_key, 400)
        with pytest.raises(ValueError, match="above 0"):
            engine.set_cap(told.batch_key, 0)
        names = [f"job {number}" for number in range(8)]
        for name in names:
            engine.prepare(job(name, steps=3))
            log.wait(JobPrepared, name)
        engine.admit([RowId(name, 0) for name in names])
        log.wait(StepDone, count=6)
        assert [len(step.rows) for step in log.of(StepDone)] == [4] * 6, "more than the best is the best"
    finally:
        engine.close()


# --- Devices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_every_device_can_be_timed(name: str, request: pytest.FixtureRequest) -> None:
    device = make_device(name, request)
    device.load()
    info = device.info
    side = info.native_height // info.latent_factor
    seconds = {part: device.measure(part, side, side, 2) for part in Part}
    assert all(0 <= taken < 10 for taken in seconds.values())
    if name == "sdxl":
        assert all(taken > 0 for taken in seconds.values())
        assert seconds[Part.UNET] > seconds[Part.REST], "the network is what a step is about"
    assert all(isinstance(value, str) and value for value in device.measured_on().values())
    device.close()


@pytest.mark.render
def test_a_measured_network_is_slower_at_more_slots_and_larger_sizes(shared_device: Any) -> None:
    def unet(side: int, slots: int) -> float:
        return float(shared_device.measure(Part.UNET, side, side, slots))

    assert unet(16, 16) > 1.5 * unet(8, 2), "sixteen times the pixels, at two to four times the time or more"
    hits = shared_device.cache_counts()
    shared_device.measure(Part.REST, 8, 8, 3)
    assert shared_device.cache_counts() == hits, "requests' caches are not touched"


def test_a_simulated_device_answers_from_its_curve_without_sleeping() -> None:
    device = SimulatedDevice(curve={1: 10_000.0, 2: 12_000.0, 8: 40_000.0})
    shape = measure_shape(device, 8, 8, rows_max=8)
    assert dict(shape.unet.points) == {1: 10_000, 2: 10_000, 4: 12_000, 8: pytest.approx(64_000 / 3), 16: 40_000}
    assert shape.controlnet is None
    assert device.measured_on() == {}, "nothing to keep"
    with pytest.raises(NotMeasurableError):
        measure_shape(SimulatedDevice(0), 8, 8, rows_max=8)


def test_a_shape_replaces_its_earlier_measurement() -> None:
    device = timed(gaining)
    key = ProfileKey.of(device.info, {})
    first = measure_shape(device, 8, 8, rows_max=2)
    profile = with_shape(with_shape(None, key, first), key, replace(first, rows_asked=4))
    assert [one.rows_asked for one in profile.shapes] == [4]
