"""Poses of the people in the picture, as a requester gives them: keypoints, a skeleton picture, or a photo.

A pose is told apart by the one field it has: `people`, `image` or `photo`. Pictures are named by bucket and key,
or carried inline in base64.
"""

from __future__ import annotations

import base64
import binascii
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    Strict,
    Tag,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema
from typing_extensions import TypeAliasType

from darkroom.schemas.events.fields import ASKED, STRICT, WHOLE, FieldFacts, OrDefault
from darkroom.schemas.events.keypoints import (
    FACE_POINTS,
    FRACTION_MAX,
    HAND_POINTS,
    OPENPOSE_FACE_SCORE_MIN,
    OPENPOSE_HAND_SCORE_MIN,
    OUTSIDE_MAX,
    OUTSIDE_MIN,
    POINTS,
    SCORE_MIN,
    Figure,
    Keypoint,
    Size,
    figure_of,
    seen,
)

INLINE_BYTES_MAX: Final = 512 * 1024
"""An inline picture's decoded bytes: with base64's third on top it still leaves room in a 1 MiB record."""
_INLINE_CHARACTERS_MAX: Final = (INLINE_BYTES_MAX + 2) // 3 * 4

PEOPLE_MAX: Final = 8
"""People in one pose. Beyond it skeletons overlap at the model's sizes and it no longer tells them apart."""

NOBODY_IN_PICTURE: Final = (
    "There is nobody in the pose: no limb of anybody, a line between two points that are seen, lies within the "
    "picture. Coordinates are fractions of its width and height, 0 to 1 from the left and from the top, or pixels of "
    "`canvas`; send those of somebody, or no pose."
)
"""Said of `people` of whom nothing would be drawn."""

TAGS: Final = frozenset({"#people", "#openpose", "#image", "#photo", "#bucket", "#inline"})
"""Names of the alternatives as they stand in pydantic's error locations, which no requester has to know."""

CANVAS_SIDE_PX_MAX: Final = 100_000
"""Larger than any picture that a tool opens."""
_NUMBER_MAX: Final = 2.0 * CANVAS_SIDE_PX_MAX
"""As far outside of the largest canvas a point in pixels may lie."""
_FLAT_NUMBERS_MAX: Final = 3 * 25
"""x, y and score of BODY_25's points, the most that a body has in OpenPose's JSON."""

_POINT_SCHEMA: Final = WithJsonSchema(
    {
        "type": "array",
        "items": {"type": "number", "minimum": -_NUMBER_MAX, "maximum": _NUMBER_MAX},
        "minItems": 2,
        "maxItems": 3,
    }
)


class _Row:
    """Reads [x, y] or [x, y, score], x and y within bounds."""

    def __init__(self, lowest: float, highest: float) -> None:
        self._bounds = lowest, highest

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        lowest, highest = self._bounds
        coordinate = core_schema.float_schema(ge=lowest, le=highest, allow_inf_nan=False)
        score = core_schema.float_schema(ge=-_NUMBER_MAX, le=_NUMBER_MAX, allow_inf_nan=False)
        return core_schema.tuple_schema(
            [coordinate, coordinate, score], variadic_item_index=2, max_length=3, strict=False
        )


Number = Annotated[float, Field(ge=-_NUMBER_MAX, le=_NUMBER_MAX)]
Point = Annotated[tuple[float, ...], _Row(OUTSIDE_MIN, OUTSIDE_MAX), _POINT_SCHEMA]
"""[x, y] or [x, y, score] in fractions of the picture's width and height; outside 0..1 is outside of the picture."""
CanvasPoint = Annotated[tuple[float, ...], _Row(-_NUMBER_MAX, _NUMBER_MAX), _POINT_SCHEMA]
"""The same in pixels of a canvas, or in fractions of it."""
Person = Annotated[
    tuple[Point | None, ...],
    Strict(False),
    Field(json_schema_extra={"minItems": min(POINTS.values()), "maxItems": max(POINTS.values())}),
]
People = Annotated[tuple[Person, ...], Strict(False), Field(json_schema_extra={"minItems": 1, "maxItems": PEOPLE_MAX})]
Hand = Annotated[tuple[CanvasPoint | None, ...], Strict(False), Field(min_length=HAND_POINTS, max_length=HAND_POINTS)]
Hands = Annotated[tuple[Hand | None, ...], Strict(False), Field(min_length=2, max_length=2)]
Face = Annotated[
    tuple[CanvasPoint | None, ...], Strict(False), Field(min_length=min(FACE_POINTS), max_length=max(FACE_POINTS))
]
Fit = Literal["stretch", "contain", "cover"]

