"""Proves that pictures with several controls are those of diffusers' pipeline with a `MultiControlNetModel`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps

from darkroom.inference.sdxl import ControlNetFiles, ModelFiles, SdxlDevice
from darkroom.inference.sdxl.denoise.step import Stepper
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import ModelError, RenderFault, RenderJob
from darkroom.schemas.events.pose import StoredPicture
from tests.inference.controls import ControlOracle, control, edges, inline, opened, slope, write_controlnet
from tests.inference.devices import finished
from tests.inference.painting import (
    PLAIN,
    POSED,
    TOLERANCE,
    Oracle,
    distance,
    paint,
    paint_together,
    pixels,
    prepare,
    variant,
)

CANNY = replace(PLAIN, seed=5, controls=(control("canny", edges()),))
DEPTH = replace(PLAIN, seed=6, steps=5, guidance_scale=1.0, controls=(control("depth", slope(), scale=0.7),))
BOTH = replace(
    PLAIN,
    seed=7,
    steps=6,
    controls=(control("canny", edges(), scale=0.6, end=0.7), control("depth", slope(), start=0.3)),
)
TWICE = replace(
    PLAIN, seed=8, controls=(control("canny", edges(), scale=0.5), control("canny", ImageOps.flip(edges()), scale=0.8))
)
THREE = replace(
    POSED,
    seed=9,
    control_scale=0.8,
    control_end=0.6,
    controls=(control("canny", edges(), scale=0.5), control("depth", slope(), scale=0.4)),
)
VISIBLE = 3


@pytest.fixture(scope="module")
def folders(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("controlnets")
    return {kind: write_controlnet(root / kind, tiny.controlnet_path, seed) for seed, kind in enumerate(KINDS)}


KINDS = ("canny", "depth")


def files_of(tiny: TinyModel, folders: dict[str, Path]) -> ModelFiles:
    further = tuple(ControlNetFiles(kind, folder, (kind,)) for kind, folder in folders.items())
    return ModelFiles(tiny.path, tiny.controlnet_path, controlnets=further)


@pytest.fixture(scope="module")
def device(tiny: TinyModel, folders: dict[str, Path]) -> Iterator[SdxlDevice]:
    torch.set_num_threads(1)
    device = SdxlDevice(lambda: files_of(tiny, folders), name="tiny", device="cpu", cpu_threads=1)
    device.load()
    yield device
    device.close()


@pytest.fixture(scope="module")
def truth(oracle: Oracle, tiny: TinyModel, folders: dict[str, Path]) -> ControlOracle:
    return ControlOracle(oracle, {"openpose": tiny.controlnet_path, **folders})


@pytest.mark.parametrize(
    "request_", [CANNY, DEPTH, BOTH, TWICE, THREE], ids=["canny", "depth", "both", "twice", "three"]
)
def test_a_picture_with_controls_is_diffusers(device: SdxlDevice, truth: ControlOracle, request_: Any) -> None:
    painted = paint(device, request_)
    assert distance(painted, truth.paint(request_)) <= TOLERANCE
    assert distance(painted, paint(device, replace(request_, pose=None, controls=()))) > VISIBLE


def test_rows_with_none_one_and_several_controls_share_steps_and_join_midway(
    device: SdxlDevice, truth: ControlOracle, oracle: Oracle
) -> None:
    joining = [(0, BOTH), (0, PLAIN), (1, CANNY), (1, POSED), (2, TWICE), (2, THREE), (3, DEPTH)]
    together = paint_together(device, joining)
    for (_, request), painted in zip(joining, together, strict=True):
        right = truth.paint(request) if request.controls else oracle.paint(request)
        assert distance(painted, right) <= TOLERANCE


def test_each_controlnet_runs_once_a_step_over_the_slots_that_use_it(device: SdxlDevice) -> None:
    model = device._loaded()
    seen: dict[int, list[int]] = {}

    def watch(place: int, network: Any) -> Any:
        return network.register_forward_pre_hook(
            lambda _module, inputs, **_: seen.setdefault(place, []).append(len(inputs[0]))
        )

    hooks = [watch(place, network) for place, network in enumerate(model.networks.controlnets)]
    rows = [prepare(device, one, f"{number}")[0] for number, one in enumerate((BOTH, DEPTH, POSED, PLAIN, TWICE))]
    Stepper(model.networks).take(rows)
    for hook in hooks:
        hook.remove()
    # Guided rows have two slots. BOTH's depth begins later; TWICE has a second run for its second picture.
    assert seen == {0: [2], 1: [4, 2], 2: [1]}


def test_requests_without_controls_are_unchanged_by_further_controlnets(
    device: SdxlDevice, shared_device: SdxlDevice
) -> None:
    assert device.info.revision == shared_device.info.revision
    for request in (PLAIN, POSED):
        assert distance(paint(device, request), paint(shared_device, request)) == 0


def test_economy_pictures_take_several_controls(device: SdxlDevice) -> None:
    request = replace(THREE, fidelity="economy", steps=22, seed=21)
    alone = paint(device, request)
    exact = paint(device, replace(request, fidelity="exact"))
    assert distance(alone, exact) > 0
    mixed = paint_together(device, [(0, BOTH), (1, request), (2, replace(request, fidelity="exact"))])
    assert distance(mixed[1], alone) <= TOLERANCE
    assert distance(mixed[2], exact) <= TOLERANCE


def test_a_stored_control_picture_paints_as_an_inline_one(device: SdxlDevice) -> None:
    [one] = CANNY.controls
    stored = one.model_copy(update={"image": StoredPicture(bucket="abc", key="k")})
    content = inline(opened(one)).content
    job = RenderJob("job", replace(CANNY, controls=(stored,)), {"controls.0": content})
    rows = list(device.prepare(job).rows)
    while rows[0].steps_done < rows[0].steps_total:
        device.step(rows)
    assert distance(pixels(finished(device, rows)[0]), paint(device, CANNY)) == 0


def test_a_kind_that_is_not_loaded_is_refused_before_a_step(device: SdxlDevice) -> None:
    request = replace(PLAIN, controls=(control("normal", slope()),))
    with pytest.raises(RenderFault, match="canny, depth, openpose") as caught:
        prepare(device, request)
    assert caught.value.code == "control_unavailable"


@pytest.mark.parametrize(
    ("kind", "picture", "said"),
    [
        ("canny", ImageOps.invert(edges()), "mostly bright"),
        ("depth", Image.new("RGB", (8, 8), "grey"), "only one colour"),
        ("canny", edges(), None),
        ("depth", ImageOps.invert(slope()), None),
    ],
)
def test_pictures_that_can_hardly_be_of_their_kind_are_warned_of(
    device: SdxlDevice, kind: str, picture: Image.Image, said: str | None
) -> None:
    warnings = device.prepare(RenderJob("job", replace(PLAIN, controls=(control(kind, picture),)))).warnings
    assert [said in one for one in warnings] == [True] if said else warnings == ()


def test_an_unreadable_control_picture_is_named_by_its_field(device: SdxlDevice) -> None:
    broken = CANNY.controls[0].model_copy(update={"image": StoredPicture(bucket="abc", key="k")})
    request = replace(PLAIN, controls=(DEPTH.controls[0], broken))
    with pytest.raises(RenderFault, match=r"The picture of controls\.1 is not a whole PNG") as caught:
        device.prepare(RenderJob("job", request, {"controls.1": b"no picture"}))
    assert caught.value.code == "pose_unreadable"


def test_a_controlnet_of_another_family_is_refused_at_the_start(tiny: TinyModel, tmp_path: Path) -> None:
    of_sd15 = variant(tiny, tmp_path, {"controlnet/config.json": {"cross_attention_dim": 768}})
    # Its weights have to fit its configuration, or they would be refused as torn.
    other = write_controlnet(tmp_path / "sd15", of_sd15.controlnet_path, 0)
    files = ModelFiles(tiny.path, controlnets=(ControlNetFiles("old", other, ("canny",)),))
    with pytest.raises(ModelError, match=r"that of Stable Diffusion 1\.5.*use a ControlNet for SDXL"):
        SdxlDevice(lambda: files, device="cpu", cpu_threads=1).load()


def test_two_controlnets_for_one_kind_are_refused_at_the_start(tiny: TinyModel, folders: dict[str, Path]) -> None:
    files = replace(
        files_of(tiny, folders), controlnets=(ControlNetFiles("other", folders["canny"], ("depth", "openpose")),)
    )
    with pytest.raises(ModelError, match="ControlNet other and DARKROOM_MODEL__CONTROLNET_PATH both follow openpose"):
        SdxlDevice(lambda: files, device="cpu", cpu_threads=1).load()


def test_a_pose_is_followed_by_a_further_controlnet_where_the_model_has_none(tiny: TinyModel, oracle: Oracle) -> None:
    files = ModelFiles(tiny.path, controlnets=(ControlNetFiles("poses", tiny.controlnet_path, ("openpose",)),))
    device = SdxlDevice(lambda: files, device="cpu", cpu_threads=1)
    device.load()
    assert device.info.takes_pose
    assert list(device.info.controls) == ["openpose"]
    assert distance(paint(device, POSED), oracle.paint(POSED)) <= TOLERANCE
