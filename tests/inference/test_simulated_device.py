"""The simulated device: its times, its pictures, and the trouble that prompts may ask for.

What it shares with every device is in `test_engine_devices.py`.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from darkroom.inference.engine import LaneEngine
from darkroom.inference.planning.calibration import measure_shape
from darkroom.inference.planning.step_curve import CurveError
from darkroom.inference.pose.picture import PictureLimits
from darkroom.inference.simulated.device import CRASH_EXIT_CODE, SimulatedDevice, SimulatedRow
from darkroom.inference.simulated.wallpaper import SHOWN_BYTES, wallpaper
from darkroom.inference.types import (
    SHALLOW_SHARE,
    FaultKind,
    JobFailed,
    JobPrepared,
    JobRendered,
    RenderFault,
    RenderJob,
    StepDone,
    StepFailed,
)
from darkroom.schemas.events.pose import PeoplePose, SkeletonPose, StoredPicture
from tests.inference.profiles import flat, gaining, profile, shape
from tests.inference.scripted import EventLog, job, request, rows_of

ROOT = Path(__file__).resolve().parents[2]


def test_an_economy_row_takes_the_curves_time_in_its_full_steps_and_a_share_of_it_in_the_others() -> None:
    device = SimulatedDevice(10.0, {1: 10.0, 2: 16.0})
    asked = replace(request(steps=22), sampler="euler")
    exact, economy = (
        device.prepare(RenderJob("job", replace(asked, fidelity=one))).rows[0] for one in ("exact", "economy")
    )
    assert device.step_seconds([exact, economy]) == pytest.approx(0.016), "both are full"
    seconds = []
    for step in range(22):
        economy.steps_done = step
        seconds.append(device.step_seconds([economy]))
    full = sum(one == pytest.approx(0.01) for one in seconds)
    assert sum(seconds) == pytest.approx(0.01 * full + 0.01 * SHALLOW_SHARE * (22 - full))
    economy.steps_done = 22
    assert economy.full_steps == full < 12
    assert exact.shown != economy.shown, "it is another picture"


def prepared(device: SimulatedDevice, **asked: Any) -> list[SimulatedRow]:
    return list(device.prepare(job("job", **asked)).rows)


def elapsed_ms(call: Any, *args: Any) -> float:
    began = time.perf_counter()
    call(*args)
    return (time.perf_counter() - began) * 1000


# --- Times ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step_ms", "curve", "rows", "ms"),
    [
        (20.0, None, 1, 20.0),
        (20.0, None, 3, 20.0),
        (None, {1: 10.0, 3: 40.0}, 1, 10.0),
        (None, {1: 10.0, 3: 40.0}, 2, 25.0),
        (5.0, {1: 10.0, 3: 40.0}, 3, 20.0),
    ],
)
def test_a_step_takes_what_the_curve_says(
    step_ms: float | None, curve: dict[int, float] | None, rows: int, ms: float
) -> None:
    device = SimulatedDevice(step_ms, curve)
    batch = prepared(device, count=rows, steps=9)
    took = min(elapsed_ms(device.step, batch) for _ in range(3))
    assert ms <= took < ms + 15


@pytest.mark.parametrize(
    ("guidance", "posed", "rows", "ms"),
    [
        (1.0, False, 1, gaining(1)),
        (5.0, False, 1, gaining(2)),
        (5.0, True, 1, gaining(2) * 1.5),
        (5.0, False, 4, gaining(8)),
        (1.0, True, 4, gaining(4) * 1.5),
    ],
)
def test_with_a_profile_a_step_takes_what_its_slots_were_measured_to_take(
    guidance: float, posed: bool, rows: int, ms: float
) -> None:
    device = SimulatedDevice(profile=profile(shape(side=8, posed=True)))
    pose = PeoplePose(people=(tuple((0.5, 0.05 * point) for point in range(18)),)) if posed else None
    asked = replace(request(steps=2, count=rows), guidance_scale=guidance, pose=pose)
    batch = list(device.prepare(RenderJob("job", asked)).rows)
    assert device.step_seconds(batch) * 1000 == pytest.approx(ms)
    assert elapsed_ms(device.step, batch) >= ms


def test_an_engine_finds_the_profile_s_own_cap() -> None:
    for ms in (flat, gaining):
        given = profile(shape(ms, posed=True))
        measured = measure_shape(SimulatedDevice(profile=given), 8, 8, rows_max=8)
        for unet, control in ((1, 0), (2, 2), (16, 4)):
            assert measured.step_ms(unet, control) == pytest.approx(given.shapes[0].step_ms(unet, control))
        assert profile(measured).cap(8, 8, rows_max=8) == given.cap(8, 8, rows_max=8)


def test_prepare_and_finish_take_their_time() -> None:
    device = SimulatedDevice(0, prepare_ms=20, finish_ms=15)
    assert elapsed_ms(lambda: prepared(device, count=3)) >= 20
    rows = prepared(device, count=3, steps=1)
    device.step(rows)
    assert elapsed_ms(device.finish, rows) >= 45


def test_the_lanes_take_thousands_of_steps_a_second_at_0_ms() -> None:
    """Nothing polls or sleeps between steps: a lane that waited a millisecond a step would take ten times as long."""
    engine = LaneEngine(SimulatedDevice(0), rows_max=8)
    log = EventLog()
    engine.start(log)
    try:
        engine.prepare(job("job", steps=4000, count=8))
        log.wait(JobPrepared, "job")
        began = time.perf_counter()
        engine.admit(rows_of("job", 8))
        log.wait(JobRendered, "job")
        seconds = time.perf_counter() - began
    finally:
        engine.close()
    assert len(log.of(StepDone)) == 4000
    assert 4000 / seconds > 2000


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "step_ms, a curve or both"),
        ({"step_ms": 1, "profile": profile()}, "a profile and neither"),
        ({"step_ms": -1.0}, "step_ms is -1.0"),
        ({"step_ms": float("nan")}, "step_ms is nan"),
        ({"step_ms": 0, "prepare_ms": -1}, "prepare_ms is -1"),
        ({"step_ms": 0, "finish_ms": float("inf")}, "finish_ms is inf"),
        ({"step_ms": 0, "native_size": 60}, "native_size is 60"),
        ({"step_ms": 0, "native_size": 0}, "native_size is 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        SimulatedDevice(**options)


def test_a_bad_curve_is_refused() -> None:
    with pytest.raises(CurveError, match="no point for 1 row"):
        SimulatedDevice(0, {2: 1.0})


# --- Pictures -------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(
    one=st.binary(min_size=SHOWN_BYTES, max_size=SHOWN_BYTES),
    other=st.binary(min_size=SHOWN_BYTES, max_size=SHOWN_BYTES),
    width=st.integers(1, 40).map(lambda n: n * 8),
    height=st.integers(1, 40).map(lambda n: n * 8),
)
def test_a_wallpaper_is_a_whole_png_and_says_what_it_was_made_of(
    one: bytes, other: bytes, width: int, height: int
) -> None:
    content = wallpaper(one, width, height, {"key": "value"})
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()
        assert picture.size == (width, height)
        assert picture.info["key"] == "value"
    assert (content == wallpaper(other, width, height, {"key": "value"})) == (one == other)


def test_pictures_are_the_same_in_every_process_and_version() -> None:
    """The pixels are pinned: with other pixels `SIMULATED_REVISION` must be another."""
    device = SimulatedDevice(0)
    (row,) = prepared(device, steps=1)
    device.step([row])
    (image,) = device.finish([row])
    with Image.open(io.BytesIO(image.content)) as picture:
        pixels = hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest()
    assert (device.info.revision[:15], pixels[:16]) == ("sha256:a9eaa3f9", "278e36afbfb5af55")


def test_a_picture_is_cheap() -> None:
    text = {"darkroom:request": "x" * 500}
    shown = bytes(range(SHOWN_BYTES))
    assert min(elapsed_ms(wallpaper, shown, 64, 64, text) for _ in range(50)) < 0.3


def test_keypoints_decide_the_picture() -> None:
    device = SimulatedDevice(0)
    person = tuple((0.1 + point / 40, 0.5) for point in range(18))

    def shown(x: float, **other: Any) -> bytes:
        pose = PeoplePose(people=(((x, 0.5), *person[1:]),))
        return device.prepare(RenderJob("job", replace(request(), pose=pose, **other))).rows[0].shown

    assert shown(0.5) == shown(0.5)
    assert len({shown(0.5), shown(0.6), shown(0.5, control_end=0.5), prepared(device)[0].shown}) == 4


def test_pose_pictures_have_limits() -> None:
    device = SimulatedDevice(0, picture_limits=PictureLimits(bytes_max=10_000, pixels_max=64 * 64 - 1))
    content = io.BytesIO()
    Image.new("RGB", (64, 64)).save(content, "PNG")
    pose = SkeletonPose(image=StoredPicture(bucket="darkroom", key="pose.png"))
    with pytest.raises(RenderFault) as caught:
        device.prepare(RenderJob("job", replace(request(), pose=pose), {"pose": content.getvalue()}))
    assert (caught.value.kind, caught.value.code) == (FaultKind.REQUEST, "image_too_large")


# --- Trouble on request ---------------------------------------------------------------------------------


@pytest.fixture
def troubled() -> Iterator[tuple[LaneEngine[SimulatedRow], EventLog]]:
    engine = LaneEngine(SimulatedDevice(0, obey_markers=True), rows_max=8)
    log = EventLog()
    engine.start(log)
    yield engine, log
    engine.close()


def test_markers_are_text_like_any_other_unless_obeyed() -> None:
    device = SimulatedDevice(0)
    rows = prepared(device, prompt="[[simulate:crash prepare]] [[simulate:fail]] [[simulate:what]]", steps=1)
    device.step(rows)
    assert len(device.finish(rows)) == 1


@pytest.mark.parametrize("stage", ["", " prepare", " step", " finish"])
def test_crash_ends_the_process(stage: str) -> None:
    program = f"""