_OnCanvas = Annotated[tuple[Annotated[tuple[CanvasPoint | None, ...], Strict(False)], ...], Strict(False)]
_ON_CANVAS: Final[TypeAdapter[Any]] = TypeAdapter(_OnCanvas)
"""Reads people beside a canvas."""


_KEY_PATTERN: Final = r"^(?:[^\u0000-\u001f\u007f./]\.?|\.)(?:[^\u0000-\u001f\u007f.]\.?)*$"
"""No slash in front, no two dots together, no control characters; without looking ahead, which Rust's and Go's regular
expressions cannot, and with Rust's pydantic reads the patterns of generated models."""


class StoredPicture(BaseModel):
    """A picture in a bucket that this deployment is allowed to read."""

    model_config = ASKED

    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")] = Field(
        description="The bucket: this deployment's own, or one that its settings allow."
    )
    key: str = Field(
        min_length=1,
        max_length=1024,
        description="The object's key, 1-1024 bytes of UTF-8: no leading slash, no '..', no control characters.",
        json_schema_extra={"pattern": _KEY_PATTERN},
    )

    @field_validator("key")
    @classmethod
    def _harmless(cls, key: str) -> str:
        if len(key.encode("utf-8", "surrogatepass")) > 1024:
            raise ValueError("must be at most 1024 bytes of UTF-8")
        if key.startswith("/") or ".." in key:
            raise ValueError("must not start with a slash or contain '..'")
        if any(c < " " or c == "\x7f" for c in key):
            raise ValueError("must not contain control characters")
        return key


class InlinePicture(BaseModel):
    """A picture carried in the request itself."""

    model_config = ASKED

    inline: str = Field(
        min_length=4,
        max_length=_INLINE_CHARACTERS_MAX,
        description="A PNG, JPEG or WebP picture of at most 512 KiB, in padded standard base64 without line breaks.",
        json_schema_extra={"contentEncoding": "base64"},
    )

    @field_validator("inline")
    @classmethod
    def _base64(cls, inline: str) -> str:
        if len(decode_base64(inline)) > INLINE_BYTES_MAX:
            raise ValueError(f"must be at most {INLINE_BYTES_MAX} bytes when decoded; name a stored picture instead")
        return inline

    @property
    def content(self) -> bytes:
        """The picture's bytes."""
        return decode_base64(self.inline)


def decode_base64(text: str) -> bytes:
    """The bytes of padded standard base64. Raises `ValueError` for anything else, white space included."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("must be valid base64 (standard alphabet, padded, no line breaks)") from error


def _one_of(value: Any, names: tuple[str, ...]) -> str | None:
    """Return the one of `names` that `value` has as a field; None where there is not exactly one.

    One that is null is not there: generators that make one class of all kinds write null for the others' fields.
    """
    if isinstance(value, BaseModel):
        present = [name for name in names if name in type(value).model_fields]
    elif isinstance(value, dict):
        present = [name for name in names if value.get(name) is not None]
    else:
        return None
    return f"#{present[0]}" if len(present) == 1 else None


def _picture_kind(value: Any) -> str | None:
    return _one_of(value, ("inline", "bucket"))


def _pose_kind(value: Any) -> str | None:
    """Return the tag of a pose; people that say so are OpenPose's objects."""
    kind = _one_of(value, ("people", "image", "photo"))
    if kind != "#people":
        return kind
    layout = value.get("format") if isinstance(value, dict) else getattr(value, "format", None)
    return "#openpose" if layout == "openpose_people" else kind


