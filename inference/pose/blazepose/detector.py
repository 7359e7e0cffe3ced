"""Runs BlazePose's networks on a photo: the whole of it, then tiles for the small people."""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from darkroom.inference.pose.blazepose import decode
from darkroom.inference.pose.blazepose.decode import Body, Candidate
from darkroom.inference.pose.photo import DetectedPerson, PoseDetector
from darkroom.inference.types import ModelError
from darkroom.schemas.events.keypoints import LIMBS

WEIGHTS: Final = {
    "pose_detection.tflite": "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
    "pose_landmark_full.tflite": "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
}
"""The files beside this one, and their SHA-256."""

LONG_SIDE_PX: Final = 1280
"""A larger photo is examined at this size: a tile of it has 768 pixels, three times the networks' input."""
TILE_SHARE: Final = 0.6
"""A tile's side, as a share of the photo's longer side."""
TILE_PX_MIN: Final = 200
FILLED_MIN: Final = 1.2
"""A person whose circle has this share of the photo's longer side fills it: no small people are looked for behind."""
FIRST_CERTAINTY_MIN: Final = 0.4
"""A place with a lower certainty of the heatmaps is not examined a second time."""
SECOND_LOOK_BELOW: Final = 0.6
LOOKS_MAX: Final = 10
"""Calls of the landmark network per photo, some 14 ms each, besides 10 ms per view: more would exceed 300 ms."""
RADIUS_MAX: Final = 4.0
"""Limit of a person's circle, as a share of the photo's longer side: nobody larger has a limb inside the photo."""
TILE_OVERLAP_MIN: Final = 0.3
"""Overlap of two neighbouring tiles, as a share of a tile."""

VERSION: Final = 1
"""Changes when the same photo would give other points because this code changed."""
INSTALL: Final = "install darkroom[photos]."
REINSTALL: Final = "install Darkroom again."


class _View(NamedTuple):
    """A part of the picture that the detector examines, in pixels."""

    left: int
    top: int
    right: int
    bottom: int
    is_whole: bool


@dataclass(slots=True)
class _Looks:
    """The remaining calls of the landmark network for one photo."""

    left: int


class _Found(NamedTuple):
    certainty: float
    body: Body


class BlazePoseDetector(PoseDetector):
    """`PoseDetector` by BlazePose's detector and its full landmark network. Belongs to one thread at a time."""

    def __init__(self) -> None:
        """Load the weights that the package carries.

        Raises `ModelError` if they are not whole, or if the extra `photos` is not installed.
        """
        self._interpreters = {name: _interpreter(name) for name in WEIGHTS}
        self._anchors = decode.anchors()

    @property
    def digest(self) -> str:
        """The digest of the weights, the interpreter's version and the decoder's version."""
        return blazepose_digest()

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return at most 1,280 pixels for the longer side; a smaller photo keeps its size."""
        scale = min(1.0, LONG_SIDE_PX / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def find(self, picture: Image.Image) -> Sequence[DetectedPerson]:
        """Find everybody, as `PoseDetector.find`. Scores are probabilities."""
        whole, *tiles = views(*picture.size)
        looks = _Looks(LOOKS_MAX)
        found = self._people(picture, self._candidates(picture, whole), [], looks)
        if not any(_fills(person, *picture.size) for person in found):
            smaller = [candidate for tile in tiles for candidate in self._candidates(picture, tile)]
            found = self._people(picture, smaller, found, looks)
        found.sort(key=lambda one: one.certainty, reverse=True)
        people: list[_Found] = []
        for person in found:
            if not any(decode.is_same(person.body.points, known.body.points) for known in people):
                people.append(person)
        return [one for one in (_detected(person, *picture.size) for person in people) if one is not None]

    def _people(
        self, picture: Image.Image, places: Sequence[Candidate], known: Sequence[_Found], looks: _Looks
    ) -> list[_Found]:
        """Return the known people and those at `places`, the surest place first, while there are looks left."""
        found, seen = list(known), [person.body.place for person in known]
        for candidate in sorted(places, key=lambda one: one.score, reverse=True):
            if not looks.left:
                break
            if any(decode.is_near(candidate, place) for place in seen):
                continue
            seen.append(candidate)
            person = self._person(picture, candidate, looks)
            if person is not None:
                found.append(person)
                seen.append(person.body.place)
        return found

    def _candidates(self, picture: Image.Image, view: _View) -> list[Candidate]:
        """Return the places of people in a view, in pixels of the picture."""
        width, height = view.right - view.left, view.bottom - view.top
        side = max(width, height)
        scale = decode.DETECTOR_SIDE_PX / side
        seen = picture.resize(
            (max(1, round(width * scale)), max(1, round(height * scale))),
            Image.Resampling.BILINEAR,
            box=(view.left, view.top, view.right, view.bottom),
        )
        square = Image.new("RGB", (decode.DETECTOR_SIDE_PX, decode.DETECTOR_SIDE_PX))
        left, top = (square.width - seen.width) // 2, (square.height - seen.height) // 2
        square.paste(seen, (left, top))
        # -1 to 1: `output_tensor_float_range`.
        outputs = self._run("pose_detection.tflite", np.asarray(square, np.float32) / np.float32(127.5) - np.float32(1))
        boxes, logits = outputs[decode.BOXES, 12], outputs[decode.BOXES, 1][:, 0]
        corner = np.array([view.left - left / scale, view.top - top / scale])
        return [
            one._replace(centre=one.centre + corner, rim=one.rim + corner)
            for one in decode.candidates(boxes, logits, self._anchors, side=side)
        ]

    def _person(self, picture: Image.Image, candidate: Candidate, looks: _Looks) -> _Found | None:
        """Examine a place and, if the result is uncertain, once more where the first look locates the person."""
        first = self._body(picture, candidate, looks)
        if first is None:
            return None
        bodies = [first]
        if FIRST_CERTAINTY_MIN <= decode.certainty(first, *picture.size) < SECOND_LOOK_BELOW:
            second = self._body(picture, first.place, looks)
            # The second look may have moved over to somebody standing nearby.
            if second is not None and decode.is_same(first.points, second.points):
                bodies.append(second)
        if max(candidate.score, *(body.place.score for body in bodies)) < decode.PRESENCE_MIN:
            return None
        certainty, best = max(
            ((decode.certainty(body, *picture.size), body) for body in bodies), key=lambda one: one[0]
        )
        return _Found(certainty, best) if certainty >= decode.CERTAINTY_MIN else None

    def _body(self, picture: Image.Image, place: Candidate, looks: _Looks) -> Body | None:
        """Run the landmark network at a place; None if the place is impossible or its numbers are not finite."""
        if not 0 < place.radius < RADIUS_MAX * max(picture.size):
            return None
        looks.left -= 1
        matrix = decode.region(place)
        side = decode.LANDMARK_SIDE_PX
        crop = picture.transform((side, side), Image.Transform.AFFINE, tuple(matrix.ravel()), Image.Resampling.BILINEAR)
        outputs = self._run("pose_landmark_full.tflite", np.asarray(crop, np.float32) / np.float32(255))
        presence = float(outputs[(1,)][0])
        body = decode.landmarks(outputs[(decode.LANDMARKS * 5,)], presence, outputs[64, 64, decode.LANDMARKS], matrix)
        return body if np.isfinite(body.points).all() and np.isfinite(body.place.rim).all() else None

    def _run(self, name: str, pixels: npt.NDArray[np.float32]) -> dict[tuple[int, ...], npt.NDArray[np.float32]]:
        """Return the network's outputs by their shapes, which no two of them share."""
        interpreter = self._interpreters[name]
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels[None])
        interpreter.invoke()
        return {
            tuple(int(length) for length in one["shape"][1:]): interpreter.get_tensor(one["index"])[0]
            for one in interpreter.get_output_details()
        }


