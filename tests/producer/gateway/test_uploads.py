"""Proves that an uploaded file is a whole picture or is refused, and never costs more than it may."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from darkroom.producer.gateway.jobs.forms import text_too_large
from darkroom.producer.gateway.jobs.uploads import Uploads, file_too_large, read_picture
from darkroom.producer.gateway.problems import Problem
from tests.producer.gateway.house import png

PIXELS_MAX = 1_000_000
FORMS = ("PNG", "JPEG", "WEBP")


def refused(content: bytes) -> tuple[int, str]:
    """The status and code of a refusal."""
    with pytest.raises(Problem) as error:
        read_picture(content, PIXELS_MAX)
    return error.value.status.value, error.value.code


def bomb(width: int, height: int, rows: int) -> bytes:
    """A PNG of one colour, with so many rows of those that its header names: 10,000 square take 20 KB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = bytes(1 + (width + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("form", "extension"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")])
def test_a_whole_picture_passes_as_it_is(form: str, extension: str) -> None:
    content = png(40, 30, form=form)
    picture = read_picture(content, PIXELS_MAX)
    assert (picture.content, picture.extension, picture.width, picture.height) == (content, extension, 40, 30)


def test_ten_thousand_by_ten_thousand_pixels_are_refused_undecoded() -> None:
    content = bomb(10_000, 10_000, 10_000)
    assert len(content) < 40_000
    tracemalloc.start()
    assert refused(content) == (413, "image_too_large")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


def test_what_pillow_itself_calls_a_bomb_is_refused_alike() -> None:
    assert refused(bomb(60_000, 60_000, 1)) == (413, "image_too_large")


@pytest.mark.parametrize("form", FORMS)
def test_a_truncated_picture_is_refused(form: str) -> None:
    content = png(400, 300, form=form)
    for length in (len(content) // 2, len(content) - 1):
        assert refused(content[:length])[0] in (415, 422)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tail", [b"<script>alert(1)</script>", b"PK\x03\x04" + bytes(200), b"\xff\xd9", b"IEND"])
def test_of_a_polyglot_only_the_picture_is_kept(form: str, tail: bytes) -> None:
    content = png(40, 30, form=form)
    assert read_picture(content + tail, PIXELS_MAX).content == content


@pytest.mark.parametrize("content", [b"", b"<svg/>", b"GIF89a" + bytes(100), b"%PDF-1.7", b"#!/bin/sh\n"])
def test_other_files_are_refused(content: bytes) -> None:
    assert refused(content) == (415, "picture_format_unknown")


def test_a_jpeg_with_a_thumbnail_and_restarts_is_kept_whole() -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "\xff\xd9 in a segment"
    Image.effect_noise((320, 240), 90).save(buffer, "JPEG", exif=exif, progressive=True, restart_marker_blocks=4)
    content = buffer.getvalue()
    assert read_picture(content + b"trailer", PIXELS_MAX).content == content


async def test_too_many_bytes_are_not_looked_at() -> None:
    with pytest.raises(Problem) as error:
        await Uploads(bytes_max=100, pixels_max=PIXELS_MAX, at_a_time=1).check(png(400, 300, form="JPEG"))
    assert (error.value.status, error.value.code) == (413, "body_too_large")


@given(st.sampled_from(FORMS), st.binary(max_size=64), st.integers(0, 2000), st.integers(0, 2000))
def test_whatever_the_bytes_are_there_is_a_picture_or_a_problem(form: str, noise: bytes, at: int, until: int) -> None:
    whole = png(33, 21, form=form)
    content = whole[: at % len(whole)] + noise + whole[until % len(whole) :]
    try:
        picture = read_picture(content, PIXELS_MAX)
    except Problem:
        assert refused(content)[0] in (413, 415, 422)
    else:
        assert content.startswith(picture.content)
        assert read_picture(picture.content, PIXELS_MAX) == picture, "what is kept is a whole picture by itself"


@given(st.binary(max_size=300))
def test_noise_is_no_picture(noise: bytes) -> None:
    assert refused(noise)[0] in (413, 415, 422)


def test_whatever_is_too_large_is_refused_in_one_shape() -> None:
    for problem in (file_too_large(7), text_too_large(7)):
        body = problem.body()
        assert body.keys() == {"type", "title", "status", "code", "detail", "remedy", "limit_bytes"}
        assert (body["status"], body["code"], body["limit_bytes"]) == (413, "body_too_large", 7)
        assert body["detail"].endswith(" has more than 7 bytes.")


def test_keypoints_are_told_where_they_are_read() -> None:
    with pytest.raises(Problem) as caught:
        read_picture(b' {"people": []}', PIXELS_MAX)
    assert "post the file to /v1/poses" in str(caught.value.remedy)
