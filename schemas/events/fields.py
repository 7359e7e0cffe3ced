"""Field types that events share, how event models read, and what a request field declares besides its type."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    Strict,
)
from pydantic.annotated_handlers import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticUseDefault, core_schema
from typing_extensions import TypeAliasType

from darkroom.schemas.names import ADAPTER_NAME_PATTERN, IDENTITY_PATTERN, RECIPE_NAME_PATTERN

STRICT: Final = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)
"""How every event's model reads: exact types, finite numbers, unknown fields passed over (the codec reports them)."""

ASKED: Final = ConfigDict(**{**STRICT, "extra": "forbid"})
"""How models of what is asked read. A field that is unknown to its class is an error where a program makes a request,
as a wrong keyword is; the codec, which reads what others wrote, overrides it and reports such fields."""

LABELS_MAX: Final = 16
LABEL_KEY_CHARACTERS_MAX: Final = 64
LABEL_VALUE_CHARACTERS_MAX: Final = 256

T = TypeVar("T")


class Named(StrEnum):
    """When a digest, or a picture's text, names a field."""

    ALWAYS = "always"
    WHEN_SET = "when_set"
    """Only where the field's value is not its default, so that a new field leaves the digests of old requests alone."""
    NEVER = "never"


class Option(NamedTuple):
    """A field's option of `darkroom send`: `--` and the field's name with hyphens."""

    metavar: str | None = None
    """Stands for the value in `--help`; None for a field with a closed list of values, which are shown instead."""
    help: str | None = None
    """The line in `--help`; None for the field's description."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldFacts:
    """Facts of a request field: what it decides, and its option. They stand in its `Annotated[type, FieldFacts(...)]`.

    Digests, the text in pictures, the options of `darkroom send`, the gateway's forms and the refusal of misspelt
    fields are derived from it. The defaults are right for a new field that changes pictures:
    `FieldFacts(option=Option("N"))`.
    """

    decides: Literal["identity", "picture", "treatment"] = "picture"
    """`identity`: whose request this is. `picture`: what the requester gets; `request_digest` covers these alone.
    `treatment`: how and when the request is worked on, which clients set anew when they repeat a request."""
    digest: Named = Named.WHEN_SET
    """When `request_digest` names the field. The fields of the first release are ALWAYS named, and later ones must not
    be; NEVER is for a field that decides nothing but the default of another one."""
    text: Named | None = None
    """When a picture's text names the field; None: whenever the digest does."""
    idle_when: tuple[str, Any] | None = None
    """Another field of the same model, and the value of it with which this field changes no pixel: `render_digest` and
    the picture's text then leave this field out."""
    option: Option | None = None
    """None for a field without an option of its own."""
    is_own: bool = False
    """Each request says it for itself, so that no recipe has the field."""

    @property
    def in_digest(self) -> Named:
        """When digests name the field."""
        return self.digest if self.decides == "picture" else Named.NEVER

    @property
    def fits_recipes(self) -> bool:
        """True if a recipe may have the field."""
        return self.decides == "picture" and not self.is_own

    @property
    def in_text(self) -> Named:
        """When a picture's text names the field."""
        if self.decides == "picture":
            return self.text or self.digest
        return Named.ALWAYS if self.decides == "identity" else Named.NEVER


_INNER: Final = FieldFacts(digest=Named.ALWAYS)
"""The facts of a field inside of a request's objects that declares none."""


@cache
def facts_of(model: type[BaseModel]) -> Mapping[str, FieldFacts]:
    """Return what each field of a request, or of an object in one, declares, by name."""
    return MappingProxyType(
        {
            name: next((one for one in field.metadata if isinstance(one, FieldFacts)), _INNER)
            for name, field in model.model_fields.items()
        }
    )


def value_type(annotation: Any) -> Any:
    """Return a field's type without its bounds, without null and without names for it; unions stay unions."""
    while True:
        arguments = [one for one in get_args(annotation) if one is not NoneType]
        if get_origin(annotation) is Annotated or (get_origin(annotation) in _UNIONS and len(arguments) == 1):
            annotation = arguments[0]
        elif isinstance(annotation, TypeAliasType):
            annotation = annotation.__value__
        else:
            return annotation


def text_fields(model: type[BaseModel]) -> frozenset[str]:
    """Return the names of a model's fields whose values are any text, or one of a list of texts."""
    types = {name: value_type(field.annotation) for name, field in model.model_fields.items()}
    return frozenset(name for name, kind in types.items() if kind is str or get_origin(kind) is Literal)


_UNIONS: Final = (Union, UnionType)
_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)
_ISO8601 = re.compile(
    r"(?P<year>\d{4})(?P<dash>-?)(?P<month>\d\d)(?P=dash)(?P<day>\d\d)"
    r"[Tt ](?P<hour>\d\d)(?P<colon>:?)(?P<minute>\d\d)"
    r"(?:(?P=colon)(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,30}))?)?"
    r"(?P<zone> ?(?:[Zz]|UTC|GMT|(?P<sign>[+-])(?P<hours>\d\d)(?::?(?P<minutes>\d\d))?))?"
    r"(?:\[[A-Za-z0-9_/+:.=-]{1,64}\])*",
    re.ASCII,
)
"""ISO 8601 in its extended and basic forms. It allows what RFC 3339 does not: no seconds, a comma before the fraction,
offsets without a colon or without minutes. Ruby and C's `%Z` write a zone's name, of which UTC and GMT are offsets. RFC
3339 (5.6) adds the space for the T. RFC 9557 adds suffixes in brackets,
which never change the moment that the offset names (Java's ZonedDateTime writes one)."""
_TIMESTAMP_CHARACTERS_MAX = 256
_YEAR_MIN, _YEAR_MAX = 1970, 9998
"""Outside of these a conversion between time zones can overflow, and no event is from there."""
_NOT_A_TIME = "must be an RFC 3339 date and time with a time zone, such as 2027-01-31T12:00:00Z"


