"""Decodes the outputs of BlazePose's two networks: where people are, and where their joints are.

Numbers named after an option are those of MediaPipe 0.10.21's graphs (google-ai-edge/mediapipe, mediapipe/modules):
pose_detection/pose_detection_cpu.pbtxt and
pose_landmark/tensors_to_pose_landmarks_and_segmentation.pbtxt. Pure: numpy in, numpy out. Coordinates are continuous:
the middle of the first pixel is at 0.5.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from darkroom.schemas.events.keypoints import FROM_COCO17

Floats = npt.NDArray[np.float64]

DETECTOR_SIDE_PX: Final = 224
"""`output_tensor_width`, `output_tensor_height`: the detector looks at a square of this side."""
STRIDES: Final = (8, 16, 32, 32, 32)
"""`strides` of SsdAnchorsCalculator, in pixels; each layer has two anchors in every cell."""
ANCHORS_PER_LAYER: Final = 2
BOXES: Final = 2254
"""`num_boxes`."""
SCORE_MIN: Final = 0.2
"""`min_score_thresh`: low, since the landmark network says afterwards whether there is a person."""
_LOGIT_MAX: Final = 100.0
"""`score_clipping_thresh`."""
OVERLAP_MAX: Final = 0.3
"""`min_suppression_threshold`, of the intersection over the union."""

LANDMARK_SIDE_PX: Final = 256
"""`input_image_width`, `input_image_height` of the landmark network."""
LANDMARKS: Final = 39
"""`num_landmarks`: 33 joints, two points that say where the person is, and four that are not used."""
JOINTS: Final = 33
REGION_SCALE: Final = 1.25
"""The margin around the circle of the detector's full-body points, 0 and 1. An earlier pose_detection_to_roi.pbtxt has
1.5 around the upper body's points, 2 and 3; docs/how-to/photos.md was measured with this one."""
PRESENCE_MIN: Final = 0.5
"""`threshold` of ThresholdingCalculator, of the score that there is a person."""
CERTAINTY_MIN: Final = 0.5
"""Chosen on the photos of docs/how-to/photos.md: most people score above, most others below; they overlap to 0.55."""
NOSES_APART_MIN: Final = 0.45
"""As a share of the shoulders' width: the noses of people who stand behind each other are further apart."""
KERNEL: Final = 7
"""`kernel_size` of RefineLandmarksFromHeatmapCalculator, in cells of the heatmap."""
HEAT_MIN: Final = 0.5
"""`min_confidence_to_refine`, by its default: a heatmap that is less sure moves nothing."""

COCO17_OF_BLAZEPOSE: Final = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)
"""The landmark of each of COCO's 17 points."""
POINT_MIN: Final = 0.3
"""A point that is less probable than this is neither drawn nor reported."""


class Candidate(NamedTuple):
    """A place where the detector sees a person."""

    score: float
    """A probability."""
    centre: Floats
    """(2,): the middle between the hips, x and y."""
    rim: Floats
    """(2,): a point of the circle about `centre` that holds the whole person, above the head."""

    @property
    def radius(self) -> float:
        """The radius of that circle, in pixels."""
        return float(np.hypot(*(self.rim - self.centre)))


def anchors() -> Floats:
    """Return the (2254, 2) middles of the detector's cells, as fractions of its square.

    As SsdAnchorsCalculator makes them: layers of one stride share their cells, row by row.
    """
    middles = []
    for stride in sorted(set(STRIDES)):
        cells = math.ceil(DETECTOR_SIDE_PX / stride)
        steps = (np.arange(cells) + 0.5) / cells
        y, x = np.meshgrid(steps, steps, indexing="ij")
        layers = STRIDES.count(stride)
        middles.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), ANCHORS_PER_LAYER * layers, axis=0))
    return np.concatenate(middles)


