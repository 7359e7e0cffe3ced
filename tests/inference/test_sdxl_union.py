"""Proves that pictures of a union ControlNet are those of diffusers' pipeline for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import ImageOps

from darkroom.inference.sdxl import ControlNetFiles, ModelFiles, SdxlDevice
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import ModelError
from tests.inference.controls import (
    ControlOracle,
    UnionOracle,
    control,
    edges,
    slope,
    write_controlnet,
    write_union,
)
from tests.inference.painting import PLAIN, POSED, TOLERANCE, Oracle, distance, paint, paint_together

KINDS = ("canny", "depth", "lineart", "normal", "scribble", "segment", "softedge")
CANNY = replace(PLAIN, seed=31, controls=(control("canny", edges(), scale=0.8),))
UNGUIDED = replace(PLAIN, seed=32, guidance_scale=1.0, steps=5, controls=(control("depth", slope(), end=0.5),))
BOTH = replace(
    PLAIN, seed=33, steps=5, controls=(control("depth", slope(), scale=0.6), control("canny", edges(), scale=0.9))
)
WINDOWS = replace(
    PLAIN,
    seed=34,
    steps=6,
    controls=(control("canny", edges(), end=0.5), control("depth", slope(), scale=0.7), control("normal", slope(60))),
)
SAME_TYPE = replace(
    PLAIN, seed=35, controls=(control("lineart", edges()), control("canny", ImageOps.mirror(edges()), scale=0.5))
)
VISIBLE = 3


@pytest.fixture(scope="module")
def folder(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_union(tmp_path_factory.mktemp("union") / "union", tiny.controlnet_path, 3)


@pytest.fixture(scope="module")
def tile(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_controlnet(tmp_path_factory.mktemp("tile") / "tile", tiny.controlnet_path, 4)


@pytest.fixture(scope="module")
def device(tiny: TinyModel, folder: Path, tile: Path) -> Iterator[SdxlDevice]:
    torch.set_num_threads(1)
    further = (ControlNetFiles("union", folder, KINDS), ControlNetFiles("tile", tile, ("tile",)))
    files = ModelFiles(tiny.path, tiny.controlnet_path, controlnets=further)
    device = SdxlDevice(lambda: files, name="tiny", device="cpu", cpu_threads=1)
    device.load()
    yield device
    device.close()


@pytest.fixture(scope="module")
def truth(oracle: Oracle, folder: Path) -> UnionOracle:
    return UnionOracle(oracle, folder)


@pytest.mark.parametrize(
    "request_",
    [CANNY, UNGUIDED, BOTH, WINDOWS, SAME_TYPE],
    ids=["canny", "unguided", "both", "windows", "same type"],
)
def test_a_picture_of_a_union_controlnet_is_diffusers(device: SdxlDevice, truth: UnionOracle, request_: Any) -> None:
    painted = paint(device, request_)
    assert distance(painted, truth.paint(request_)) <= TOLERANCE
    assert distance(painted, paint(device, replace(request_, controls=()))) > VISIBLE


def test_the_kind_decides_the_picture(device: SdxlDevice) -> None:
    picture = slope()
    painted = [
        paint(device, replace(PLAIN, controls=(control(kind, picture),))) for kind in ("depth", "normal", "segment")
    ]
    assert distance(painted[0], painted[1]) > VISIBLE
    assert distance(painted[1], painted[2]) > VISIBLE


def test_rows_of_other_kinds_and_controlnets_share_steps_and_join_midway(
    device: SdxlDevice, truth: UnionOracle, oracle: Oracle, tiny: TinyModel, tile: Path
) -> None:
    tiled = replace(PLAIN, seed=36, controls=(control("tile", slope()),))
    joining = [(0, BOTH), (0, PLAIN), (1, CANNY), (1, POSED), (2, WINDOWS), (2, tiled), (3, UNGUIDED), (3, SAME_TYPE)]
    together = paint_together(device, joining)
    plain = ControlOracle(oracle, {"openpose": tiny.controlnet_path, "tile": tile})
    for (_, request), painted in zip(joining, together, strict=True):
        if request is tiled:
            right = plain.paint(request)
        else:
            right = truth.paint(request) if request.controls else oracle.paint(request)
        assert distance(painted, right) <= TOLERANCE


def test_a_union_and_a_plain_controlnet_steer_one_picture_together(device: SdxlDevice) -> None:
    request = replace(BOTH, pose=POSED.pose, control_scale=0.7)
    painted = paint(device, request)
    assert distance(painted, paint(device, BOTH)) > VISIBLE
    assert distance(painted, paint(device, replace(request, controls=()))) > VISIBLE
    [_, mixed] = paint_together(device, [(0, WINDOWS), (1, request)])
    assert distance(mixed, painted) <= TOLERANCE


def test_a_pose_is_followed_by_a_union_controlnet(tiny: TinyModel, folder: Path, oracle: Oracle) -> None:
    """The pose's drawing given as an openpose control paints the same, by the pipeline as well."""
    from darkroom.inference.pose.skeleton import draw_people

    files = ModelFiles(tiny.path, controlnets=(ControlNetFiles("union", folder, ("openpose", "depth")),))
    device = SdxlDevice(lambda: files, device="cpu", cpu_threads=1)
    device.load()
    assert POSED.pose is not None
    drawn = draw_people(POSED.pose.people, width=64, height=64)  # type: ignore[union-attr]
    drawing = replace(PLAIN, controls=(control("openpose", drawn),))
    painted = paint(device, POSED)
    assert distance(painted, paint(device, drawing)) <= TOLERANCE
    assert distance(painted, UnionOracle(oracle, folder).paint(drawing)) <= TOLERANCE


