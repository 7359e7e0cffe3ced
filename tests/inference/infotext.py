"""How A1111 reads the `parameters` line: a reference for tests, by its published rules.

`modules/infotext_utils.py` of stable-diffusion-webui 1.10.1 (parse_generation_parameters, re_param_code, unquote), and
`modules/images.py` (read_info_from_image) for where the line stands: a PNG's text `parameters`, else the UserComment of
the EXIF, which piexif loads.
"""

from __future__ import annotations

import io
import json
import re

import piexif
import piexif.helper
from PIL import Image

_SETTING = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"^(\d+)x(\d+)$")
_NEGATIVE = "Negative prompt:"


def line_in(content: bytes) -> str | None:
    """Return the line that A1111 would find in a picture's file."""
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()
        if "parameters" in picture.info:
            return str(picture.info["parameters"])
        if "exif" not in picture.info:
            return None
        exif = piexif.load(picture.info["exif"])
    comment = exif["Exif"].get(piexif.ExifIFD.UserComment)
    return None if comment is None else str(piexif.helper.UserComment.load(comment))


def read(line: str) -> dict[str, str]:
    """Return the settings in a line: `Prompt`, `Negative prompt`, and those of its last line."""
    *before, last = line.strip().split("\n")
    if len(_SETTING.findall(last)) < 3:
        before, last = [*before, last], ""
    prompts: dict[str, list[str]] = {"Prompt": [], "Negative prompt": []}
    into = prompts["Prompt"]
    for one in map(str.strip, before):
        if one.startswith(_NEGATIVE):
            into = prompts["Negative prompt"]
            into.append(one[len(_NEGATIVE) :].strip())
        else:
            into.append(one)
    settings = {name: "\n".join(lines) for name, lines in prompts.items()}
    for name, written in _SETTING.findall(last):
        value = json.loads(written) if written[0] == written[-1] == '"' else written
        if size := _SIZE.match(value):
            settings |= {f"{name}-1": size[1], f"{name}-2": size[2]}
        else:
            settings[name] = value
    return settings
