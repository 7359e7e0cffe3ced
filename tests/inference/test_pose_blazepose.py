"""Proves that BlazePose's outputs are decoded rightly, and that its people lie where they are in photos."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from darkroom.consumer.demo.requests import PHOTO
from darkroom.inference.pose.blazepose import decode, detector
from darkroom.inference.pose.blazepose.detector import BlazePoseDetector, blazepose_digest, views
from darkroom.inference.pose.photo import SKELETON_AS_PHOTO, DetectedPerson, PhotoPeople, find_people
from darkroom.inference.pose.picture import PictureLimits
from darkroom.inference.pose.skeleton import draw_people
from darkroom.inference.types import ModelError

SEEN = {0: (0.432, 0.238), 14: (0.393, 0.197), 15: (0.477, 0.205), 2: (0.240, 0.420), 5: (0.590, 0.480)}
"""Nose, right and left eye, right and left shoulder, by eye, to some 2% of the photo."""


@pytest.fixture(scope="module")
def blazepose() -> BlazePoseDetector:
    return BlazePoseDetector()


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    with Image.open(PHOTO) as photo:
        return photo.convert("RGB")


def found_in(picture: Image.Image, blazepose: BlazePoseDetector, **how: object) -> PhotoPeople:
    content = io.BytesIO()
    picture.save(content, **({"format": "PNG"} | how))  # type: ignore[arg-type]
    return find_people(content.getvalue(), blazepose, PictureLimits())


def assert_seen(person: DetectedPerson, *, within: float, turned: int = 0) -> None:
    """`turned`: counterclockwise, in quarters."""
    for index, upright in SEEN.items():
        place = upright
        for _ in range(turned):
            place = (place[1], 1 - place[0])
        point = person.points[index]
        assert point is not None, index
        assert math.dist(point, place) < within, (index, point, place)


# --- The numbers ----------------------------------------------------------------------------------------


def test_the_anchors_are_the_middles_of_cells_layer_by_layer() -> None:
    anchors = decode.anchors()
    assert anchors.shape == (decode.BOXES, 2)
    # 28 x 28 cells of two anchors, 14 x 14 of two, 7 x 7 of six.
    assert anchors[0].tolist() == anchors[1].tolist() == [0.5 / 28, 0.5 / 28]
    assert anchors[2].tolist() == [1.5 / 28, 0.5 / 28]
    assert anchors[28 * 28 * 2].tolist() == [0.5 / 14, 0.5 / 14]
    assert anchors[28 * 28 * 2 + 14 * 14 * 2].tolist() == [0.5 / 7, 0.5 / 7]
    assert anchors[-1].tolist() == [6.5 / 7, 6.5 / 7]


def boxes_at(*places: tuple[int, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of 56 pixels by their anchor, and by how many pixels they and their points lie beside it; unlikely else."""
    boxes, logits = np.zeros((decode.BOXES, 12)), np.full(decode.BOXES, -1000.0)
    for anchor, logit, beside in places:
        boxes[anchor] = [beside, 0, 56, 56, beside, 0, beside, -112, 0, 0, 0, 0]
        logits[anchor] = logit
    return boxes, logits


def test_boxes_that_overlap_are_one_person_weighted_by_their_scores() -> None:
    anchors = decode.anchors()
    near = int(np.argmin(np.hypot(*(anchors - 0.5).T)))
    other = near + 1
    assert anchors[near].tolist() == anchors[other].tolist()
    boxes, logits = boxes_at((near, math.log(0.9 / 0.1), 0.0), (other, math.log(0.3 / 0.7), 22.4))
    [one] = decode.candidates(boxes, logits, anchors, side=1000)
    assert one.score == pytest.approx(0.9)
    # A quarter of the weight, a tenth of the square.
    assert one.centre == pytest.approx([anchors[near][0] * 1000 + 25, anchors[near][1] * 1000])
    assert one.radius == pytest.approx(500)


