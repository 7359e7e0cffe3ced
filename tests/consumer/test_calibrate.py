"""Proves `darkroom calibrate`: what it measures, what it writes, and that workers and simulated devices can read it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from darkroom.consumer.planner.calibrate import calibrate_device
from darkroom.consumer.worker.engines import make_engine
from darkroom.inference.planning.profile_store import decode_profile, encode_profile
from darkroom.inference.planning.step_curve import read_curve
from darkroom.inference.types import ModelError
from darkroom.schemas.settings import Settings, SettingsError, load_settings
from tests.inference.profiles import profile, shape


def simulated(folder: Path, **more: object) -> Settings:
    curve = folder / "given.json"
    curve.write_text('{"1": 20, "2": 22, "4": 26, "8": 52}')
    return load_settings(
        overrides={"simulated.curve_file": curve, "model.profile_dir": folder / "kept", **more},
        environ={"DARKROOM_STACK_DIR": str(folder)},
    )


def test_a_simulated_device_s_own_curve_comes_back(tmp_path: Path) -> None:
    told: list[tuple[int, int, float]] = []
    found = calibrate_device(simulated(tmp_path), None, lambda *told_of: told.append(told_of))
    [one] = found.sizes
    assert (one.width, one.height, one.cap, one.why_it_ended) == (
        64,
        64,
        4,
        "measured up to the largest batch asked for",
    )
    assert [(row.rows, row.step_ms) for row in one.rows] == [(1, 20), (2, 22), (4, 26), (8, 52)]
    assert told == [(1, 8, 20), (2, 8, 22), (4, 8, 26), (8, 8, 52)]
    assert found.kept is None
    assert not (tmp_path / "kept").exists(), "what costs nothing to measure is not kept"
    written = found.write(tmp_path / "out")
    assert read_curve(tmp_path / "out" / "curve-64x64.json") == read_curve(tmp_path / "given.json")
    assert all(path.stat().st_size > 0 for path in written)


def test_a_simulated_device_takes_a_measured_profile(tmp_path: Path) -> None:
    given = tmp_path / "measured.json"
    given.write_bytes(encode_profile(profile(shape(posed=True))))
    settings = load_settings(overrides={"simulated.profile_file": given}, environ={"DARKROOM_STACK_DIR": str(tmp_path)})
    [one] = calibrate_device(settings, None).sizes
    [asked] = profile(shape(posed=True)).shapes
    assert {row.rows: row.step_ms for row in one.rows if row.measured} == {
        rows: pytest.approx(asked.step_ms(2 * rows, 2 * rows)) for rows in (1, 2, 4, 8)
    }
    given.write_text("{}")
    with pytest.raises(ModelError, match=r"measured\.json cannot be used"):
        calibrate_device(settings, None)


def test_a_profile_beside_other_times_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="leave step_ms and curve_file out"):
        simulated(tmp_path, **{"simulated.profile_file": tmp_path / "measured.json"})


def test_a_cap_between_measured_batches_has_its_row_and_is_not_in_the_curve_file(tmp_path: Path) -> None:
    settings = simulated(tmp_path)
    (tmp_path / "given.json").write_text('{"1": 20, "2": 26, "4": 38, "8": 62}')
    found = calibrate_device(settings, None)
    [one] = found.sizes
    assert [(row.rows, row.measured) for row in one.rows if row.rows == one.cap] == [(7, False)]
    found.write(tmp_path)
    assert set(read_curve(tmp_path / "curve-64x64.json")) == {1, 2, 4, 8}


def test_a_size_that_the_model_does_not_paint_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="100x64 cannot be painted: this model's sizes are multiples of 8"):
        calibrate_device(simulated(tmp_path), ((100, 64),))


def test_steps_that_take_no_time_are_one_sentence(tmp_path: Path) -> None:
    settings = load_settings(overrides={"simulated.step_ms": 0}, environ={"DARKROOM_STACK_DIR": str(tmp_path)})
    with pytest.raises(ModelError, match="its steps take no time"):
        calibrate_device(settings, None)


def test_the_command_prints_what_it_found_and_where_it_is(tmp_path: Path) -> None:
    simulated(tmp_path)
    environ = {**os.environ, "DARKROOM_SIMULATED__CURVE_FILE": str(tmp_path / "given.json")}
    command = [sys.executable, "-m", "darkroom", "calibrate", "--sizes", "64x64,128x64", "--max-rows", "8"]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more], capture_output=True, text=True, check=False, cwd=tmp_path, env=environ, timeout=60
        )

    done = run("--out", "out", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no progress where nobody watches"
    told = json.loads(done.stdout)
    assert [(one["width"], one["height"], one["cap"]) for one in told["sizes"]] == [(64, 64, 4), (128, 64, 4)]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {Path(path).name for path in told["files"]} == names
    assert names >= {"curve-64x64.json", "curve-128x64.json", "curve.png"}
    assert (tmp_path / "out" / "curve.png").read_bytes().startswith(b"\x89PNG")
    done = run()
    [capped, other] = [line for line in done.stdout.splitlines() if "<- cap" in line]
    assert capped.split()[:2] == other.split()[:2] == ["4", "8"], "rows and slots"


@pytest.mark.render
def test_a_worker_finds_the_measured_profile_of_the_tiny_model(tmp_path: Path) -> None:
    settings = load_settings(
        overrides={"batch.max_rows": 2, "model.profile_dir": tmp_path / "kept"},
        environ={"DARKROOM_STACK_DIR": str(tmp_path)},
    )
    found = calibrate_device(settings, ((128, 64),))
    assert found.kept is not None
    profile = decode_profile(found.kept.read_bytes())
    assert profile == found.profile
    assert profile.measured(8, 16) is not None, "height first, in latent pixels"
    assert all(row.unet_ms > 0 and row.controlnet_ms > 0 for row in found.sizes[0].rows)
    engine = make_engine(settings)
    engine.start(lambda event: None)
    try:
        assert engine.profile is not None
        assert set(engine.profile.shapes) > set(profile.shapes), "and adds the native size"
    finally:
        engine.close()
