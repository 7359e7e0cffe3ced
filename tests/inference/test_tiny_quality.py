"""The measures of quality, held against pictures of which the answer is known: the ones that are drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from darkroom.tools.tiny.quality.economy import psnr, table
from darkroom.tools.tiny.quality.looking import adherence, figure_mask, overlap, right_colours
from darkroom.tools.tiny.quality.painting import Ask, request
from darkroom.tools.tiny.quality.sheet import contact_sheet
from darkroom.tools.tiny.quality.table import colours, fresh_scenes, posture
from darkroom.tools.tiny.training.drawn import shard_size
from darkroom.tools.tiny.training.figures import picture
from darkroom.tools.tiny.training.grammar import COLOURS

pytestmark = pytest.mark.render


def test_drawn_pictures_pass_and_other_poses_do_not() -> None:
    scenes = fresh_scenes(40)
    pictures = [np.asarray(picture(scene)) for scene in scenes]
    asked, another = posture(scenes, pictures)
    assert asked > 0.985
    assert another < 0.45
    assert min(colours(scenes, pictures)) == 1.0
    overlaps = [overlap(figure_mask(pixels, scene), scene) for scene, pixels in zip(scenes, pictures, strict=True)]
    assert np.mean(overlaps) > 0.97


def test_two_people_and_settings_are_seen_as_well() -> None:
    for scenes in (fresh_scenes(20, people=2), fresh_scenes(20, simple=False)):
        asked, _ = posture(scenes, [np.asarray(picture(scene)) for scene in scenes])
        assert asked > 0.97


def test_a_wrong_colour_is_seen() -> None:
    for scene in fresh_scenes(20):
        look = scene.look
        other = next(name for name in COLOURS if name not in {look.figure, look.trousers, look.background})
        for part, seen in (("background", 0), ("figure", 1), ("trousers", 2)):
            painted = np.asarray(picture(replace(scene, look=replace(look, **{part: other}))))
            right = right_colours(painted, scene)
            assert [place for place, is_right in enumerate(right) if not is_right] == [seen]


def test_an_empty_picture_has_no_figure() -> None:
    scene = fresh_scenes(1)[0]
    empty = np.full((128, 128, 3), COLOURS[scene.look.background], dtype=np.uint8)
    mask = figure_mask(empty, replace(scene, look=replace(scene.look, style="flat")))
    assert adherence(mask, scene) == 0.0
    assert overlap(mask, scene) == 0.0


def test_fresh_scenes_are_the_same_every_time_and_of_the_native_size() -> None:
    assert fresh_scenes(3) == fresh_scenes(3)
    assert fresh_scenes(3) != fresh_scenes(3, people=2)
    assert {(scene.width, scene.height) for scene in fresh_scenes(3)} == {shard_size(0)}


def test_a_request_carries_the_scene() -> None:
    scene = fresh_scenes(1)[0]
    asked = request(scene, Ask(control_scale=0.5), 7)
    assert (asked.prompt, asked.seed, asked.control_scale) == (scene.text, 7, 0.5)
    assert asked.pose is not None
    assert request(scene, Ask(posed=False), 7).pose is None


def test_pairs_are_measured_by_sampler_and_their_worst_tenth_is_told() -> None:
    pair = {"cpu_s": [2.0, 1.0], "adherence": [0.9, 0.8], "colours": [True, False]}
    lines = [{"sampler": "euler", "psnr": 50.0 - number, **pair} for number in range(20)]
    lines.append({"sampler": "ddim", "psnr": 30.0, **pair})
    head, _, euler, ddim = table(lines).splitlines()
    assert head.startswith("| sampler | pairs |")
    assert euler == "| `euler` | 20 | 40.5 | 31.5 | 2.00 | 0.900, 0.800 | 1.000, 0.000 |"
    assert ddim.startswith("| `ddim` | 1 | 30.0 | 30.0 |")
    black, grey = np.zeros((8, 8, 3), dtype=np.uint8), np.full((8, 8, 3), 51, dtype=np.uint8)
    assert psnr(black, black) == 100.0
    assert psnr(black, grey) == pytest.approx(20 * np.log10(5))


def test_the_sheet_has_room_for_everything() -> None:
    scenes = fresh_scenes(7)
    sheet = contact_sheet(scenes, [np.asarray(picture(scene)) for scene in scenes])
    assert sheet.width == 12 * 128
    assert sheet.height == 2 * (128 + 40)
    assert np.asarray(sheet)[200:, 10:100].std() > 0