def views(width: int, height: int) -> Iterator[_View]:
    """Yield the parts of a picture to examine: the whole, then overlapping square tiles (four of a square picture)."""
    yield _View(0, 0, width, height, is_whole=True)
    side = max(TILE_PX_MIN, round(TILE_SHARE * max(width, height)))
    if side >= max(width, height):
        return
    for top in _starts(height, side):
        for left in _starts(width, side):
            yield _View(left, top, min(left + side, width), min(top + side, height), is_whole=False)


def _starts(length: int, side: int) -> list[int]:
    room = max(0, length - side)
    steps = math.ceil(room / (side * (1 - TILE_OVERLAP_MIN)))
    return [round(room * step / steps) for step in range(steps + 1)] if steps else [0]


def _fills(person: _Found, width: int, height: int) -> bool:
    return 2 * person.body.place.radius >= FILLED_MIN * max(width, height)


def is_installed() -> bool:
    """Return true if the interpreter (the extra `photos`) can be imported, without importing it."""
    return importlib.util.find_spec("ai_edge_litert") is not None


def blazepose_digest() -> str:
    """Return `sha256:` and the digest of everything that decides the findings, without loading anything."""
    parts = [f"blazepose {VERSION}", f"ai-edge-litert {version('ai-edge-litert')}", *WEIGHTS.values()]
    return "sha256:" + hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _detected(person: _Found, width: int, height: int) -> DetectedPerson | None:
    """Return the person in the form that the drawing code takes, or None if no limb is in the picture."""
    points = decode.coco18(person.body.points, width, height)
    if not any(points[start] is not None and points[end] is not None for start, end in LIMBS):
        return None
    return DetectedPerson(
        points=tuple(None if point is None else point[:2] for point in points),
        score=person.body.place.score,
        scores=tuple(0.0 if point is None else point[2] for point in points),
    )


def _interpreter(name: str) -> Any:
    """Return a loaded network of one thread. Raises `ModelError`."""
    file = Path(__file__).with_name(name)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelError(f"BlazePose's weights {file} cannot be read ({error.strerror}): {REINSTALL}") from error
    if hashlib.sha256(content).hexdigest() != WEIGHTS[name]:
        raise ModelError(f"BlazePose's weights {file} are not the published ones: {REINSTALL}")
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ModelError(f"Photos need LiteRT, which cannot be imported ({error}): {INSTALL}") from error
    # One thread: a request waits for the device anyway, and the lanes need the cores.
    interpreter = Interpreter(model_path=str(file), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter
