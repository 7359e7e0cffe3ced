"""Keypoints in JSON, however the field's tools write them, as a request's `pose`: one answer for every way in.

`darkroom send --pose` and the page's import (`POST /v1/poses`) both read with this. A document is told by its shape,
never by its file's name. What cannot be read is refused under the name of what it is; what is left out is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from pydantic import TypeAdapter, ValidationError

from darkroom.producer.poses import datasets, detectors, openpose
from darkroom.producer.poses.documents import Found, PoseJsonRefused, Reader
from darkroom.producer.poses.frames import frames_of
from darkroom.producer.poses.refusals import refuse_bytes, refuse_document
from darkroom.schemas.events.keypoints import FRACTION_MAX, OUTSIDE_MAX, OUTSIDE_MIN, UNSEEN, Figure, Keypoint, Size
from darkroom.schemas.events.pose import PEOPLE_MAX, KeypointPose, PeoplePose, Pose
from darkroom.schemas.wire.json import read_json

POSE_JSON_BYTES_MAX: Final = 4 * 1024 * 1024
"""A person with hands and face takes some 8 KiB; whatever is larger is a film's."""
TOO_LARGE: Final = (
    f"has more than the {POSE_JSON_BYTES_MAX} bytes that are read of keypoints.",
    "Keep only the frame that is meant in the file.",
)
READ_FORMATS: Final = (
    "a pose of Darkroom's ({\"people\": [[[x, y], ...]]}), OpenPose's JSON, COCO's annotations or results, and what "
    "ComfyUI, DWPose, MMPose, Ultralytics, rtmlib, TensorFlow.js, MediaPipe and Label Studio write"
)

READERS: Final[tuple[Reader, ...]] = (
    Reader(openpose.is_openpose, openpose.read_openpose),
    Reader(openpose.is_dwpose, openpose.read_dwpose),
    Reader(datasets.is_coco_annotations, datasets.read_coco_annotations),
    Reader(datasets.is_label_studio, datasets.read_label_studio),
    Reader(detectors.is_mmpose, detectors.read_mmpose),
    Reader(detectors.is_ultralytics, detectors.read_ultralytics),
    Reader(detectors.is_named, detectors.read_named),
    Reader(datasets.is_coco_results, datasets.read_coco_results),
    Reader(openpose.is_editor, openpose.read_editor),
    Reader(detectors.is_arrays, detectors.read_arrays),
    Reader(detectors.is_mediapipe, detectors.read_mediapipe),
    Reader(openpose.is_listed, openpose.read_listed),
)
"""In the order in which they are asked. A new tool is one more row."""
_POSE: Final[TypeAdapter[Any]] = TypeAdapter(Pose)


class PoseRead(NamedTuple):
    """Poses read from a document."""

    pose: dict[str, Any]
    """A request's `pose`."""
    notes: tuple[str, ...]
    """What was left out or taken for granted: half sentences that begin with their subject."""
    canvas: Size | None = None
    """The size of the picture that the keypoints were found in, where it is known."""


class FrameRead(NamedTuple):
    """One frame of a document: its pose, or why it has none."""

    number: int
    """From 1."""
    read: PoseRead | PoseJsonRefused


def document_of(content: bytes) -> Any:
    """Return the document in the bytes of a JSON file. Raise `PoseJsonRefused` for what is no sound JSON."""
    if len(content) > POSE_JSON_BYTES_MAX:
        raise PoseJsonRefused(*TOO_LARGE)
    document = read_json(content)
    if document.flaw is not None:
        refuse_bytes(content)
        raise PoseJsonRefused(
            f"is neither JSON with keypoints ({document.flaw}) nor a PNG, JPEG or WebP picture.",
            f"Read are {READ_FORMATS}.",
        )
    return document.value


def read_pose(document: Any, size: Size | None = None) -> PoseRead:
    """Read a JSON document as a pose; of several frames, the first one.

    `size` is that of the picture which its coordinates are pixels of, where the caller knows it. Raises
    `PoseJsonRefused`.
    """
    document = _inner(document)
    unit, frames = frames_of(document)
    several = len(frames) > 1
    where = f" in the first of its {len(frames)} {unit}s" if several else ""
    read = _frame(frames[0], size, where)
    if not several:
        return read
    note = f"the file has {len(frames)} {unit}s: the first one was used; `darkroom send --frames` sends all of them"
    return read._replace(notes=(note, *read.notes))