def test_boxes_apart_are_two_and_unlikely_ones_nobody() -> None:
    anchors = decode.anchors()
    boxes, logits = boxes_at((0, 3.0, 0.0), (27 * 2, 2.0, 0.0), (28 * 27 * 2, -1.5, 0.0))
    assert [round(one.score, 2) for one in decode.candidates(boxes, logits, anchors, side=224)] == [0.95, 0.88]


@pytest.mark.parametrize("degrees", [0, 30, 90, 180, 270])
def test_the_region_stands_the_person_upright(degrees: int) -> None:
    turn = math.radians(degrees)
    centre = np.array([300.0, 200.0])
    head = centre + 100 * np.array([math.sin(turn), -math.cos(turn)])
    matrix = decode.region(decode.Candidate(0.9, centre, head))
    assert matrix @ [128, 128, 1] == pytest.approx(centre)
    # The square's side is 250 pixels of the picture: the circle, and a quarter more.
    assert matrix @ [128, 128 - 256 / 2.5, 1] == pytest.approx(head)
    right = matrix @ [256, 128, 1] - centre
    assert right == pytest.approx(125 * np.array([math.cos(turn), math.sin(turn)]))


def test_a_sure_heatmap_moves_the_point_and_an_unsure_one_does_not() -> None:
    heatmap = np.full((64, 64, 3), -20.0)
    heatmap[30, 34, 0] = 5.0
    heatmap[30, 34, 1] = -0.1
    heatmap[30, 34, 2] = 5.0
    places = np.array([[0.5, 0.5], [0.5, 0.5], [0.9, 0.5]])
    moved = decode.refined(places, heatmap)
    assert moved[0] == pytest.approx([34 / 64, 30 / 64], abs=1e-3)
    assert moved[1].tolist() == [0.5, 0.5]
    assert moved[2].tolist() == [0.9, 0.5], "the peak lies outside of its seven cells"
    outside = np.array([[1.2, -0.1]])
    assert decode.refined(outside, heatmap[:, :, :1]).tolist() == outside.tolist()


def test_a_point_outside_is_unseen_whatever_the_network_says() -> None:
    points = np.tile([50.0, 40.0, 0.99], (33, 1))
    points[27] = [50.0, 101.0, 0.99]
    points[25] = [50.0, 90.0, 0.29]
    points[11], points[12] = [20.0, 30.0, 0.8], [40.0, 50.0, 0.6]
    person = decode.coco18(points, 100, 100)
    assert person[13] is None, "the left ankle lies below the picture"
    assert person[12] is None, "the left knee is not sure enough"
    assert person[1] == pytest.approx((0.3, 0.4, 0.6)), "the neck is between the shoulders"
    assert person[2] == pytest.approx((0.4, 0.5, 0.6)), "the right shoulder is landmark 12"
    points[11, 0] = -1
    assert decode.coco18(points, 100, 100)[1] is None


@pytest.mark.parametrize("size", [(512, 512), (1280, 720), (720, 1280), (200, 150), (1280, 100), (1, 1280)])
def test_the_tiles_cover_the_picture(size: tuple[int, int]) -> None:
    whole, *tiles = views(*size)
    assert whole[:4] == (0, 0, *size)
    covered = np.zeros(size[::-1], bool)
    for tile in tiles:
        covered[tile.top : tile.bottom, tile.left : tile.right] = True
        assert max(tile.right - tile.left, tile.bottom - tile.top) < max(size)
    assert covered.all() or (not tiles and max(size) <= detector.TILE_PX_MIN)
    assert len(tiles) <= 6


# --- The photo ------------------------------------------------------------------------------------------


