"""Proves what the page's files alone show: sound scripts, nothing inline, no other host, the same skeleton."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from darkroom.inference.pose import control
from darkroom.inference.pose.skeleton import COLOURS, DRAWN_SHORT_SIDE_PX, FACE_PX, FINGER_PX, LIMB_BRIGHTNESS, STICK_PX
from darkroom.schemas.events.keypoints import HAND_POINTS, LIMBS
from darkroom.schemas.events.request import COUNT_MAX, PRESET_STEPS, STEPS_MAX, GenerationRequest
from darkroom.schemas.events.samplers import SAMPLERS, SCHEDULES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "producer" / "gateway" / "page"
SCRIPTS = sorted(PAGE.glob("*.js"))
LINES_MAX = 400


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_sound(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES_MAX
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node to check scripts with: install it with `apt-get install nodejs`")
    flags = ["--input-type=module"] if re.search(r"^(import|export) ", path.read_text(), re.MULTILINE) else []
    command = [node, *flags, "--check"]
    done = subprocess.run(command, input=path.read_text(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def constant(name: str, script: str) -> object:
    [found] = re.findall(rf"const {name} = (.*?);", (PAGE / script).read_text(), re.DOTALL)
    return json.loads(re.sub(r"(\w+):", r'"\1":', found))


def test_a_skeleton_is_told_from_a_photo_as_the_worker_tells_them() -> None:
    for name in ("DARK_LEVEL", "CELLS", "BRIGHT_LEVEL", "DARK_SHARE_MIN", "COLOURED_SHARE_MIN", "COLOUR_SHARE_MIN"):
        assert constant(name, "pose_files.js") == getattr(control, name)


def test_the_skeleton_is_the_one_that_the_model_sees() -> None:
    assert constant("LIMBS", "skeleton.js") == [list(limb) for limb in LIMBS]
    assert constant("COLOURS", "skeleton.js") == [list(colour) for colour in COLOURS]
    assert constant("STICK", "skeleton.js") == STICK_PX
    assert constant("LIMB_BRIGHTNESS", "skeleton.js") == LIMB_BRIGHTNESS
    assert constant("SHORT_SIDE", "skeleton.js") == DRAWN_SHORT_SIDE_PX
    assert constant("HAND_POINTS", "skeleton.js") == HAND_POINTS
    assert constant("FACE_RADIUS", "skeleton.js") == FACE_PX
    assert constant("FINGER_WIDTH", "skeleton.js") == FINGER_PX


def test_presets_and_bounds_are_those_of_a_request() -> None:
    assert constant("PRESET_STEPS", "form.js") == PRESET_STEPS
    page = (PAGE / "index.html").read_text()
    for preset, steps in PRESET_STEPS.items():
        assert f"<b>{preset.capitalize()}</b> {steps} steps" in page
    assert f'name="steps" type="number" inputmode="numeric" min="1" max="{STEPS_MAX}"' in page
    assert f'name="count" type="number" inputmode="numeric" min="1" max="{COUNT_MAX}"' in page


def choices(name: str) -> list[str]:
    """Return the values of a <select>, in their order."""
    [found] = re.findall(rf'<select id="{name}".*?</select>', (PAGE / "index.html").read_text(), re.DOTALL)
    return re.findall(r'<option value="(.*?)">', found)


def test_choices_are_those_of_a_request() -> None:
    assert choices("sampler") == list(SAMPLERS)
    assert choices("schedule") == ["", *SCHEDULES]
    assert choices("fidelity") == ["", *PROPERTIES["fidelity"]["anyOf"][0]["enum"]]
    assert choices("prompt_syntax") == PROPERTIES["prompt_syntax"]["anyOf"][0]["enum"]


PROPERTIES = GenerationRequest.model_json_schema()["properties"]


@pytest.mark.parametrize("name", ["guidance_start", "guidance_end", "guidance_rescale", "clip_skip"])
def test_a_number_has_the_bounds_and_the_default_of_a_request(name: str) -> None:
    schema = PROPERTIES[name]
    bounds = schema["anyOf"][0]
    [field] = re.findall(rf'<input id="{name}" .*?>', (PAGE / "index.html").read_text())
    shown = {one: float(re.findall(rf' {one}="(.*?)"', field)[0]) for one in ("min", "max", "value")}
    assert shown == {"min": bounds["minimum"], "max": bounds["maximum"], "value": schema["default"]}
    [script] = re.findall(rf"  {name}: \{{ (.*?) \}}", (PAGE / "form.js").read_text())
    assert f"min: {bounds['minimum']:g}, max: {bounds['maximum']:g}" in script
    assert ("whole: true" in script) == (bounds["type"] == "integer")


class Inline(HTMLParser):
    """Notes what a strict content security policy would refuse, and which files are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []
        self.files: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.refused += [f"{tag} {name}" for name in named if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in named):
            self.refused.append(tag)
        source = named.get("src") or (named.get("href") if tag == "link" else None)
        if source:
            self.files.append(source)


@pytest.mark.parametrize("path", sorted(PAGE.glob("*.html")), ids=lambda path: path.name)
def test_nothing_is_inline_and_every_file_is_there(path: Path) -> None:
    read = Inline()
    read.feed(path.read_text())
    assert read.refused == []
    assert read.files
    for name in read.files:
        assert (PAGE / name.removeprefix("/").removeprefix("page/")).is_file(), name


def test_no_file_names_another_host() -> None:
    for path in PAGE.iterdir():
        addresses = set(re.findall(r"https?://[^\s\"'`)<>]+", path.read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path.name


def test_the_files_are_installed_with_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "gateway/page/*" in project["tool"]["setuptools"]["package-data"]["darkroom.producer"]
    assert all(path.is_file() for path in PAGE.iterdir()), "the pattern takes no folders"
