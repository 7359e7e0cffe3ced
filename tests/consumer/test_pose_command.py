"""Proves that `darkroom pose` shows what a photo or a file of keypoints holds, without torch, or says why it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from darkroom.consumer.cli.pose import pose
from darkroom.producer.poses.files import pose_of
from tests.inference.test_pose_blazepose import PHOTO, SEEN

PERSON = [[10.0 + 3 * index, 20.0 + 5 * index, 0.9] for index in range(18)]


def openpose(folder: Path) -> Path:
    file = folder / "keypoints.json"
    flat = [number for point in PERSON for number in point]
    file.write_text(json.dumps({"version": 1.1, "people": [{"pose_keypoints_2d": flat}]}))
    return file


def test_a_photo_gives_a_pose_that_can_be_sent(tmp_path: Path) -> None:
    done = CliRunner().invoke(pose, [str(PHOTO), "--json"])
    assert done.exit_code == 0, done.output
    seen = json.loads(done.stdout)
    assert (seen["kind"], seen["people"], len(seen["found"])) == ("photo", 1, 1)
    file = tmp_path / "pose.json"
    file.write_text(done.stdout)
    [person] = pose_of(file).pose["people"]
    for index, place in SEEN.items():
        assert person[index] == pytest.approx(place, abs=0.03)


def test_the_drawing_lies_over_the_photo(tmp_path: Path) -> None:
    assert "1 person" in CliRunner().invoke(pose, [str(PHOTO)]).output
    done = CliRunner().invoke(pose, [str(PHOTO), "--json", "--draw", str(tmp_path / "out.png")])
    assert done.exit_code == 0, done.output
    x, y = json.loads(done.stdout)["pose"]["people"][0][0]
    with Image.open(tmp_path / "out.png") as drawn:
        assert (drawn.size, drawn.format) == ((384, 384), "PNG")
        nose = drawn.convert("RGB").getpixel((int(x * 384), int(y * 384)))
        corner = drawn.convert("RGB").getpixel((383, 0))
    with Image.open(PHOTO) as photo:
        undimmed = photo.getpixel((383, 0))
    assert isinstance(nose, tuple)
    assert isinstance(undimmed, tuple)
    assert corner == pytest.approx([level // 2 for level in undimmed], abs=2), "the photo, darker"
    assert nose[0] > 200 > 60 > nose[2], "the nose's disc is red"


def test_keypoints_are_read_as_send_reads_them(tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    done = CliRunner().invoke(pose, [str(openpose(tmp_path)), "--size", "128x160", "--json", "--draw", str(out)])
    assert done.exit_code == 0, done.output
    seen = json.loads(done.stdout)
    assert (seen["kind"], seen["width"], seen["height"], seen["found"]) == ("keypoints", 128, 160, [])
    assert seen["pose"]["people"][0][0] == pytest.approx([10 / 128, 20 / 160])
    with Image.open(out) as drawn:
        assert drawn.size == (128, 160)


def test_what_cannot_be_shown_is_one_sentence_with_a_remedy(tmp_path: Path) -> None:
    grey, heic, broken = tmp_path / "grey.png", tmp_path / "photo.heic", tmp_path / "cut.jpg"
    Image.new("RGB", (64, 64), "grey").save(grey)
    heic.write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    broken.write_bytes(PHOTO.read_bytes()[:500])
    for file, said in (
        (grey, "found nobody"),
        (heic, "HEIC"),
        (broken, "save it anew"),
        (openpose(tmp_path), "size"),
    ):
        done = CliRunner().invoke(pose, [str(file)])
        assert done.exit_code == 1, done.output
        assert said in done.output
        assert "Traceback" not in done.output
    assert CliRunner().invoke(pose, [str(PHOTO), "--draw", "out.jpg"]).exit_code == 2
    assert CliRunner().invoke(pose, [str(PHOTO), "--size", "5"]).exit_code == 2


def test_no_torch_is_loaded_and_nothing_is_said_on_stderr() -> None:
    program = (
        "import sys; from darkroom.consumer.cli.pose import pose; "
        f"pose([{str(PHOTO)!r}], standalone_mode=False); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert done.stderr == ""


def test_hands_and_a_face_are_counted_and_drawn(tmp_path: Path) -> None:
    theirs = Path(__file__).parents[1] / "strangers" / "poses" / "hands_and_face.json"
    out = tmp_path / "out.png"
    done = CliRunner().invoke(pose, [str(theirs), "--size", "640x400", "--draw", str(out)])
    assert "both hands, a face" in done.output
    with Image.open(out) as drawn:
        assert (255, 255, 255) in [colour for _, colour in drawn.convert("RGB").getcolors(2**20) or ()]


def test_arrays_are_refused_as_keypoints_and_not_as_pictures(tmp_path: Path) -> None:
    file = tmp_path / "keypoints.npy"
    file.write_bytes(b"\x93NUMPY\x01\x00")
    done = CliRunner().invoke(pose, [str(file)])
    assert done.exit_code == 1
    assert "is a NumPy array (.npy). Write its people as JSON" in done.output
