"""Proves that a stranger's picture is decoded rightly, or refused before it can cost anything."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkroom.inference.pose.control import control_picture, pose_digest
from darkroom.inference.pose.picture import PictureLimits, decode_picture
from darkroom.inference.types import FaultKind, RenderFault
from darkroom.schemas.events.pose import InlinePicture, SkeletonPose, StoredPicture

LIMITS = PictureLimits(bytes_max=200_000, pixels_max=10_000)
STORED = SkeletonPose(image=StoredPicture(bucket="darkroom", key="pose.png"))


def corner_picture(width: int = 64, height: int = 32, mode: str = "RGB") -> Image.Image:
    """Black, with a red block in the upper left corner."""
    picture = Image.new("RGB", (width, height))
    picture.paste((255, 0, 0), (0, 0, width // 4, height // 4))
    return picture.convert(mode)


def encoded(picture: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def fault_of(content: bytes, limits: PictureLimits = LIMITS) -> RenderFault:
    with pytest.raises(RenderFault) as caught:
        decode_picture(content, limits)
    assert caught.value.kind is FaultKind.REQUEST
    return caught.value


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(width: int, height: int, *chunks: bytes, pixels: bytes = b"") -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_are_read_as_rgb(image_format: str) -> None:
    options = {"lossless": True} if image_format == "WEBP" else {}
    picture = decode_picture(encoded(corner_picture(), image_format, **options), LIMITS)
    assert (picture.mode, picture.size) == ("RGB", (64, 32))
    red, green, blue = np.asarray(picture, dtype=np.int16)[2, 4]
    assert red > 230
    assert max(green, blue) < 25


@pytest.mark.parametrize("mode", ["P", "L", "LA", "1", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_pixel_becomes_rgb(mode: str) -> None:
    source = corner_picture(mode="P") if mode == "P" else corner_picture(mode="L").convert(mode)
    picture = decode_picture(encoded(source, "JPEG" if mode == "CMYK" else "PNG"), LIMITS)
    assert (picture.mode, picture.size) == ("RGB", (64, 32))


def test_what_is_transparent_becomes_black() -> None:
    picture = Image.new("RGBA", (16, 16), (255, 255, 255, 0))
    picture.paste((0, 255, 0, 255), (0, 0, 4, 4))
    levels = np.asarray(decode_picture(encoded(picture, "PNG"), LIMITS))
    assert levels[1, 1].tolist() == [0, 255, 0]
    assert levels[10, 10].tolist() == [0, 0, 0]


def test_a_transparent_colour_of_a_palette_becomes_black() -> None:
    picture = Image.new("P", (16, 16), 0)
    picture.putpalette([255, 255, 255, 0, 0, 255])
    picture.paste(1, (0, 0, 4, 4))
    levels = np.asarray(decode_picture(encoded(picture, "PNG", transparency=0), LIMITS))
    assert levels[1, 1].tolist() == [0, 0, 255]
    assert levels[10, 10].tolist() == [0, 0, 0]


def test_an_orientation_is_followed() -> None:
    """A camera held sideways: the picture is stored lying and says in EXIF how to stand it up."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by a quarter
    for image_format in ("JPEG", "PNG", "WEBP"):
        upright = decode_picture(encoded(corner_picture(), image_format, exif=exif), LIMITS)
        assert upright.size == (32, 64)
        assert np.asarray(upright, dtype=np.int16)[2, 29, 0] > 200, "the left upper corner is now the right one"


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_read(image_format: str) -> None:
    others = [Image.new("RGB", (64, 32), "blue"), Image.new("RGB", (64, 32), "lime")]
    options = {"lossless": True} if image_format == "WEBP" else {}
    moving = encoded(corner_picture(), image_format, save_all=True, append_images=others, duration=50, **options)
    assert np.asarray(decode_picture(moving, LIMITS))[2, 4].tolist() == [255, 0, 0]


def test_bytes_are_counted_before_anything_is_read() -> None:
    content = bytes(LIMITS.bytes_max + 1)
    fault = fault_of(content)
    assert fault.code == "image_too_large"
    assert str(LIMITS.bytes_max) in fault.message
    assert fault_of(content[:-1]).code == "pose_unreadable", "at the limit it is looked at"