from darkroom.inference.simulated.device import SimulatedDevice
from tests.inference.scripted import job
device = SimulatedDevice(0, obey_markers=True)
rows = device.prepare(job("job", steps=1, prompt="[[simulate:crash{stage}]]")).rows
device.step(rows)
device.finish(rows)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT)
    assert done.returncode == CRASH_EXIT_CODE


def test_fail_fails_every_step_that_the_row_shares(troubled: tuple[LaneEngine[SimulatedRow], EventLog]) -> None:
    engine, log = troubled
    engine.prepare(job("bad", prompt="a dancer [[simulate:fail]]"))
    engine.prepare(job("good"))
    for name in ("bad", "good"):
        log.wait(JobPrepared, name)
    engine.admit([*rows_of("good"), *rows_of("bad")])
    failed = log.wait(StepFailed)
    assert (failed.rows, failed.fault.kind) == ((*rows_of("good"), *rows_of("bad")), FaultKind.BATCH)
    engine.admit(rows_of("good"))
    log.wait(JobRendered, "good")
    engine.admit(rows_of("bad"))
    assert log.wait(StepFailed, count=2).rows == tuple(rows_of("bad"))


@pytest.mark.parametrize("stage", ["prepare", "finish"])
def test_fail_at_another_stage_fails_the_job(troubled: tuple[LaneEngine[SimulatedRow], EventLog], stage: str) -> None:
    engine, log = troubled
    engine.prepare(job("bad", steps=1, prompt=f"[[simulate:fail {stage}]]"))
    if stage == "finish":
        log.wait(JobPrepared, "bad")
        engine.admit(rows_of("bad"))
    assert f"asked for one at {stage}" in log.wait(JobFailed, "bad").fault.message