def candidates(boxes: npt.ArrayLike, logits: npt.ArrayLike, middles: Floats, *, side: float) -> list[Candidate]:
    """Decode the detector's outputs for a square of `side` pixels, the surest first.

    `boxes` are (2254, 12): a box's middle and size, four points, all in pixels of the network's square from the
    anchor's middle; `logits` (2254,). What overlaps is one person: its points are the mean, weighted by the scores
    (`algorithm: WEIGHTED` of NonMaxSuppressionCalculator).
    """
    scores = _probability(np.clip(np.asarray(logits, np.float64), -_LOGIT_MAX, _LOGIT_MAX))
    likely = np.flatnonzero(scores >= SCORE_MIN)
    points = np.asarray(boxes, np.float64)[likely].reshape(-1, 6, 2) / DETECTOR_SIDE_PX
    points[:, 0] += middles[likely]
    points[:, 2:] += middles[likely][:, None]
    scores = scores[likely]
    corners = np.concatenate([points[:, 0] - points[:, 1] / 2, points[:, 0] + points[:, 1] / 2], axis=1)
    left = np.argsort(-scores, kind="stable")
    found = []
    while len(left):
        same = overlaps(corners[left[0]], corners[left]) > OVERLAP_MAX
        # A box without an area overlaps nothing, not even itself.
        same[0] = True
        weights = scores[left[same]]
        mean = np.tensordot(weights, points[left[same]], axes=1) / weights.sum() * side
        found.append(Candidate(float(scores[left[0]]), mean[2], mean[3]))
        left = left[~same]
    return found


