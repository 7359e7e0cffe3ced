"""The trained model obeys: a few fresh pictures through the device, with limits that only broken conditioning passes.

`make quality` is the measurement; its table stands in the model's card.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from darkroom.inference.tiny.folder import TRAINED, trained_model
from darkroom.tools.tiny.quality.looking import Pixels
from darkroom.tools.tiny.quality.painting import Ask, Painter
from darkroom.tools.tiny.quality.table import colours, fresh_scenes, posture

pytestmark = pytest.mark.render

SCENES = fresh_scenes(8)
ASK = Ask(steps=14)


@pytest.fixture(scope="module")
def painter() -> Iterator[Painter]:
    import torch

    torch.set_num_threads(1)
    model = trained_model()
    painter = Painter(model.path, model.controlnet_path)
    yield painter
    painter.close()


@pytest.fixture(scope="module")
def painted(painter: Painter) -> list[Pixels]:
    return painter.paint(SCENES, ASK)


def test_figures_take_the_pose_that_was_asked_for(painter: Painter, painted: list[Pixels]) -> None:
    asked, another = posture(SCENES, painted)
    assert asked > 0.7
    assert asked - another > 0.25
    free, _ = posture(SCENES, painter.paint(SCENES, replace(ASK, control_scale=0.0)))
    assert asked - free > 0.3, "the pose, and nothing else, put the limbs there"


def test_colours_are_the_captions(painted: list[Pixels]) -> None:
    background, figure, _, _ = colours(SCENES, painted)
    assert background > 0.7
    assert figure > 0.35
    others = [*SCENES[1:], SCENES[0]]
    swapped = [
        replace(scene, look=replace(other.look, style=scene.look.style))
        for scene, other in zip(SCENES, others, strict=True)
    ]
    assert colours(swapped, painted)[0] < 0.5, "another caption's colours are not there"


def test_it_is_sdxl_within_its_bounds() -> None:
    files = [file for file in TRAINED.rglob("*") if file.is_file()]
    weights = [file for file in files if file.suffix == ".safetensors"]
    assert sum(file.stat().st_size for file in weights) < 25_000_000
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt", ".md"}
    assert (TRAINED / "README.md").is_file()

    def settings(folder: Path) -> dict[str, object]:
        loaded: dict[str, object] = json.loads((folder / "config.json").read_text())
        return loaded

    unet, controlnet = settings(TRAINED / "model" / "unet"), settings(TRAINED / "controlnet")
    assert unet["addition_embed_type"] == controlnet["addition_embed_type"] == "text_time"
    assert unet["sample_size"] == 16