PictureRef = TypeAliasType(
    "PictureRef",
    Annotated[
        Annotated[StoredPicture, Tag("#bucket")] | Annotated[InlinePicture, Tag("#inline")],
        Discriminator(
            _picture_kind,
            custom_error_type="picture_kind",
            custom_error_message='must be an object with either "bucket" and "key" or "inline"',
        ),
    ],
)
"""Where a picture is. A named type, so that its schema has a name as well."""


def _foreign_words(people: Any, *, has_canvas: bool) -> str | None:
    """Return what `people` of another tool's are, as the beginning of a sentence, and None for any others."""
    for number, person in enumerate(people if isinstance(people, list) else ()):
        if isinstance(person, dict):
            return f"person {number} is an object, as OpenPose writes it: set `format` to openpose_people"
        points = [point for point in person if point is not None] if isinstance(person, list) else []
        if points and all(isinstance(point, int | float) for point in points):
            return f"person {number} has its numbers in a row: write its points as [[x, y], ...]"
        if not has_canvas and any(_is_pixel(point) for point in points):
            return f"person {number} has coordinates in pixels: give the size of their picture as `canvas`"
    return None


def _is_pixel(point: Any) -> bool:
    return isinstance(point, list) and any(
        isinstance(value, int | float) and FRACTION_MAX < abs(value) < CANVAS_SIDE_PX_MAX for value in point[:2]
    )


def _units(people: Sequence[Figure], canvas: CanvasSize | None) -> bool:
    """Return true for people in pixels of the canvas, false for fractions.

    Raises `ValueError` for points far outside of the picture.
    """
    points = [figure.points() for figure in people]
    highest = max((abs(value) for person in points for point in person for value in point), default=0.0)
    in_pixels = canvas is not None and highest > FRACTION_MAX
    across, down = canvas.size if canvas is not None and in_pixels else (1, 1)
    for number, person in enumerate(points):
        for x, y in person:
            if OUTSIDE_MIN <= x / across <= OUTSIDE_MAX and OUTSIDE_MIN <= y / down <= OUTSIDE_MAX:
                continue
            if in_pixels:
                raise ValueError(f"person {number} has a point at {x:g}, {y:g}, far outside of the canvas")
            raise ValueError(f"person {number} has a point at {x:g}, {y:g}: fractions of the picture are -1 to 2 here")
    return in_pixels


Share = Annotated[float, Field(ge=0.0, le=1.0)]
FoundPoint = Annotated[
    tuple[Share, Share, Share],
    Strict(False),
    WithJsonSchema(
        {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}, "minItems": 3, "maxItems": 3}
    ),
]


class FoundPerson(BaseModel):
    """One person as the detector found them in a photo."""

    model_config = STRICT

    points: Annotated[
        tuple[FoundPoint | None, ...],
        Strict(False),
        Field(min_length=POINTS["coco18"], max_length=POINTS["coco18"]),
    ] = Field(
        description="18 points in coco18's order: x and y as fractions of the photo, and the detector's score of the "
        "point, 0 to 1; null where it is not seen. Their x and y are what a request's `people` takes."
    )
    score: Share = Field(description="The detector's score of the person, 0 to 1.")


class CanvasSize(BaseModel):
    """The size of the picture that keypoints were found in."""

    model_config = ASKED

    width: Annotated[int, Field(ge=1, le=CANVAS_SIDE_PX_MAX), WHOLE] = Field(description="Its width in pixels.")
    height: Annotated[int, Field(ge=1, le=CANVAS_SIDE_PX_MAX), WHOLE] = Field(description="Its height in pixels.")

    @property
    def size(self) -> Size:
        """Width and height in pixels."""
        return self.width, self.height


