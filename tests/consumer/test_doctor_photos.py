"""Proves that doctor says of photos what a worker would make of them, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.consumer.doctor.doctor import photos
from darkroom.schemas.settings import ModelSettings, Settings, SimulatedSettings


async def test_without_a_setting_blazepose_finds_the_people() -> None:
    from darkroom.inference.pose.blazepose.detector import blazepose_digest

    found = await photos(Settings())
    assert found.passed
    assert "BlazePose" in found.says
    assert found.details == {"digest": blazepose_digest()}


async def test_that_photos_are_refused_is_said_with_the_way_to_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darkroom.inference.pose.blazepose.detector.is_installed", lambda: False)
    found = await photos(Settings())
    assert found.passed
    for said in (
        "refused",
        "darkroom[photos]",
        "darkroom[pose]",
        "non-commercial",
        "DARKROOM_MODEL__POSE_DETECTOR_PATH",
    ):
        assert said in found.says


async def test_the_simulated_device_takes_them() -> None:
    found = await photos(Settings(simulated=SimulatedSettings(step_ms=1)))
    assert (found.passed, found.says) == (True, "the simulated device takes photos and looks for nobody in them")


async def test_without_a_controlnet_a_detector_is_of_no_use(tmp_path: Path) -> None:
    found = await photos(Settings(model=ModelSettings(path=tmp_path, pose_detector_path=tmp_path)))
    assert found.passed
    assert "without a ControlNet" in found.says
    found = await photos(Settings(model=ModelSettings(path=tmp_path)))
    assert "without a ControlNet" in found.says


@pytest.mark.render
async def test_weights_that_a_worker_would_not_start_with_fail(tmp_path: Path) -> None:
    found = await photos(Settings(model=ModelSettings(pose_detector_path=tmp_path)))
    assert not found.passed
    assert "fetch body_pose_model.pth" in found.says
    assert found.remedy is not None
    assert "DARKROOM_MODEL__POSE_DETECTOR_PATH" in found.remedy


@pytest.mark.render
async def test_weights_are_loaded_and_named(tmp_path: Path) -> None:
    from tests.inference.test_pose_openpose import flat, saved

    found = await photos(Settings(model=ModelSettings(pose_detector_path=saved(tmp_path, flat(0.0)))))
    assert found.passed, found.says
    assert "sha256:" in found.says
    assert "non-commercial" in found.says
