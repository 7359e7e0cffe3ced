"""What every `darkroom.inference.contract.Device` must do, whatever it paints with.

The fakes of the other tests are held to it as well as the devices that are shipped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from darkroom.inference.contract import Device, Row
from darkroom.inference.resolve import batch_key
from darkroom.inference.types import (
    PREVIEW_BYTES_MAX,
    PREVIEW_SIDE_PX_MAX,
    FaultKind,
    RenderedImage,
    RenderFault,
    RenderJob,
    RenderRequest,
    RowId,
)
from darkroom.schemas.events.pose import InlinePicture, PhotoPose, SkeletonPose, StoredPicture
from tests.inference.devices import EVERY, PAINTING, SAME, difference, finished, make_device, opened
from tests.inference.scripted import request as asked
from tests.inference.test_pose_blazepose import PHOTO


@pytest.fixture(scope="module", params=EVERY)
def device(request: pytest.FixtureRequest) -> Iterator[Device[Any]]:
    device = make_device(request.param, request)
    device.load()
    yield device
    device.close()


@pytest.fixture(scope="module", params=PAINTING)
def painter(request: pytest.FixtureRequest) -> Iterator[Device[Any]]:
    device = make_device(request.param, request)
    device.load()
    yield device
    device.close()


def prepare(device: Device[Any], request: RenderRequest, pose_picture: bytes | None = None) -> list[Row]:
    return list(device.prepare(RenderJob("job", request, {} if pose_picture is None else {"pose": pose_picture})).rows)


def denoise(device: Device[Any], rows: Sequence[Row]) -> None:
    while left := [row for row in rows if row.steps_done < row.steps_total]:
        device.step(left)


def paint(device: Device[Any], request: RenderRequest) -> tuple[RenderedImage, ...]:
    rows = prepare(device, request)
    denoise(device, rows)
    return finished(device, rows)


def test_it_says_what_it_is(device: Device[Any]) -> None:
    info = device.info
    assert info.name
    assert info.revision.startswith("sha256:")
    assert len(info.revision) >= len("sha256:") + 16
    assert info.size_multiple % info.latent_factor == 0
    assert info.native_width % info.size_multiple == info.native_height % info.size_multiple == 0
    assert info.sampler_version
    for counts in device.cache_counts().values():
        assert min(counts) >= 0
    assert all(size >= 0 for size in device.memory_bytes().values())


def test_prepare_makes_a_row_for_each_image(device: Device[Any]) -> None:
    request = asked(steps=4, count=3, width=128)
    rows = prepare(device, request)
    assert [row.row_id for row in rows] == [RowId("job", 0), RowId("job", 1), RowId("job", 2)]
    assert {row.batch_key for row in rows} == {batch_key(request, device.info)}
    assert {(row.steps_done, row.steps_total) for row in rows} == {(0, 4)}


def test_a_step_advances_its_rows_and_no_others(device: Device[Any]) -> None:
    rows = prepare(device, asked(steps=4, count=3))
    device.step(rows[:2])
    device.step(rows[1:2])
    assert [row.steps_done for row in rows] == [1, 2, 0]


def test_rows_of_different_progress_share_a_step(device: Device[Any]) -> None:
    early, late = prepare(device, asked(steps=5))[0], prepare(device, asked(steps=2))[0]
    device.step([early])
    device.step([early, late])
    assert (early.steps_done, late.steps_done) == (2, 1)


def test_finish_gives_the_pictures_in_the_order_of_the_rows(device: Device[Any]) -> None:
    rows = prepare(device, asked(steps=1, count=3, seed=20))
    denoise(device, rows)
    assert [image.seed for image in finished(device, [rows[2], rows[0]])] == [22, 20]


def test_close_is_idempotent(request: pytest.FixtureRequest) -> None:
    for name in ("scripted", "simulated"):
        device = make_device(name, request)
        device.close()
        device.load()
        device.close()
        device.close()


@pytest.mark.render
def test_close_of_the_real_device_is_idempotent(request: pytest.FixtureRequest) -> None:
    device = make_device("sdxl", request)
    device.close()
    device.load()
    device.close()
    device.close()


# --- Pictures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_format", "content_type", "extension"),
    [("png", "image/png", "png"), ("jpeg", "image/jpeg", "jpg"), ("webp", "image/webp", "webp")],
)
def test_pictures_are_of_the_size_and_format_asked_for(
    painter: Device[Any], image_format: str, content_type: str, extension: str
) -> None:
    (image,) = paint(painter, replace(asked(steps=1, width=128, height=72), image_format=image_format))
    assert (image.width, image.height, image.seed) == (128, 72, 7)
    assert (image.content_type, image.extension) == (content_type, extension)
    picture = opened(image)
    assert (picture.size, picture.format) == ((128, 72), image_format.upper())


def test_png_carries_the_requests_text(painter: Device[Any]) -> None:
    text = {"darkroom:request": '{"prompt":"a dancer"}', "darkroom:model": "modèle 模型"}
    (image,) = paint(painter, replace(asked(steps=1), image_text=text))
    assert opened(image).info.items() >= text.items()


def test_a_picture_depends_on_the_request_alone(painter: Device[Any]) -> None:
    """Not on who shares its steps, when they join, whether it is painted a second time, or what is done between."""
    request = asked(steps=5, seed=3)
    (alone,) = paint(painter, request)
    (row,) = prepare(painter, request)
    others = prepare(painter, asked(steps=2, count=2, seed=90, prompt="a horse"))
    painter.step([others[0]])
    painter.step([row, *others])
    painter.step([row])
    painter.step([row, others[1]])
    denoise(painter, [row])
    (shared,) = finished(painter, [row])
    assert difference(alone, shared) <= SAME
    assert difference(alone, paint(painter, request)[0]) == 0


def test_image_i_is_painted_from_seed_plus_i(painter: Device[Any]) -> None:
    several = paint(painter, asked(steps=2, count=3, seed=50))
    (alone,) = paint(painter, asked(steps=2, seed=52))
    assert difference(several[2], alone) <= SAME
    assert difference(several[0], several[1]) > 10 * SAME


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "a horse in the rain"},
        {"negative_prompt": "blurry, dark"},
        {"steps": 4},
        {"guidance_scale": 9.0},
        {"sampler": "euler"},
        {"seed": 8},
    ],
)
def test_what_is_asked_for_decides_the_picture(painter: Device[Any], other: dict[str, Any]) -> None:
    request = asked(steps=3)
    (one,), (another,) = paint(painter, request), paint(painter, replace(request, **other))
    assert difference(one, another) > SAME


# --- Pose pictures from strangers -----------------------------------------------------------------------

STORED = SkeletonPose(image=StoredPicture(bucket="darkroom", key="pose.png"))


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n torn"])
def test_an_unreadable_pose_picture_is_the_requests_fault(painter: Device[Any], content: bytes) -> None:
    with pytest.raises(RenderFault) as caught:
        prepare(painter, replace(asked(), pose=STORED), content)
    assert (caught.value.kind, caught.value.code) == (FaultKind.REQUEST, "pose_unreadable")
    inline = SkeletonPose(image=InlinePicture(inline=base64.b64encode(b"not a picture").decode()))
    with pytest.raises(RenderFault) as caught:
        prepare(painter, replace(asked(), pose=inline))
    assert (caught.value.kind, caught.value.code) == (FaultKind.REQUEST, "pose_unreadable")


def test_a_photo_is_taken_where_the_device_says_so(painter: Device[Any]) -> None:
    photo = replace(asked(), pose=PhotoPose(photo=StoredPicture(bucket="darkroom", key="photo.jpg")))
    if painter.info.pose_detector is None:
        with pytest.raises(RenderFault, match="needs the OpenPose body detector") as caught:
            prepare(painter, photo, skeleton("white"))
        assert (caught.value.kind, caught.value.code) == (FaultKind.REQUEST, "pose_unreadable")
        return
    assert prepare(painter, photo, PHOTO.read_bytes())
    with pytest.raises(RenderFault) as caught:
        prepare(painter, photo, b"not a picture")
    assert (caught.value.kind, caught.value.code) == (FaultKind.REQUEST, "pose_unreadable")


def test_the_poses_picture_decides_the_picture_whichever_way_it_comes(painter: Device[Any]) -> None:
    def paint_posed(pose: SkeletonPose, content: bytes | None, **other: Any) -> RenderedImage:
        rows = prepare(painter, replace(asked(steps=2), pose=pose, **other), content)
        denoise(painter, rows)
        return finished(painter, rows)[0]

    white, red = skeleton("white"), skeleton("red")
    inline = SkeletonPose(image=InlinePicture(inline=base64.b64encode(white).decode()))
    stored = paint_posed(STORED, white)
    assert difference(stored, paint_posed(inline, None)) <= SAME
    assert difference(stored, paint_posed(STORED, red)) > SAME
    assert difference(stored, paint_posed(STORED, white, control_scale=0.5)) > SAME
    assert difference(stored, paint(painter, asked(steps=2))[0]) > SAME


def test_a_picture_of_nobody_is_refused_and_one_that_is_no_skeleton_is_warned_of(painter: Device[Any]) -> None:
    request = replace(asked(), pose=STORED)
    for colour in ("black", "white", "grey"):
        with pytest.raises(RenderFault, match="pose's picture shows nobody") as caught:
            prepare(painter, request, picture_of(colour, colour))
        assert (caught.value.kind, caught.value.code) == (FaultKind.REQUEST, "pose_not_found")
    for ground, limb, said in (
        ("black", "red", None),
        ("white", "red", "its ground is not black"),
        ("black", "grey", "no colours"),
    ):
        warnings = painter.prepare(RenderJob("job", request, {"pose": picture_of(ground, limb)})).warnings
        if said is None:
            assert warnings == ()
        else:
            [warning] = warnings
            assert said in warning
            assert "send a photo as `photo`" in warning
        again = painter.prepare(RenderJob("job", request, {"pose": picture_of(ground, limb)})).warnings
        assert again == warnings, "what is cached warns as well"


def skeleton(colour: str) -> bytes:
    return picture_of("black", colour)


def picture_of(ground: str, limb: str) -> bytes:
    import io

    from PIL import Image

    content = io.BytesIO()
    picture = Image.new("RGB", (64, 64), ground)
    picture.paste(limb, (24, 8, 40, 56))
    picture.save(content, "PNG")
    return content.getvalue()


def test_a_preview_is_there_from_the_first_step_on_and_small(painter: Device[Any]) -> None:
    request = replace(asked(steps=2), width=256, height=128)
    rows = painter.prepare(RenderJob("job", request, progress="previews")).rows
    assert painter.preview(rows[0]) is None
    shown = []
    while rows[0].steps_done < rows[0].steps_total:
        painter.step(rows)
        preview = painter.preview(rows[0])
        assert preview is not None
        assert preview.steps_done == rows[0].steps_done
        assert len(preview.content) <= PREVIEW_BYTES_MAX
        shown.append(preview.content)
        with Image.open(io.BytesIO(preview.content)) as picture:
            assert picture.format == "JPEG"
            assert picture.width == 2 * picture.height <= PREVIEW_SIDE_PX_MAX
    assert shown[0] != shown[1]