def test_oom_is_about_the_rows_that_share_a_step(troubled: tuple[LaneEngine[SimulatedRow], EventLog]) -> None:
    engine, log = troubled
    engine.prepare(job("big", count=4, steps=2, prompt="[[simulate:oom 2]]"))
    log.wait(JobPrepared, "big")
    engine.admit(rows_of("big", 4))
    fault = log.wait(StepFailed).fault
    assert (fault.kind, fault.code) == (FaultKind.BATCH_MEMORY, "out_of_memory")
    engine.admit(rows_of("big", 2))
    log.wait(StepDone, count=2)
    engine.admit(rows_of("big", 4)[2:])
    assert len(log.wait(JobRendered, "big").images) == 4


def test_hang_makes_the_first_step_longer() -> None:
    device = SimulatedDevice(0, obey_markers=True)
    rows = prepared(device, steps=3, prompt="[[simulate:hang 40]]")
    assert elapsed_ms(device.step, rows) >= 40
    assert min(elapsed_ms(device.step, rows) for _ in range(2)) < 20


@pytest.mark.parametrize("marker", ["boom", "oom", "oom -1", "hang", "hang 1s", "crash later", "crash 5", ""])
def test_an_unknown_marker_is_a_bad_request(marker: str) -> None:
    device = SimulatedDevice(0, obey_markers=True)
    with pytest.raises(RenderFault, match="is not known") as caught:
        prepared(device, prompt=f"a dancer [[simulate:{marker}]]")
    assert (caught.value.kind, caught.value.code) == (FaultKind.REQUEST, "invalid_request")