class _Placed(BaseModel):
    """The members that both ways of writing keypoints share: the picture that they are of, and how it fits."""

    model_config = ASKED

    canvas: Annotated[CanvasSize | None, FieldFacts()] = Field(
        default=None,
        description="The size of the picture that the keypoints were found in. With it, coordinates may be pixels: "
        "they are where any of them is above 4. null: they are fractions of the output.",
    )
    fit: Annotated[OrDefault[Fit], FieldFacts(idle_when=("canvas", None))] = Field(
        default="stretch",
        description="How a canvas of another aspect comes to lie on the output: stretch fills it and changes "
        "proportions, contain shows all of the canvas, cover fills the output and cuts the rest. Needs `canvas`.",
    )

    def figures(self, width: float | None = None, height: float | None = None) -> tuple[Figure, ...]:
        """Return the people who are drawn, as fractions of an output of `width` x `height` pixels.

        People without a limb in the picture are left out. Where the output's size is not known, the canvas is taken for
        it.
        """
        whole = self._whole()
        if self.canvas is not None:
            size = None if width is None or height is None else (width, height)
            in_pixels = _units(whole, self.canvas)
            whole = tuple(one.placed(self.canvas.size, size, self.fit, in_pixels=in_pixels) for one in whole)
        return tuple(one for one in whole if one.is_drawable)

    @abstractmethod
    def _whole(self) -> tuple[Figure, ...]:
        """Return everybody as written, in the unit in which they are written."""

    def _check_reach(self) -> None:
        """Raise `ValueError` for points far outside of the picture, and for a fit without a canvas."""
        if self.fit != "stretch" and self.canvas is None:
            raise ValueError("fit needs canvas, the size of the picture that the keypoints were found in")
        _units(self._whole(), self.canvas)


def _check_count(people: int) -> None:
    if not 1 <= people <= PEOPLE_MAX:
        raise ValueError(f"people must be 1 to {PEOPLE_MAX} people, not {people}")


