"""Proves what a picture's file says of the picture, in every format, as the field's own readers read it."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from darkroom.inference.marks import DIGITAL_SOURCE_TYPE, text_of, xmp
from darkroom.inference.parameters_line import invokeai_metadata, parameters_line
from darkroom.inference.resolve import resolve
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.inference.types import AdapterUse, RenderedImage, RenderJob, RenderRequest
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.events.samplers import SAMPLERS, SCHEDULES, named_elsewhere
from darkroom.schemas.prompts.weighted import parse_weighted
from darkroom.schemas.settings import LimitSettings
from tests.inference import infotext

DEVICE = SimulatedDevice(0.0)
FORMATS = ("png", "jpeg", "webp")


def asked(**fields: Any) -> RenderRequest:
    names_parameters = fields.pop("names_parameters", True)
    request = GenerationRequest.model_validate(
        {"request_id": "r-1", "tenant": "studio", "prompt": "a (red) dancer, 雪", "seed": 5, **fields}
    )
    return resolve(request, DEVICE.info, LimitSettings(), names_parameters=names_parameters)


def painted(request: RenderRequest) -> list[RenderedImage]:
    rows = DEVICE.prepare(RenderJob("job", request)).rows
    images = DEVICE.finish(rows)
    return [image for image in images if isinstance(image, RenderedImage)]


@pytest.fixture
def exiftool() -> str:
    found = shutil.which("exiftool")
    if found is None:
        pytest.skip("there is no exiftool here: install libimage-exiftool-perl")
    return found


def seen(exiftool: str, image: RenderedImage, folder: Path) -> dict[str, Any]:
    path = folder / f"picture.{image.extension}"
    path.write_bytes(image.content)
    run = subprocess.run([exiftool, "-json", "-G1", "-a", path], capture_output=True, check=True)
    (tags,) = json.loads(run.stdout)
    assert isinstance(tags, dict)
    assert not [name for name in tags if "Warning" in name or "Error" in name]
    return tags


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("names_parameters", [True, False])
def test_exiftool_reads_the_source_type_in_every_format(
    exiftool: str, tmp_path: Path, image_format: str, names_parameters: bool
) -> None:
    request = asked(output={"format": image_format}, negative_prompt="blurred", names_parameters=names_parameters)
    (image,) = painted(request)
    tags = seen(exiftool, image, tmp_path)
    assert tags["XMP-iptcExt:DigitalSourceType"] == DIGITAL_SOURCE_TYPE
    assert tags["XMP-xmp:CreatorTool"] == "darkroom"
    group, model = ("PNG", "PNG:Darkroommodel") if image_format == "png" else ("IFD0", "XMP-darkroom:Model")
    assert tags[f"{group}:Software"] == "darkroom"
    assert tags[model] == "simulated"
    said = json.dumps(tags, ensure_ascii=False)
    assert ("dancer" in said) is ("r-1" in said) is ("studio" in said) is names_parameters


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_exiftool_reads_the_parameters_and_the_request(exiftool: str, tmp_path: Path, image_format: str) -> None:
    request = asked(output={"format": image_format}, negative_prompt="blurred")
    (image,) = painted(request)
    tags = seen(exiftool, image, tmp_path)
    assert "a \\(red\\) dancer, 雪" in tags["ExifIFD:UserComment"].replace(".", "\n")
    assert json.loads(json.dumps(tags["XMP-darkroom:Request"])) == request.image_text["darkroom:request"]


@pytest.mark.parametrize("image_format", FORMATS)
def test_a1111_reads_each_images_own_settings(image_format: str) -> None:
    request = asked(
        output={"format": image_format},
        negative_prompt="blurred,\nbad",
        sampler="dpmpp_2m",
        schedule="karras",
        guidance_scale=4.5,
        count=2,
    )
    for index, image in enumerate(painted(request)):
        line = infotext.line_in(image.content)
        assert line is not None
        assert infotext.read(line) == {
            "Prompt": "a \\(red\\) dancer, 雪",
            "Negative prompt": "blurred,\nbad",
            "Steps": "22",
            "Sampler": "DPM++ 2M",
            "Schedule type": "Karras",
            "CFG scale": "4.5",
            "Seed": str(5 + index),
            "Size-1": "64",
            "Size-2": "64",
            "Model": "simulated",
            "Version": "darkroom",
        }


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_private_picture_says_nothing_of_how_it_was_made(image_format: str) -> None:
    shown, hidden = (
        painted(asked(output={"format": image_format}, names_parameters=named))[0] for named in (True, False)
    )
    assert infotext.line_in(hidden.content) is None
    for secret in ("dancer", "r-1", "studio", "雪"):
        for encoding in ("utf-8", "utf-16-be", "ascii"):
            if secret.isascii() or encoding != "ascii":
                assert secret.encode(encoding) not in hidden.content
    with Image.open(io.BytesIO(shown.content)) as one, Image.open(io.BytesIO(hidden.content)) as other:
        assert one.tobytes() == other.tobytes(), "the picture itself is the same"
    assert set(text_of(asked(names_parameters=False), 5)) == {"Software", "darkroom:model", "darkroom:revision"}


def test_invokeai_reads_a_pngs_settings() -> None:
    request = asked(negative_prompt="[bad]", sampler="dpmpp_2m", schedule="karras", guidance_scale=4.5, count=2)
    for index, image in enumerate(painted(request)):
        with Image.open(io.BytesIO(image.content)) as picture:
            assert json.loads(picture.info["invokeai_metadata"]) == {
                "generation_mode": "sdxl_txt2img",
                "positive_prompt": "a \\(red\\) dancer, 雪",
                "negative_prompt": "\\[bad\\]",
                "width": 64,
                "height": 64,
                "seed": 5 + index,
                "steps": 22,
                "cfg_scale": 4.5,
                "scheduler": "dpmpp_2m_k",
            }


def test_what_invokeai_has_no_name_for_is_left_out_and_its_names_are_known() -> None:
    named = set()
    for sampler in SAMPLERS:
        for schedule in (None, *SCHEDULES):
            metadata = json.loads(invokeai_metadata(replace(asked(), sampler=sampler, schedule=schedule), seed=1) or "")
            if "scheduler" in metadata:
                assert named_elsewhere(metadata["scheduler"].removesuffix("_k")) == (sampler, None)
                assert metadata["scheduler"].endswith("_k") == (schedule == "karras")
                named.add(metadata["scheduler"])
    assert len(named) == len(SAMPLERS) + 6
    assert invokeai_metadata(replace(asked(), prompt_syntax="weighted"), seed=1) is None


def test_a_models_name_that_is_no_utf_8_costs_no_picture() -> None:
    request = asked()
    odd = replace(request, image_text={**request.image_text, "darkroom:model": "caf\udce9"})
    for image_format in FORMATS:
        (image,) = painted(replace(odd, image_format=image_format))
        assert b"caf?" in image.content


def test_the_settings_are_as_other_tools_name_them() -> None:
    for sampler in SAMPLERS:
        for schedule in (None, *SCHEDULES):
            line = parameters_line(replace(asked(), sampler=sampler, schedule=schedule), seed=1, model="m")
            assert line is not None
            found = infotext.read(line)
            name = " ".join(found[part] for part in ("Sampler", "Schedule type") if part in found)
            assert named_elsewhere(name) == (sampler, schedule)


def test_loras_clip_skip_and_odd_names() -> None:
    request = replace(
        asked(),
        clip_skip=1,
        adapters=(AdapterUse("ink", 0.5), AdapterUse("oil", 1.0, 0.25), AdapterUse("a:b", 1.0)),
    )
    line = parameters_line(request, seed=1, model='tiny: "one", two')
    assert line is not None
    found = infotext.read(line)
    assert found["Prompt"] == "a \\(red\\) dancer, 雪 <lora:ink:0.5> <lora:oil:0.25:1>"
    assert found["Clip skip"] == "3", "A1111 counts the last layer as 1, and SDXL's own is the last but one"
    assert found["Model"] == 'tiny: "one", two'


_TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)
_ODD = st.lists(
    st.one_of(_TEXT, st.sampled_from(["\n", "\r\n", "Negative prompt:", "Steps: 1, Sampler: x, Seed: 3", "(a)", "\\"])),
    min_size=1,
    max_size=6,
).map("".join)


@settings(deadline=None, max_examples=200)
@given(prompt=_ODD, negative=st.none() | _ODD, seed=st.integers(0, 2**53 - 1))
def test_no_prompt_is_read_as_anything_else(prompt: str, negative: str | None, seed: int) -> None:
    request = replace(asked(), prompt=prompt, negative_prompt=negative)
    line = parameters_line(request, seed=seed, model="m")
    if line is None:
        assert _letters(prompt).startswith("Negativeprompt:")
        return
    found = infotext.read(line)
    assert found["Seed"] == str(seed)
    for given_, read in ((prompt, found["Prompt"]), (negative or "", found["Negative prompt"])):
        unescaped = "".join(run.text for section in parse_weighted(read).sections for run in section) if read else ""
        assert _letters(unescaped) == _letters(given_)


def _letters(text: str) -> str:
    """Without white space and control characters, which a line cannot all keep, and BREAK, which is no word there."""
    return "".join(one for one in text if one.isprintable() and not one.isspace()).replace("BREAK", "")


def test_a_request_too_long_for_a_jpeg_leaves_the_mark_and_the_parameters(exiftool: str, tmp_path: Path) -> None:
    request = asked(output={"format": "jpeg"})
    long = replace(request, image_text={**request.image_text, "darkroom:request": "x" * 70_000})
    (image,) = painted(long)
    tags = seen(exiftool, image, tmp_path)
    assert tags["XMP-iptcExt:DigitalSourceType"] == DIGITAL_SOURCE_TYPE
    assert "XMP-darkroom:Request" not in tags
    assert "Steps: 22" in tags["ExifIFD:UserComment"]


@settings(deadline=None, max_examples=100)
@given(model=st.text(max_size=30))
def test_any_models_name_makes_whole_xmp(model: str) -> None:
    ElementTree.fromstring(xmp({"darkroom:model": model}).decode())