def test_the_joints_lie_where_a_person_sees_them(astronaut: Image.Image, blazepose: BlazePoseDetector) -> None:
    [person] = blazepose.find(astronaut)
    assert_seen(person, within=0.03)
    assert person.scores is not None
    assert 0.5 <= person.score <= 1
    assert all(0 <= score <= 1 for score in person.scores)
    assert [person.points[index] for index in (9, 10, 12, 13)] == [None] * 4, "the knees are below the picture"


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_photo_has_the_same_person(
    astronaut: Image.Image, blazepose: BlazePoseDetector, quarters: int
) -> None:
    [person] = blazepose.find(astronaut.rotate(90 * quarters))
    assert_seen(person, within=0.05, turned=quarters)


def test_two_people_are_two(astronaut: Image.Image, blazepose: BlazePoseDetector) -> None:
    both = Image.new("RGB", (astronaut.width * 2, astronaut.height))
    both.paste(astronaut, (0, 0))
    both.paste(astronaut, (astronaut.width, 0))
    found = found_in(both, blazepose)
    assert found.seen == 2
    noses = sorted(person.points[0][0] for person in found.found if person.points[0] is not None)
    assert noses == pytest.approx([0.216, 0.716], abs=0.02)


def test_a_small_person_is_found_in_a_tile(astronaut: Image.Image, blazepose: BlazePoseDetector) -> None:
    """An eighth of the photo's width: 30 pixels of the 224 that the network sees of the whole."""
    field = Image.new("RGB", (1200, 900), (120, 150, 110))
    field.paste(astronaut.resize((150, 150), Image.Resampling.LANCZOS), (60, 700))
    [person] = found_in(field, blazepose).found
    nose = person.points[0]
    assert nose is not None
    assert (nose[0] * 1200, nose[1] * 900) == pytest.approx((60 + 0.432 * 150, 700 + 0.238 * 150), abs=6)


def test_nobody_is_found_where_nobody_is(blazepose: BlazePoseDetector) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    hills = Image.new("RGB", (640, 400), (130, 180, 230))
    draw = ImageDraw.Draw(hills)
    draw.polygon([(0, 400), (0, 260), (200, 180), (420, 290), (640, 200), (640, 400)], fill=(70, 120, 60))
    draw.ellipse((480, 40, 540, 100), fill=(250, 230, 120))
    for picture in (Image.fromarray(noise), hills, Image.new("RGB", (64, 64), "grey"), Image.new("RGB", (1, 1))):
        assert found_in(picture, blazepose).seen == 0


def test_a_photo_of_48_megapixels_is_read(astronaut: Image.Image, blazepose: BlazePoseDetector) -> None:
    large = astronaut.resize((8000, 6000), Image.Resampling.BILINEAR)
    found = found_in(large, blazepose, format="JPEG", quality=80)
    [person] = found.found
    for index, (x, y) in SEEN.items():
        point = person.points[index]
        assert point is not None
        assert point[:2] == pytest.approx((x, y), abs=0.05)


def test_a_skeleton_sent_as_a_photo_is_said(blazepose: BlazePoseDetector) -> None:
    class Somebody(BlazePoseDetector):
        def find(self, picture: Image.Image) -> list[DetectedPerson]:
            return [DetectedPerson(tuple((0.1 * (1 + index % 3), 0.05 * index) for index in range(18)), 0.9)]

    person = tuple((0.3 + 0.02 * index, 0.05 * index) for index in range(18))
    assert found_in(draw_people([person], width=512, height=512), Somebody()).warning == SKELETON_AS_PHOTO


# --- The weights ----------------------------------------------------------------------------------------


def test_weights_that_are_not_the_published_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(detector.WEIGHTS, "pose_detection.tflite", "0" * 64)
    with pytest.raises(ModelError, match="install Darkroom again"):
        BlazePoseDetector()


def test_the_digest_changes_with_what_decides_the_points(
    blazepose: BlazePoseDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = blazepose.digest
    assert digest == blazepose_digest()
    assert digest.startswith("sha256:")
    monkeypatch.setattr(detector, "VERSION", detector.VERSION + 1)
    assert blazepose_digest() != digest
