"""Proves that pictures as telephones, scanners and drawing tools write them are read, refused by name, or warned of.

Each goes through the gateway's check of an upload and through the worker's decoding; the kinds that only a skeleton
picture has go through the device's as well.
"""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkroom.inference.pose.control import unlike_a_skeleton
from darkroom.inference.pose.picture import PictureLimits, decode_picture
from darkroom.inference.pose.skeleton import draw_people
from darkroom.inference.resolve import resolve
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.inference.types import RenderFault, RenderJob, RenderRequest
from darkroom.producer.gateway.jobs.uploads import read_picture
from darkroom.producer.gateway.problems import Problem
from darkroom.schemas.errors import ErrorCode, RequestRejected
from darkroom.schemas.events.pose import InlinePicture, SkeletonPose
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import LimitSettings
from tests.producer.gateway.house import House, problem
from tests.strangers.table import Stranger, rows

FOLDER = Path(__file__).with_name("pictures")
LIMITS = PictureLimits()
PEAK_MIB_MAX = 80
"""What decoding may add to a process: the pixels at the bound take 64 MiB."""
STANDING = [
    (0.5, 0.15), (0.5, 0.25), (0.42, 0.25), (0.38, 0.4), (0.36, 0.52), (0.58, 0.25), (0.62, 0.4), (0.64, 0.52),
    (0.45, 0.52), (0.44, 0.7), (0.44, 0.9), (0.55, 0.52), (0.56, 0.7), (0.56, 0.9), (0.48, 0.13), (0.52, 0.13),
    (0.46, 0.14), (0.54, 0.14),
]  # fmt: skip


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, form, **options)
    return content.getvalue()


def drawn(width: int = 512, height: int = 512, *people: Any) -> Image.Image:
    return draw_people(people or [STANDING], width=width, height=height)


def turned(orientation: int) -> bytes:
    """A camera held in one of the eight ways that EXIF knows: upright it is 40 x 30 with red in the upper left."""
    upright = Image.new("RGB", (40, 30), "blue")
    upright.paste("red", (0, 0, 20, 15))
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(upright if back is None else upright.transpose(back), "JPEG", exif=exif, quality=95)


def cmyk() -> bytes:
    """Red as printers have it; Adobe's programs store it inverted, and Pillow writes it so."""
    return encoded(Image.new("CMYK", (40, 30), (0, 255, 255, 0)), "JPEG")


def ramp_of_16_bits(**options: Any) -> bytes:
    levels = np.repeat(np.linspace(0, 65535, 64).astype(np.uint16)[None], 8, axis=0)
    return encoded(Image.fromarray(levels), "PNG", **options)