def read_frames(document: Any, size: Size | None = None) -> list[FrameRead]:
    """Read each frame of a JSON document as a pose, or say why it is none."""
    read: list[FrameRead] = []
    for number, frame in enumerate(frames_of(_inner(document)).documents, 1):
        try:
            read.append(FrameRead(number, _frame(frame, size, "")))
        except PoseJsonRefused as refused:
            read.append(FrameRead(number, refused))
    return read


def _inner(document: Any) -> Any:
    """Return the pose of a document that has it as a member, as a request does."""
    is_wrapped = isinstance(document, dict) and isinstance(document.get("pose"), dict)
    return document["pose"] if is_wrapped and "keypoints" not in document["pose"] else document


def _frame(document: Any, size: Size | None, where: str) -> PoseRead:
    """Read a document of one frame. `where` names it, for `shows nobody ...`."""
    if isinstance(document, dict) and ("image" in document or "photo" in document) and not _has_people(document):
        return PoseRead(document, ())
    ours = None if size is not None else _ours(document)
    if ours is not None:
        return ours
    for reader in READERS:
        if reader.recognises(document):
            return _settled(reader.read(document), size, where)
    refuse_document(document)
    if isinstance(document, list):
        return _settled(detectors.bare_people(document), size, where)
    raise PoseJsonRefused("has no keypoints in a form that is known.", f"Read are {READ_FORMATS}.")


def _has_people(document: dict[str, Any]) -> bool:
    return any(name in document for name in ("people", "predictions", "keypoints", "annotations"))


def _ours(document: Any) -> PoseRead | None:
    """Return a request's pose of keypoints as it is drawn, None for any other document."""
    try:
        pose = _POSE.validate_python(document)
    except ValidationError:
        return None
    if not isinstance(pose, KeypointPose) or not (figures := pose.figures()):
        return None
    if isinstance(pose, PeoplePose) and _is_plain(pose) and len(figures) == len(pose.people):
        return PoseRead(document, ())
    canvas = None if pose.canvas is None else pose.canvas.size
    people = [_without_unseen(figure) for figure in figures]
    read = _settled(Found("a pose of Darkroom's", people, in_fractions=True), None, "")
    left_out = len(pose.people) - len(figures)
    notes = (f"{_people(left_out)} without a limb in the picture left out",) if left_out else ()
    if pose.canvas is not None and pose.fit != "stretch":
        read.pose.update(canvas=pose.canvas.model_dump(), fit=pose.fit)
    return read._replace(notes=notes + read.notes, canvas=canvas)


def _is_plain(pose: PeoplePose) -> bool:
    """Return whether a pose is what a request had before there were scores, hands and canvases."""
    points = [point for person in pose.people for point in person if point is not None]
    return (
        pose.format == "coco18"
        and pose.canvas is None
        and pose.face is None
        and pose.hands is None
        and all(len(point) == 2 and point not in UNSEEN for point in points)
    )


def _without_unseen(figure: Figure) -> Figure:
    return Figure(*(tuple(None if point in UNSEEN else point for point in part) for part in figure))