class PeoplePose(_Placed):
    """Keypoints of each person."""

    people: People = Field(
        description="1-8 people, each a list of points: [x, y] as fractions of the picture (0..1; -1..2 allowed), or "
        "[x, y, score], which is seen from the format's threshold on; null where a point is not seen. 18 points a "
        "person for coco18, 17 for coco17, 25 for body25, 33 for blazepose33, 133 for wholebody133. A person without a "
        "limb in the picture is left out."
    )
    format: OrDefault[Literal["coco18", "coco17", "body25", "blazepose33", "wholebody133"]] = Field(
        default="coco18",
        description="The order of the points. coco18 (OpenPose): nose, neck, right shoulder, right elbow, right "
        "wrist, left shoulder, left elbow, left wrist, right hip, right knee, right ankle, left hip, left knee, left "
        "ankle, right eye, left eye, right ear, left ear. coco17: nose, left eye, right eye, left ear, right ear, "
        "left shoulder, right shoulder, left elbow, right elbow, left wrist, right wrist, left hip, right hip, left "
        "knee, right knee, left ankle, right ankle. body25: OpenPose's BODY_25. blazepose33: MediaPipe's, its "
        "visibility as the score. wholebody133: COCO-WholeBody's, with face and hands. Scores count from 0.3 on, in "
        "body25 from 0.05, in blazepose33 from 0.5.",
    )
    hands: Annotated[
        Annotated[
            tuple[Hands | None, ...],
            Strict(False),
            Field(json_schema_extra={"minItems": 1, "maxItems": PEOPLE_MAX}),
        ]
        | None,
        FieldFacts(),
    ] = Field(
        default=None,
        description="For each person null, or [left, right]: 21 points in OpenPose's order, or null for a hand that "
        "is not seen. Drawn where the model's drawing style has hands. [0, 0] and [-1, -1] are unseen.",
    )
    face: Annotated[
        Annotated[
            tuple[Face | None, ...],
            Strict(False),
            Field(json_schema_extra={"minItems": 1, "maxItems": PEOPLE_MAX}),
        ]
        | None,
        FieldFacts(),
    ] = Field(
        default=None,
        description="For each person null, or 68 or 70 points of the face in OpenPose's order. Drawn where the model's "
        "drawing style has faces. [0, 0] and [-1, -1] are unseen.",
    )

    @field_validator("people", mode="wrap")
    @classmethod
    def _as_other_tools_write(cls, people: Any, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Say what keypoints of other tools are, in place of a list of the numbers that do not fit."""
        has_canvas = info.data.get("canvas") is not None
        try:
            return _ON_CANVAS.validate_python(people) if has_canvas else read(people)
        except ValidationError:
            words = _foreign_words(people, has_canvas=has_canvas)
            if words is None:
                raise
            raise ValueError(f"{words}, or have `darkroom send --pose FILE` or POST /v1/poses convert it") from None

    @model_validator(mode="after")
    def _whole_people(self) -> PeoplePose:
        _check_count(len(self.people))
        points = POINTS[self.format]
        for number, person in enumerate(self.people):
            if len(person) != points:
                raise ValueError(f"person {number} has {len(person)} points, {self.format} has {points}")
            if self.format == "blazepose33" and any(
                row is not None and len(row) == 3 and not 0 <= row[2] <= 1 for row in person
            ):
                raise ValueError(f"person {number} has scores beyond 0 to 1: write the visibility, not z")
        for name, parts in (("hands", self.hands), ("face", self.face)):
            if parts is None:
                continue
            if len(parts) != len(self.people):
                raise ValueError(f"{name} must have an item for each of the {len(self.people)} people, or null for one")
            if self.format == "wholebody133":
                raise ValueError(f"{name} is part of wholebody133's points: leave it out")
        if any(face is not None and len(face) not in FACE_POINTS for face in self.face or ()):
            raise ValueError("a face has 68 or 70 points")
        self._check_reach()
        return self

    def _whole(self) -> tuple[Figure, ...]:
        score_min = SCORE_MIN[self.format]
        # A point of two numbers is where it says, in a corner too: so it was before points had scores and canvases.
        takes_corners = self.format in ("coco18", "coco17") and self.canvas is None
        figures = []
        for number, person in enumerate(self.people):
            points: list[Keypoint] = [
                (row[0], row[1]) if takes_corners and row is not None and len(row) == 2 else seen(row, score_min)
                for row in person
            ]
            figure = figure_of(points, self.format)
            left, right = (self.hands and self.hands[number]) or (None, None)
            if self.hands is not None or self.face is not None:
                parts = (left, right, self.face and self.face[number])
                figure = Figure(figure.body, *(tuple(seen(row, score_min) for row in part or ()) for part in parts))
            figures.append(figure)
        return tuple(figures)


Flat = Annotated[tuple[Number, ...], Strict(False)]


class OpenPosePerson(BaseModel):
    """One person of OpenPose's JSON: x, y and score of each point in a row, 0, 0, 0 where it is not seen."""

    model_config = ASKED

    pose_keypoints_2d: Annotated[Flat, Field(max_length=_FLAT_NUMBERS_MAX)] = Field(
        description="The body: OpenPose's 18 points (COCO) or 25 (BODY_25)."
    )
    hand_left_keypoints_2d: Annotated[Flat, Field(max_length=3 * HAND_POINTS)] | None = Field(
        default=None, description="21 points; null or empty for none."
    )
    hand_right_keypoints_2d: Annotated[Flat, Field(max_length=3 * HAND_POINTS)] | None = Field(
        default=None, description="21 points; null or empty for none."
    )
    face_keypoints_2d: Annotated[Flat, Field(max_length=3 * max(FACE_POINTS))] | None = Field(
        default=None, description="68 or 70 points; null or empty for none."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_what_is_not_drawn(cls, value: Any) -> Any:
        """Pass over OpenPose's other members, which say nothing about the drawing."""
        return (
            {name: one for name, one in value.items() if name not in _NOT_DRAWN} if isinstance(value, dict) else value
        )

    @model_validator(mode="after")
    def _whole_parts(self) -> OpenPosePerson:
        for name, points in _OPENPOSE_PARTS.items():
            flat = getattr(self, name) or ()
            if flat and len(flat) not in [3 * count for count in points]:
                counts = " or ".join(str(count) for count in points)
                raise ValueError(f"{name} has {len(flat)} numbers: write x, y and score of {counts} points")
        return self

    def figure(self) -> Figure:
        """Return the person in the unit of their coordinates."""
        body = _rows(self.pose_keypoints_2d, SCORE_MIN["openpose_people"])
        return Figure(
            figure_of(body, "body25" if len(body) == POINTS["body25"] else "coco18").body,
            _rows(self.hand_left_keypoints_2d, OPENPOSE_HAND_SCORE_MIN),
            _rows(self.hand_right_keypoints_2d, OPENPOSE_HAND_SCORE_MIN),
            _rows(self.face_keypoints_2d, OPENPOSE_FACE_SCORE_MIN),
        )


_OPENPOSE_PARTS: Final = {
    "pose_keypoints_2d": (POINTS["coco18"], POINTS["body25"]),
    "hand_left_keypoints_2d": (HAND_POINTS,),
    "hand_right_keypoints_2d": (HAND_POINTS,),
    "face_keypoints_2d": FACE_POINTS,
}
_NOT_DRAWN: Final = frozenset({"person_id", *(name.replace("_2d", "_3d") for name in _OPENPOSE_PARTS)})


def _rows(flat: tuple[float, ...] | None, score_min: float) -> tuple[Keypoint, ...]:
    flat = flat or ()
    return tuple(seen(row, score_min) for row in zip(flat[0::3], flat[1::3], flat[2::3], strict=True))


class OpenPosePeople(_Placed):
    """People as OpenPose, ComfyUI's POSE_KEYPOINT and openpose-editor write them, with hands and face."""

    people: Annotated[
        tuple[OpenPosePerson, ...], Strict(False), Field(json_schema_extra={"minItems": 1, "maxItems": PEOPLE_MAX})
    ] = Field(
        description="1-8 of OpenPose's person objects: pixels of `canvas`, or fractions. A body's point counts from a "
        "score of 0.05 on, a hand's from 0.2 and a face's from 0.4, as OpenPose draws them."
    )
    format: Literal["openpose_people"] = Field(description="openpose_people, which tells these people from lists.")

    @model_validator(mode="after")
    def _whole_people(self) -> OpenPosePeople:
        _check_count(len(self.people))
        if any(not person.pose_keypoints_2d for person in self.people):
            raise ValueError("a person has no pose_keypoints_2d: hands and a face alone are no pose")
        self._check_reach()
        return self

    def _whole(self) -> tuple[Figure, ...]:
        return tuple(person.figure() for person in self.people)


class SkeletonPose(BaseModel):
    """An OpenPose skeleton picture, used as it is."""

    model_config = ASKED

    image: PictureRef = Field(description="The skeleton picture; it is stretched to the output's size.")


class PhotoPose(BaseModel):
    """A photo of people whose pose is to be found by the OpenPose detector."""

    model_config = ASKED

    photo: PictureRef = Field(description="The photo; it is run through the OpenPose detector.")


Pose = Annotated[
    Annotated[PeoplePose, Tag("#people")]
    | Annotated[OpenPosePeople, Tag("#openpose")]
    | Annotated[SkeletonPose, Tag("#image")]
    | Annotated[PhotoPose, Tag("#photo")],
    Discriminator(
        _pose_kind,
        custom_error_type="pose_kind",
        custom_error_message='must be an object with exactly one of "people", "image" and "photo"',
    ),
]
"""A pose: one of the three, keypoints in either of two ways."""
KeypointPose = PeoplePose | OpenPosePeople
"""A pose whose figures are known from the request alone."""

FIELDS: Final = frozenset(
    name
    for kind in (PeoplePose, OpenPosePeople, SkeletonPose, PhotoPose, StoredPicture, InlinePicture)
    for name in kind.model_fields
)
"""Every field that some kind of pose or picture has."""