def composed(text: str) -> str:
    """Return `text` in Unicode's composed form (NFC): macOS writes a letter and its accent apart, others as one."""
    return unicodedata.normalize("NFC", text)


def read_timestamp(text: str) -> datetime:
    """Return the moment that an RFC 3339 or ISO 8601 text names, in UTC. Raise `ValueError` for any other text."""
    if _RFC3339.fullmatch(text):
        try:
            return _in_utc(datetime.fromisoformat(text.upper()))
        except ValueError:
            pass  # a leap second or an hour 24, or no time at all: the longer way tells
    found = _ISO8601.fullmatch(text)
    if found is None or len(text) > _TIMESTAMP_CHARACTERS_MAX:
        raise ValueError(_NOT_A_TIME)
    if found["zone"] is None:
        raise ValueError(f"has no time zone, so it names no moment: it {_NOT_A_TIME}")
    return _in_utc(_moment(found))


def _moment(found: re.Match[str]) -> datetime:
    """Return the moment of a text that has the right form. Raise `ValueError` where there is no such time."""
    year, month, day, hour, minute = (int(found[name]) for name in ("year", "month", "day", "hour", "minute"))
    second, microsecond = int(found["second"] or 0), int((found["fraction"] or "0").ljust(6, "0")[:6])
    offset = timedelta(hours=int(found["hours"] or 0), minutes=int(found["minutes"] or 0))
    if offset >= timedelta(days=1) or int(found["minutes"] or 0) > 59:
        raise ValueError(f"has an offset that no time zone has: it {_NOT_A_TIME}")
    if not _YEAR_MIN <= year <= _YEAR_MAX:
        raise ValueError(f"must be of a year from {_YEAR_MIN} to {_YEAR_MAX}")
    added = timedelta()
    if (hour, minute, second, microsecond) == (24, 0, 0, 0):  # ISO 8601's name for the end of a day
        hour, added = 0, timedelta(days=1)
    elif second == 60:  # a leap second, which datetime cannot hold: the second after it, as POSIX counts
        second, microsecond, added = 59, 0, timedelta(seconds=1)
    try:
        local = datetime(year, month, day, hour, minute, second, microsecond, tzinfo=UTC) + added
    except ValueError as error:
        raise ValueError(f"is no time of the calendar ({error}): it {_NOT_A_TIME}") from error
    return local + offset if found["sign"] == "-" else local - offset


def _from_text(value: Any) -> Any:
    """Read text as `read_timestamp` does. Pydantic would take a Unix time in it; and numbers and lists name no zone."""
    if isinstance(value, str):
        return read_timestamp(value)
    if isinstance(value, datetime):
        return value
    kind = "a list" if isinstance(value, list) else "a number" if type(value) in (int, float) else None
    # ValueError, since pydantic makes a sentence of no other exception.
    raise ValueError(
        _NOT_A_TIME
        if kind is None
        else f"is {kind}, as Jackson writes dates with WRITE_DATES_AS_TIMESTAMPS on: it {_NOT_A_TIME}"
    )


def _in_utc(value: datetime) -> datetime:
    """One zone everywhere, so that equal times are written alike."""
    if not _YEAR_MIN <= value.year <= _YEAR_MAX:
        raise ValueError(f"must be of a year from {_YEAR_MIN} to {_YEAR_MAX}")
    return value.astimezone(UTC)


def _whole(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


WHOLE: Final = BeforeValidator(_whole)
"""Reads 7.0 and 1e2 as the integers that they are by JSON Schema (2020-12 validation, 6.1.1). Stands behind an
integer's bounds: `Annotated[int, Field(ge=1), WHOLE]`."""


class _NullIsDefault:
    """Reads null as if the field had been left out, and says so in the JSON Schema."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_default_for_null, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        inner = handler(schema)
        return inner if handler.mode == "serialization" else {"anyOf": [inner, {"type": "null"}]}


def _default_for_null(value: Any) -> Any:
    if value is None:
        raise PydanticUseDefault
    return value


OrDefault = Annotated[T, _NullIsDefault()]
"""The type of a field with a default: serializers of Java, C#, Kotlin and Rust write null for what was never set.
Bounds stand inside of it: `OrDefault[Annotated[int, Field(ge=0), WHOLE]]`."""

Timestamp = Annotated[AwareDatetime, BeforeValidator(_from_text), AfterValidator(_in_utc)]
"""A moment: RFC 3339 or ISO 8601 with a time zone, held in UTC."""

Identity = Annotated[str, Field(pattern=IDENTITY_PATTERN)]
"""A request id or a tenant."""

AdapterName = Annotated[str, Field(pattern=ADAPTER_NAME_PATTERN), AfterValidator(composed)]
"""What the adapter's file is called, without the ending."""

RecipeName = Annotated[str, Field(pattern=RECIPE_NAME_PATTERN)]
"""What a recipe is called in the operator's file."""

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
"""A SHA-256, as `darkroom.schemas.wire.digests` writes it."""

Labels = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=LABEL_KEY_CHARACTERS_MAX)],
        Annotated[str, Field(max_length=LABEL_VALUE_CHARACTERS_MAX)],
    ],
    Field(max_length=LABELS_MAX),
]
"""Names and values of the requester's own, given back as they came."""

Warnings = Annotated[tuple[Annotated[str, Field(max_length=500)], ...], Strict(False), Field(max_length=32)]
"""Sentences for the requester about a request that was rendered all the same."""