def test_pixels_are_counted_before_they_are_decoded() -> None:
    """A file of some hundred bytes that says it is enormous; its pixels are not even there to be decoded."""
    fault = fault_of(png_of(101, 100))
    assert fault.code == "image_too_large"
    assert "101 x 100 pixels" in fault.message
    assert fault_of(png_of(2**31 - 1, 2**31 - 1)).code == "image_too_large"
    assert fault_of(png_of(30_000, 30_000), PictureLimits()).code == "image_too_large"


def test_a_picture_at_the_limit_is_read() -> None:
    assert decode_picture(png_of(100, 100, pixels=bytes(100 * 301)), LIMITS).size == (100, 100)


def test_text_that_unpacks_to_megabytes_is_refused() -> None:
    bomb = png_chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(64 * 1024 * 1024), 9))
    assert fault_of(png_of(8, 8, bomb, pixels=bytes(8 * 25))).code == "pose_unreadable"


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_a_torn_picture_is_refused_wherever_it_is_torn(image_format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    whole = encoded(noise, image_format)
    for share in (0.01, 0.1, 0.5, 0.9):
        assert fault_of(whole[: int(len(whole) * share)]).code == "pose_unreadable"


@pytest.mark.parametrize("image_format", ["GIF", "BMP", "TIFF", "PPM", "ICO", "PCX", "TGA", "JPEG2000"])
def test_no_other_format_is_a_way_in(image_format: str) -> None:
    assert fault_of(encoded(corner_picture(), image_format)).code == "pose_unreadable"


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n", b"hello", b"<svg/>", b"%!PS-Adobe", b"RIFF\0\0\0\0WEBPVP8 "]
)
def test_what_is_no_picture_is_refused(content: bytes) -> None:
    fault = fault_of(content)
    assert fault.code == "pose_unreadable"
    assert "PNG, JPEG or WebP" in fault.message


def test_random_damage_is_a_picture_or_a_refusal() -> None:
    """Five hundred broken files of each format, and no other exception than ours."""
    draw = np.random.default_rng(7)
    refused = set()
    for image_format in ("PNG", "JPEG", "WEBP"):
        whole = np.frombuffer(encoded(corner_picture(), image_format), dtype=np.uint8)
        for _ in range(500):
            broken = whole.copy()
            where = draw.integers(0, len(broken), size=draw.integers(1, 6))
            broken[where] = draw.integers(0, 256, size=len(where), dtype=np.uint8)
            try:
                picture = decode_picture(broken.tobytes(), LIMITS)
            except RenderFault as fault:
                refused.add((fault.kind, fault.code))
            else:
                assert picture.mode == "RGB"
                assert picture.width * picture.height <= LIMITS.pixels_max
    assert refused == {(FaultKind.REQUEST, "pose_unreadable"), (FaultKind.REQUEST, "image_too_large")}


def test_a_skeleton_picture_is_stretched_to_the_output() -> None:
    picture = control_picture(STORED, encoded(corner_picture(), "PNG"), width=64, height=64, limits=LIMITS).picture
    assert (picture.mode, picture.size) == ("RGB", (64, 64))
    levels = np.asarray(picture)
    assert levels[8, 8].tolist() == [255, 0, 0]
    assert levels[24, 8].tolist() == [0, 0, 0]


def test_an_inline_picture_is_read_from_the_pose_itself() -> None:
    content = encoded(corner_picture(), "PNG")
    inline = SkeletonPose(image=InlinePicture(inline=base64.b64encode(content).decode()))
    stored = control_picture(STORED, content, width=32, height=32, limits=LIMITS)
    carried = control_picture(inline, None, width=32, height=32, limits=LIMITS)
    assert carried.picture.tobytes() == stored.picture.tobytes()
    assert pose_digest(inline, None) == pose_digest(STORED, content)
    assert pose_digest(STORED, content) != pose_digest(STORED, content + b"\0")


def test_a_stored_picture_that_was_not_fetched_is_named() -> None:
    with pytest.raises(RenderFault, match=r"darkroom/pose\.png") as caught:
        control_picture(STORED, None, width=32, height=32, limits=LIMITS)
    assert caught.value.code == "pose_unreadable"