def telephone(width: int, height: int, form: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    grey = 90 if mode == "L" else (90,) * len(mode)
    return encoded(Image.new(mode, (width, height), grey), form, **options)


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture of a size, and what stands at some of its points (fractions)."""

    size: tuple[int, int]
    points: dict[tuple[float, float], tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class Refused:
    """The worker's code, the gateway's status, and what both say."""

    code: str
    status: int
    said: str


GREY = {(0.5, 0.5): (90, 90, 90)}
UPRIGHT = Seen((40, 30), {(0.2, 0.2): (254, 0, 0), (0.8, 0.8): (0, 0, 254)})
TOO_MANY = "DARKROOM_LIMITS__POSE_PICTURE_PIXELS_MAX"

READ: list[Stranger[Callable[[], bytes], Seen | Refused]] = [
    Stranger(
        "grey-of-16-bits",
        "a scanner's PNG, 16 bits a pixel",
        (FOLDER / "ramp_16_bits.png").read_bytes,
        Seen((64, 64), {(0.0, 0.5): (0, 0, 0), (0.5, 0.5): (130, 130, 130), (1.0, 0.5): (255, 255, 255)}),
    ),
    Stranger(
        "grey-of-16-bits-white-transparent",
        "Pillow 13, tRNS of 16 bits",
        lambda: ramp_of_16_bits(transparency=65535),
        Seen((64, 8), {(0.5, 0.5): (129, 129, 129), (1.0, 0.5): (0, 0, 0)}),
    ),
    *(
        Stranger(f"exif-orientation-{n}", "a camera, EXIF 2.32", lambda n=n: turned(n), UPRIGHT)  # type: ignore[misc]
        for n in range(1, 9)
    ),
    Stranger("cmyk", "Photoshop 25, for print", cmyk, Seen((40, 30), {(0.5, 0.5): (254, 0, 0)})),
    Stranger("24-megapixels", "iPhone 15", lambda: telephone(5712, 4284), Seen((2856, 2142), GREY)),
    Stranger("48-megapixels", "iPhone 15 Pro, JPEG Max", lambda: telephone(8064, 6048), Seen((4032, 3024), GREY)),
    Stranger("50-megapixels", "Galaxy S23", lambda: telephone(8160, 6120), Seen((4080, 3060), GREY)),
    Stranger(
        "24-megapixels-grey", "a scanner, 600 dpi", lambda: telephone(5712, 4284, mode="L"), Seen((2856, 2142), GREY)
    ),
    Stranger(
        "24-megapixels-of-two-pictures",
        "Galaxy S23, MPO",
        lambda: telephone(5712, 4284, "MPO", save_all=True, append_images=[Image.new("RGB", (714, 535))]),
        Seen((2856, 2142), GREY),
    ),
    Stranger(
        "24-megapixels-progressive",
        "mozjpeg 4, for the web",
        lambda: telephone(5712, 4284, progressive=True),
        Refused("image_too_large", 413, TOO_MANY),
    ),
    Stranger(
        "48-megapixels-as-png",
        "a screenshot tool, PNG 1.2",
        lambda: telephone(8064, 6048, "PNG", mode="L"),
        Refused("image_too_large", 413, TOO_MANY),
    ),
    Stranger(
        "heic",
        "iPhone 15, iOS 17",
        lambda: b"\0\0\0\x24ftypheic\0\0\0\0mif1MiHEMiPrmiafMiHBheictmap" + bytes(64),
        Refused("pose_unreadable", 415, "HEIC"),
    ),
    Stranger("avif", "Pillow 13, libavif", lambda: telephone(64, 64, "AVIF"), Refused("pose_unreadable", 415, "AVIF")),
    Stranger("gif", "Pillow 13", lambda: telephone(64, 64, "GIF"), Refused("pose_unreadable", 415, "GIF")),
    Stranger("tiff", "Pillow 13", lambda: telephone(64, 64, "TIFF"), Refused("pose_unreadable", 415, "TIFF")),
    Stranger("bmp", "Pillow 13", lambda: telephone(64, 64, "BMP"), Refused("pose_unreadable", 415, "BMP")),
]


@pytest.mark.parametrize("row", rows(READ))
def test_a_picture_is_read_or_refused_by_name(row: Stranger[Callable[[], bytes], Seen | Refused]) -> None:
    content = row.given()
    if isinstance(row.right, Refused):
        with pytest.raises(RenderFault, match=row.right.said) as fault:
            decode_picture(content, LIMITS)
        assert fault.value.code == row.right.code
        with pytest.raises(Problem) as refused:
            read_picture(content, LIMITS.pixels_max)
        assert refused.value.status == row.right.status
        assert row.right.said in refused.value.detail
        return
    assert content.startswith(read_picture(content, LIMITS.pixels_max).content)
    picture = decode_picture(content, LIMITS)
    assert (picture.mode, picture.size) == ("RGB", row.right.size)
    for (x, y), colour in row.right.points.items():
        seen = picture.getpixel((round(x * (picture.width - 1)), round(y * (picture.height - 1))))
        assert isinstance(seen, tuple)
        assert all(abs(one - other) <= 2 for one, other in zip(seen, colour, strict=True)), (seen, colour)


def test_every_level_of_a_16_bit_ramp_is_kept() -> None:
    levels = np.asarray(decode_picture((FOLDER / "ramp_16_bits.png").read_bytes(), LIMITS))[:, :, 0]
    assert len(np.unique(levels)) == 64


@pytest.mark.parametrize("size", [(5712, 4284), (8064, 6048)], ids=["24", "48"])
def test_a_telephones_photo_keeps_the_bound_on_memory(size: tuple[int, int], tmp_path: Path) -> None:
    """In a process of its own: decoding 48 million pixels whole takes 188 MiB, and 49 at a half of the sides."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of a process is read from Linux' /proc")
    file = tmp_path / "photo.jpg"
    file.write_bytes(telephone(*size))
    script = f"""
        import re
        from pathlib import Path
        from darkroom.inference.pose.picture import PictureLimits, decode_picture
        content = Path({str(file)!r}).read_bytes()
        def peak_kib():
            return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: a fork starts with its parent's
        before = peak_kib()
        picture = decode_picture(content, PictureLimits())
        print((peak_kib() - before) / 1024)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, capture_output=True, text=True)
    assert float(done.stdout) < PEAK_MIB_MAX


# --- Skeleton pictures ----------------------------------------------------------------------------------


def on_clear() -> Image.Image:
    """On a transparent ground, as an editor exports its layer."""
    lit = drawn().convert("L").point(lambda level: 255 if level > 8 else 0)
    layer = drawn().convert("RGBA")
    layer.putalpha(lit)
    return Image.composite(layer, Image.new("RGBA", layer.size, (255, 255, 255, 0)), lit)


SKELETONS: list[Stranger[Callable[[], bytes], str | None]] = [
    Stranger("ours", "Darkroom 1", lambda: encoded(drawn(), "PNG"), None),
    Stranger("ours-of-64-pixels", "Darkroom 1", lambda: encoded(drawn(64, 64), "PNG"), None),
    Stranger("as-jpeg", "Pillow 13, quality 30", lambda: encoded(drawn(), "JPEG", quality=30), None),
    Stranger("of-a-palette", "pngquant 2", lambda: encoded(drawn().quantize(16), "PNG"), None),
    Stranger("on-a-transparent-ground", "an editor's layer, PNG 1.2", lambda: encoded(on_clear(), "PNG"), None),
    Stranger(
        "grey",
        "a pose extractor, saved as greyscale PNG 1.2",
        (FOLDER / "skeleton_grey.png").read_bytes,
        "no colours",
    ),
    Stranger(
        "on-white",
        "an editor's export, PNG 1.2",
        (FOLDER / "skeleton_on_white.png").read_bytes,
        "not black",
    ),
    Stranger(
        "a-photo",
        "a camera, EXIF 2.32",
        lambda: encoded(Image.merge("RGB", [Image.linear_gradient("L")] * 2 + [Image.radial_gradient("L")]), "JPEG"),
        "not black",
    ),
]


def prepared(content: bytes) -> tuple[str, ...]:
    """The warnings of a device for a skeleton picture."""
    pose = SkeletonPose(image=InlinePicture(inline=base64.b64encode(content).decode()))
    request = RenderRequest(
        prompt="a red figure", negative_prompt=None, width=64, height=64, steps=1, guidance_scale=1.0,
        sampler="euler", seed=7, pose=pose,
    )  # fmt: skip
    return SimulatedDevice(0.0).prepare(RenderJob("job", request)).warnings


@pytest.mark.parametrize("row", rows(SKELETONS))
def test_what_is_no_skeleton_is_painted_with_a_warning(row: Stranger[Callable[[], bytes], str | None]) -> None:
    warnings = prepared(row.given())
    if row.right is None:
        assert warnings == ()
    else:
        [warning] = warnings
        assert row.right in warning
        assert "send a photo as `photo`" in warning


def test_other_peoples_thick_sticks_and_white_faces_are_skeletons() -> None:
    """Eight people, small and large, hands and face: all that annotators draw on black in colours."""
    small = [(0.4 + x / 10, 0.4 + y / 10) for x, y in STANDING]
    close = [(0.5 + (x - 0.5) * 4, 0.3 + (y - 0.15) * 4) for x, y in STANDING]
    crowd = [[(x / 4 + n % 4 / 4, y / 2 + n // 4 / 2) for x, y in STANDING] for n in range(8)]
    for people in ([small], [close], crowd):
        for side in (64, 128, 512, 1024):
            assert unlike_a_skeleton(drawn(side, side, *people)) is None
    thick = drawn(64, 64).resize((1024, 1024), Image.Resampling.NEAREST)
    assert unlike_a_skeleton(thick) is None
    face = drawn(512, 512, close)
    for n in range(70):
        face.paste("white", (200 + n % 10 * 12, 150 + n // 10 * 20, 205 + n % 10 * 12, 155 + n // 10 * 20))
    assert unlike_a_skeleton(face) is None


# --- Poses of nobody --------------------------------------------------------------------------------------

NOBODY: list[Stranger[Any, None]] = [
    Stranger("no-point-is-seen", "a pose extractor 1.0 that found nobody", [[None] * 18], None),
    Stranger("all-outside", "an editor 1.0, moved out of the picture", [[[1.9, 1.9]] * 18], None),
    Stranger("coco17-without-a-point", "a script, numpy 2", [[None] * 17], None),
    Stranger("one-point-and-no-limb", "an editor 1.0, everything else hidden", [[None] * 17 + [[1.0, 1.0]]], None),
]


@pytest.mark.parametrize("row", rows(NOBODY))
async def test_keypoints_of_nobody_are_refused_alike_by_kafka_and_http(row: Stranger[Any, None]) -> None:
    pose = {"people": row.given, "format": f"coco{len(row.given[0])}"}
    order = {"request_id": "nobody", "prompt": "a red figure", "pose": pose}
    with pytest.raises(RequestRejected, match="nobody in the pose") as rejected:
        resolve(GenerationRequest.model_validate(order), SimulatedDevice(0.0).info, LimitSettings())
    assert rejected.value.code is ErrorCode.POSE_NOT_FOUND
    async with House().gateway() as replica:
        said = problem(await replica.post(order), 422, "pose_not_found")
    assert said["detail"] == rejected.value.message


def test_somebody_beside_nobody_is_painted() -> None:
    crossing = [[-0.5, 0.5] if index == 1 else [1.5, 0.5] if index == 2 else None for index in range(18)]
    for people in ([[None] * 18, STANDING], [crossing]):
        order = {"request_id": "somebody", "prompt": "a red figure", "pose": {"people": people}}
        assert resolve(GenerationRequest.model_validate(order), SimulatedDevice(0.0).info, LimitSettings())


@pytest.mark.parametrize("colour", ["black", "white", "#080808"])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_picture_of_one_colour_shows_nobody(colour: str, form: str) -> None:
    with pytest.raises(RenderFault, match="pose's picture shows nobody") as fault:
        prepared(encoded(Image.new("RGB", (64, 64), colour), form))
    assert fault.value.code == "pose_not_found"