def _settled(found: Found, size: Size | None, where: str) -> PoseRead:
    """Return the people as fractions of the picture, without those and that which cannot be drawn."""
    notes = list(found.notes)
    people = [figure for figure in found.people if any(figure.body)]
    if not people:
        raise PoseJsonRefused(f"shows nobody{where}: no body point of anybody is seen.", _nobody_remedy(where))
    if len(people) < len(found.people):
        notes.append(f"{_people(len(found.people) - len(people))} without a body point left out")
    scale = _scale(people, found, size)
    if size is not None and found.size is not None and scale == size != found.size:
        notes.append(f"the file says {_by(found.size)} pixels, and the given size {_by(size)} was used")
    figures = [figure.placed(scale, None, "stretch", in_pixels=True) for figure in people]
    far = sum(not _is_near(point) for figure in figures for point in figure.points())
    if far:
        notes.append(f"{far} point{'s' if far > 1 else ''} far outside of the picture left out")
    near = [
        Figure(*(tuple(point if point and _is_near(point) else None for point in part) for part in figure))
        for figure in figures
    ]
    shown = [figure for figure in near if figure.is_drawable]
    if not shown:
        raise PoseJsonRefused(
            f"shows nobody within the picture{where}: no limb, a line between two points that are seen, lies in it.",
            "Check the size of the picture that the coordinates are of, and that neighbouring points are seen.",
        )
    if len(shown) < len(near):
        notes.append(f"{_people(len(near) - len(shown))} without a limb in the picture left out")
    if len(shown) > PEOPLE_MAX:
        notes.append(f"{len(shown)} people are more than the {PEOPLE_MAX} of a pose: the largest {PEOPLE_MAX} are used")
        largest = sorted(range(len(shown)), key=lambda index: _area(shown[index].body), reverse=True)[:PEOPLE_MAX]
        shown = [shown[index] for index in sorted(largest)]
    return PoseRead(_as_pose(shown), tuple(dict.fromkeys(notes)), size or found.size)


def _as_pose(figures: Sequence[Figure]) -> dict[str, Any]:
    """Return people as a request has them, hands and faces where there are any."""
    pose: dict[str, Any] = {"people": [_listed(figure.body) for figure in figures], "format": "coco18"}
    if any(any(hand) for figure in figures for hand in (figure.left_hand, figure.right_hand)):
        pose["hands"] = [_hands(figure) for figure in figures]
    if any(any(figure.face) for figure in figures):
        pose["face"] = [_listed(figure.face) if any(figure.face) else None for figure in figures]
    return pose


def _hands(figure: Figure) -> list[Any] | None:
    hands = [_listed(hand) if any(hand) else None for hand in (figure.left_hand, figure.right_hand)]
    return hands if any(hands) else None


def _listed(points: Sequence[Keypoint]) -> list[list[float] | None]:
    return [None if point is None else list(point) for point in points]


def _by(size: Size) -> str:
    return f"{size[0]:g} x {size[1]:g}"


def _nobody_remedy(where: str) -> str:
    if where:
        return "Keep only the frame that is meant in the file, or send all of them with `darkroom send --frames`."
    return "Write it again with the body's detection on; face and hands alone are no pose here."


def _scale(people: Sequence[Figure], found: Found, size: Size | None) -> Size:
    """Return what x and y are divided by: (1, 1) for fractions. Raise `PoseJsonRefused` where nobody can tell."""
    values = [value for figure in people for point in figure.points() for value in point]
    if found.in_fractions or max(map(abs, values)) <= FRACTION_MAX:
        if found.may_be_centred and min(values) < 0:
            raise PoseJsonRefused(
                "has coordinates from -1 to 1, as OpenPose's --keypoint_scale 4 writes them.",
                "Run OpenPose with --keypoint_scale 3 (0 to 1) or 0 (pixels).",
            )
        return 1, 1
    pixels = size or found.size
    if pixels is None:
        raise PoseJsonRefused(
            f"has keypoints in pixels ({found.writer}), and does not say of how large a picture.",
            "Say it: --pose-size WIDTHxHEIGHT for `darkroom send`, --size for `darkroom pose`, ?size=WIDTHxHEIGHT for "
            "POST /v1/poses; or write OpenPose's JSON with canvas_width and canvas_height.",
            needs_size=True,
        )
    return pixels


def _is_near(point: tuple[float, float]) -> bool:
    return all(OUTSIDE_MIN <= value <= OUTSIDE_MAX for value in point)


def _area(person: Sequence[Keypoint]) -> float:
    seen = [point for point in person if point is not None]
    across, down = [point[0] for point in seen], [point[1] for point in seen]
    # Rounded, so that of people of one size the first ones are kept.
    return round((max(across) - min(across)) * (max(down) - min(down)), 6)


def _people(count: int) -> str:
    return "1 person" if count == 1 else f"{count} people"