def test_economy_pictures_take_a_union_controlnet(device: SdxlDevice) -> None:
    request = replace(WINDOWS, fidelity="economy", steps=22)
    alone = paint(device, request)
    [_, mixed] = paint_together(device, [(0, BOTH), (1, request)])
    assert distance(mixed, alone) <= TOLERANCE


def refusal(files: ModelFiles) -> str:
    with pytest.raises(ModelError) as caught:
        SdxlDevice(lambda: files, device="cpu", cpu_threads=1).load()
    return str(caught.value)


def test_a_kind_beyond_the_control_types_is_refused_at_the_start(tiny: TinyModel, tmp_path: Path) -> None:
    six = write_union(tmp_path / "six", tiny.controlnet_path, 5, types=6)
    files = ModelFiles(tiny.path, controlnets=(ControlNetFiles("union", six, ("canny", "tile")),))
    assert "has 6 control types and tile is none of them" in refusal(files)


def test_the_configuration_of_another_union_controlnet_is_refused(tiny: TinyModel, tmp_path: Path) -> None:
    promax = write_union(tmp_path / "promax", tiny.controlnet_path, 5)
    config = promax / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_control_type": 6}))
    message = refusal(ModelFiles(tiny.path, controlnets=(ControlNetFiles("union", promax, ("canny",)),)))
    assert "has 8 control types and its config.json says 6" in message


def test_a_union_controlnet_is_known_by_its_tensors(tiny: TinyModel, folder: Path, tmp_path: Path) -> None:
    """xinsir's config.json says ControlNetModel, and its weights lie in one file beside it."""
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"_class_name": "ControlNetModel"}))
    file = tmp_path / "promax.safetensors"
    file.hardlink_to(folder / "diffusion_pytorch_model.safetensors")
    loaded = []
    for path in (tmp_path / "promax.safetensors", folder):
        device = SdxlDevice(
            lambda path=path: ModelFiles(tiny.path, controlnets=(ControlNetFiles("union", path, ("canny",)),)),  # type: ignore[misc]
            device="cpu",
            cpu_threads=1,
        )
        device.load()
        loaded.append(paint(device, CANNY))
    assert distance(*loaded) == 0
