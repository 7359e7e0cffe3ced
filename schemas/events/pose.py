"""Poses of the people in the picture, as a requester gives them: keypoints, a skeleton picture, or a photo.

A pose is told apart by the one field it has: `people`, `image` or `photo`. Pictures are named by bucket and key,
or carried inline in base64.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    Strict,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from typing_extensions import TypeAliasType

from darkroom.schemas.events.fields import ASKED, STRICT, OrDefault
from darkroom.schemas.events.keypoints import coco17_to_coco18, is_in_picture

INLINE_BYTES_MAX: Final = 512 * 1024
"""An inline picture's decoded bytes: with base64's third on top it still leaves room in a 1 MiB record."""
_INLINE_CHARACTERS_MAX: Final = (INLINE_BYTES_MAX + 2) // 3 * 4

PEOPLE_MAX: Final = 8
"""People in one pose. Beyond it skeletons overlap at the model's sizes and it no longer tells them apart."""

NOBODY_IN_PICTURE: Final = (
    "There is nobody in the pose: no point of anybody is seen within the picture. Coordinates are fractions of its "
    "width and height, 0 to 1 from the left and from the top; send those of somebody, or no pose."
)
"""Said of `people` of whom nothing would be drawn."""

TAGS: Final = frozenset({"#people", "#image", "#photo", "#bucket", "#inline"})
"""Names of the alternatives as they stand in pydantic's error locations, which no requester has to know."""

POINTS: Final[dict[str, int]] = {"coco18": 18, "coco17": 17}
"""Keypoints of one person, by format."""

Coordinate = Annotated[float, Field(ge=-1.0, le=2.0)]
"""A fraction of the picture's width or height; outside 0..1 is outside of the picture."""
Point = Annotated[
    tuple[Coordinate, Coordinate],
    Strict(False),
    WithJsonSchema(
        {"type": "array", "items": {"type": "number", "minimum": -1, "maximum": 2}, "minItems": 2, "maxItems": 2}
    ),
]
Person = Annotated[tuple[Point | None, ...], Strict(False), Field(json_schema_extra={"minItems": 17, "maxItems": 18})]
People = Annotated[tuple[Person, ...], Strict(False), Field(json_schema_extra={"minItems": 1, "maxItems": PEOPLE_MAX})]


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
    return _one_of(value, ("people", "image", "photo"))


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


def _foreign_words(people: Any) -> str | None:
    """Return what `people` of another tool's are, as the beginning of a sentence, and None for any others."""
    for number, person in enumerate(people if isinstance(people, list) else ()):
        if isinstance(person, dict):
            return f"person {number} is an object, as OpenPose writes it: write its points as [[x, y], ...]"
        points = [point for point in person if point is not None] if isinstance(person, list) else []
        if points and all(isinstance(point, list) and len(point) == 3 for point in points):
            return f"person {number} has points of three numbers: write [x, y], and null where the score is low"
        if points and all(isinstance(point, int | float) for point in points):
            return f"person {number} has its numbers in a row: write its points as [[x, y], ...]"
        if any(isinstance(point, list) and len(point) == 2 and _is_pixel(point) for point in points):
            return f"person {number} has coordinates in pixels: divide them by the picture's width and height"
    return None


def _is_pixel(point: list[Any]) -> bool:
    return any(isinstance(value, int | float) and 4 < abs(value) < 100_000 for value in point)


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


class PeoplePose(BaseModel):
    """Keypoints of each person."""

    model_config = ASKED

    people: People = Field(
        description="1-8 people, each a list of points [x, y] as fractions of the picture (0..1; -1..2 allowed), "
        "null where a point is not seen. 18 points a person for coco18, 17 for coco17."
    )
    format: OrDefault[Literal["coco18", "coco17"]] = Field(
        default="coco18",
        description="The order of the points. coco18 (OpenPose): nose, neck, right shoulder, right elbow, right "
        "wrist, left shoulder, left elbow, left wrist, right hip, right knee, right ankle, left hip, left knee, left "
        "ankle, right eye, left eye, right ear, left ear. coco17: nose, left eye, right eye, left ear, right ear, "
        "left shoulder, right shoulder, left elbow, right elbow, left wrist, right wrist, left hip, right hip, left "
        "knee, right knee, left ankle, right ankle.",
    )

    @field_validator("people", mode="wrap")
    @classmethod
    def _as_other_tools_write(cls, people: Any, read: ValidatorFunctionWrapHandler) -> Any:
        """Say what keypoints of other tools are, in place of a list of the numbers that do not fit."""
        try:
            return read(people)
        except ValidationError:
            words = _foreign_words(people)
            if words is None:
                raise
            raise ValueError(f"{words}, or have `darkroom send --pose FILE` or POST /v1/poses convert it") from None

    @model_validator(mode="after")
    def _whole_people(self) -> PeoplePose:
        if not 1 <= len(self.people) <= PEOPLE_MAX:
            raise ValueError(f"people must be 1 to {PEOPLE_MAX} people, not {len(self.people)}")
        points = POINTS[self.format]
        for number, person in enumerate(self.people):
            if len(person) != points:
                raise ValueError(f"person {number} has {len(person)} points, {self.format} has {points}")
        return self

    @property
    def shows_somebody(self) -> bool:
        """Return whether anything of anybody would be drawn."""
        is_coco17 = self.format == "coco17"
        return any(is_in_picture(coco17_to_coco18(person) if is_coco17 else person) for person in self.people)


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
    | Annotated[SkeletonPose, Tag("#image")]
    | Annotated[PhotoPose, Tag("#photo")],
    Discriminator(
        _pose_kind,
        custom_error_type="pose_kind",
        custom_error_message='must be an object with exactly one of "people", "image" and "photo"',
    ),
]
"""A pose: one of the three."""

FIELDS: Final = frozenset(
    name for kind in (PeoplePose, SkeletonPose, PhotoPose, StoredPicture, InlinePicture) for name in kind.model_fields
)
"""Every field that some kind of pose or picture has."""