def overlaps(corners: Floats, others: Floats) -> Floats:
    """Return the intersection over the union of a box (4,) with each of `others` (n, 4), as x, y, x, y."""
    width = np.minimum(corners[2], others[:, 2]) - np.maximum(corners[0], others[:, 0])
    height = np.minimum(corners[3], others[:, 3]) - np.maximum(corners[1], others[:, 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    union = (corners[2] - corners[0]) * (corners[3] - corners[1]) + areas - shared
    shares: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return shares


def region(candidate: Candidate) -> Floats:
    """Return the (2, 3) matrix that takes a pixel of the landmark network's square to one of the picture.

    The square holds the person upright: the way from the hips to the rim points up in it.
    """
    along = candidate.rim - candidate.centre
    scale = 2 * candidate.radius * REGION_SCALE / LANDMARK_SIDE_PX
    turn = math.atan2(along[0], -along[1])
    cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
    turned = np.array([[cos, -sin], [sin, cos]])
    middle = np.full(2, LANDMARK_SIDE_PX / 2)
    return np.column_stack([turned, candidate.centre - turned @ middle])


class Body(NamedTuple):
    """A person as the landmark network sees them, in pixels of the picture."""

    points: Floats
    """(33, 3): x and y, and the probability that the point is there to be seen."""
    heat: Floats
    """(33,): the highest probability in each joint's heatmap."""
    place: Candidate
    """The person's place by the network itself: its points 33 and 34, from which MediaPipe takes the region in the next
    frame of a video (pose_landmark/pose_landmarks_to_roi.pbtxt). The score is the probability that there is a
    person."""


def landmarks(raw: npt.ArrayLike, presence: float, heatmap: npt.ArrayLike, matrix: Floats) -> Body:
    """Decode the landmark network's outputs for the region of `matrix`.

    `raw` are 39 times x, y, depth (pixels of the network's square), visibility and presence (logits); `presence` is
    a probability already; `heatmap` is (cells, cells, 39) of logits.
    """
    points = np.asarray(raw, np.float64).reshape(LANDMARKS, 5)
    logits = np.asarray(heatmap)
    places = refined(points[:, :2] / LANDMARK_SIDE_PX, logits) * LANDMARK_SIDE_PX
    placed = places @ matrix[:, :2].T + matrix[:, 2]
    seen = np.minimum(_probability(points[:, 3]), _probability(points[:, 4]))
    return Body(
        points=np.column_stack([placed, seen])[:JOINTS],
        heat=_probability(logits.max(axis=(0, 1)).astype(np.float64))[:JOINTS],
        place=Candidate(presence, placed[JOINTS], placed[JOINTS + 1]),
    )


def certainty(body: Body, width: int, height: int) -> float:
    """Return how sure the heatmaps are of the joints within a picture of `width` x `height`, 0 to 1.

    The network's own score says 0.98 of a flower and a retina; the mean of its heatmaps' peaks tells them apart.
    """
    x, y = body.points[:, 0], body.points[:, 1]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return float(body.heat[inside].mean()) if inside.any() else 0.0


def refined(places: Floats, heatmap: npt.NDArray[Any]) -> Floats:
    """Move each point (n, 2), fractions of the square, to the mean of its heatmap's cells around it.

    As RefineLandmarksFromHeatmapCalculator: within `KERNEL` cells, weighted by their probabilities, where the largest
    of them is at least `HEAT_MIN`. `heatmap` is (rows, columns, n) of logits. Points outside of the square stay.
    """
    rows, columns, _ = heatmap.shape
    moved = places.copy()
    reach = (KERNEL - 1) // 2
    for index, (x, y) in enumerate(places):
        if not (0 <= x < 1 and 0 <= y < 1):
            continue
        column, row = int(x * columns), int(y * rows)
        left, top = max(0, column - reach), max(0, row - reach)
        around = _probability(heatmap[top : row + reach + 1, left : column + reach + 1, index].astype(np.float64))
        if around.max() < HEAT_MIN:
            continue
        total = around.sum()
        moved[index] = (
            (around.sum(axis=0) @ np.arange(left, left + around.shape[1])) / total / columns,
            (around.sum(axis=1) @ np.arange(top, top + around.shape[0])) / total / rows,
        )
    return moved


def coco18(points: Floats, width: int, height: int) -> tuple[tuple[float, float, float] | None, ...]:
    """Return 18 points of a person (33, 3) in a picture of `width` x `height`: x and y as fractions, probability.

    None for a point that is not seen: one outside of the picture, whatever the network says of it (it says "visible"
    of feet below the lower edge), or one less probable than `POINT_MIN`. The neck is halfway between the shoulders,
    as probable as the less probable one.
    """
    seen = [_seen(points[landmark], width, height) for landmark in COCO17_OF_BLAZEPOSE]
    left, right = seen[5], seen[6]
    neck = None
    if left is not None and right is not None:
        neck = ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2, min(left[2], right[2]))
    return tuple(neck if source is None else seen[source] for source in FROM_COCO17)


def is_near(one: Candidate, other: Candidate) -> bool:
    """Return whether two places are so alike that the landmark network would find the same person in them."""
    larger, smaller = max(one.radius, other.radius), min(one.radius, other.radius)
    return float(np.hypot(*(one.centre - other.centre))) < 0.3 * larger and larger < 1.5 * smaller


def is_same(one: Floats, other: Floats) -> bool:
    """Return true if two findings, (33, 3) each, are one person: their noses or most of their joints coincide."""
    reach = max(_reach(one), _reach(other))
    if np.hypot(*(one[0, :2] - other[0, :2])) < NOSES_APART_MIN * reach:
        return True
    extent = max(np.ptp(one[11:, 0]), np.ptp(one[11:, 1]), 1.0)
    apart = np.hypot(*(one[:, :2] - other[:, :2]).T)
    # COCO's object keypoint similarity, with one width of a tenth of the body's extent for all points.
    return bool(np.exp(-((apart / (0.1 * extent)) ** 2)).mean() > 0.4)


def _seen(point: Floats, width: int, height: int) -> tuple[float, float, float] | None:
    x, y, probability = (float(number) for number in point)
    if not (0 <= x < width and 0 <= y < height) or probability < POINT_MIN:
        return None
    return x / width, y / height, probability


def _reach(points: Floats) -> float:
    """Return roughly the width of the shoulders in pixels, for any orientation of the person."""
    shoulders, hips = points[11:13, :2], points[23:25, :2]
    across = np.hypot(*(shoulders[0] - shoulders[1]))
    down = np.hypot(*(shoulders.mean(axis=0) - hips.mean(axis=0)))
    ears = np.hypot(*(points[7, :2] - points[8, :2]))
    return float(max(across, 0.7 * down, 2 * ears))


def _probability(logits: Floats) -> Floats:
    # By tanh, which overflows for no logit.
    result: Floats = 0.5 * (1 + np.tanh(0.5 * logits))
    return result
