"""Parts that the readers of keypoint files share: the people of a document, and its points as Python's values.

A reader takes the unit as it stands; `darkroom.producer.poses.keypoints` decides between pixels and fractions for all
alike, and has the table of readers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from darkroom.producer.poses.layouts import LayoutUnknown, arranged
from darkroom.schemas.events.keypoints import SCORE_MIN, UNSEEN, Figure, Keypoint, Size

CONFIDENCE_MIN: Final = SCORE_MIN["coco17"]
"""Of detectors with COCO's points, DWPose's among them."""
_SIZE_MAX: Final = 100_000


class PoseJsonRefused(Exception):  # noqa: N818 - what was found
    """A document that is no pose: `what` continues "The file ...", `remedy` is a sentence.

    `needs_size`: the document would be one with the size of the picture that its coordinates are pixels of.
    """

    def __init__(self, what: str, remedy: str, *, needs_size: bool = False) -> None:
        super().__init__(f"{what} {remedy}")
        self.what = what
        self.remedy = remedy
        self.needs_size = needs_size


@dataclass(frozen=True, slots=True)
class Found:
    """The people of a document's frame, in the document's own unit."""

    writer: str
    people: Sequence[Figure]
    size: Size | None = None
    """Of the picture that the coordinates are pixels of, where the document says it."""
    notes: tuple[str, ...] = ()
    in_fractions: bool = False
    """Whether this writer has no other unit."""
    may_be_centred: bool = False
    """Whether this writer can be told to count from -1 to 1."""


class Reader(NamedTuple):
    """One way of writing."""

    recognises: Callable[[Any], bool]
    read: Callable[[Any], Found]


def size_in(document: Mapping[str, Any], width: str, height: str) -> Size | None:
    """Return the size that two members name, whole or not; None where they name none."""
    sides = number(document.get(width)), number(document.get(height))
    if sides[0] is None or sides[1] is None or not all(0 < side <= _SIZE_MAX for side in sides if side is not None):
        return None
    return sides[0], sides[1]


def number(value: Any) -> float | None:
    """Return a finite JSON number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def point(x: Any, y: Any, score: Any, score_min: float, who: str) -> Keypoint:
    """Return one point; `score` is None where the document has none. Raise `PoseJsonRefused` for what is no number."""
    if x is None and y is None:
        return None
    across, down = number(x), number(y)
    sure = 1.0 if score is None else number(score)
    if across is None or down is None or sure is None:
        raise PoseJsonRefused(
            f"has a point that is not made of numbers ({who}).", "Write [x, y], or null where unseen."
        )
    if sure < score_min or (across, down) in UNSEEN:
        return None
    return across, down


def triples(flat: Sequence[Any], score_min: float, who: str) -> tuple[Keypoint, ...]:
    """Return points from x, y and score in a row. COCO's visibility counts as one: 1 is placed, though hidden."""
    if len(flat) % 3:
        raise PoseJsonRefused(
            f"has {len(flat)} numbers for {who}, which are not three a point.", "Write x, y and confidence of each."
        )
    places = zip(flat[0::3], flat[1::3], flat[2::3], strict=True)
    return tuple(point(x, y, score, score_min, who) for x, y, score in places)


def rows(
    rows: Sequence[Any], who: str, scores: Sequence[Any] | None = None, score_min: float = CONFIDENCE_MIN
) -> tuple[Keypoint, ...]:
    """Return points from [x, y], [x, y, score] or null; `scores` are those of a writer that keeps them apart."""
    points: list[Keypoint] = []
    for index, row in enumerate(rows):
        if row is None:
            points.append(None)
            continue
        if not isinstance(row, list) or len(row) not in (2, 3):
            raise PoseJsonRefused(
                f"has a point that is not [x, y] or [x, y, score] ({who}).", "Write null where a point is not seen."
            )
        score = scores[index] if scores is not None and index < len(scores) else (row[2] if len(row) == 3 else None)
        points.append(point(row[0], row[1], score, score_min, who))
    return tuple(points)


def figures(people: Sequence[Sequence[Keypoint]], writer: str) -> tuple[list[Figure], tuple[str, ...]]:
    """Return everybody's points as figures, by how many there are, with notes. Raise `PoseJsonRefused`."""
    found, notes = [], []
    for points in people:
        try:
            figure, note = arranged(points)
        except LayoutUnknown as unknown:
            raise PoseJsonRefused(f"has {unknown.what} ({writer}).", unknown.remedy) from unknown
        found.append(figure)
        notes += [note] if note else []
    return found, tuple(dict.fromkeys(notes))


def dicts(value: Any) -> list[dict[str, Any]]:
    """Return the objects of a list; nothing for what is no list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def people_in(document: Any) -> list[dict[str, Any]]:
    """Return the objects of a list, or the object itself as the only one."""
    return dicts(document if isinstance(document, list) else [document])


def first(document: Any) -> dict[str, Any]:
    """Return the first object of a list, or the object itself; an empty one where there is none."""
    if isinstance(document, list):
        document = document[0] if document else None
    return document if isinstance(document, dict) else {}
