"""Fields of other tools that would change the picture and that Darkroom does not honour.

A request that has one of them is refused: it would be painted, and be another picture than the one that was asked for.
Unknown fields that are not listed change no picture (`webhook`, `save_images`); the codec reports those.

`darkroom.schemas.events.unsupported_names` is the list, and `darkroom.schemas.events.unsupported_synonyms` adds further
names for the same things. Case, hyphens, underscores and blanks do not matter, so `initImage` and `init-image` are
`init_image`, and SwarmUI's `initimage` is too. Neither do numbers that count: `controlnet_1_image` and `lora2` are
`controlnet_image` and `lora`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from darkroom.schemas.errors import bounded
from darkroom.schemas.events.fields import facts_of
from darkroom.schemas.events.pose import FIELDS as POSE_FIELDS
from darkroom.schemas.events.unsupported_names import CALLED_OTHERWISE, IN_PARTS, NOT_HONOURED
from darkroom.schemas.events.unsupported_synonyms import SYNONYMS

FIELDS_NAMED_MAX: Final = 5
"""The most fields that one message names: five with their remedies fit into an error message's 500 characters."""
_NAME_CHARACTERS_MAX: Final = 60
"""No listed name is longer; a longer one is not looked up."""


class UnknownField(NamedTuple):
    """A field of a request's JSON document that the request's model does not have."""

    path: tuple[str, ...]
    """The names of the objects that it stands in, and its own."""
    value: Any


class UnsupportedField(NamedTuple):
    """A field of a request that would change the picture and is not honoured."""

    path: str
    """Its dotted path, as it was written."""
    remedy: str


_SEEDS = frozenset({"image_seed", "manual_seed", "noise_seed", "random_seed", "seeds", "generator"})
_COUNTS = frozenset(name for name, field in CALLED_OTHERWISE.items() if field == "`count`")
_SAME_ANYWAY: Final[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
    {
        **dict.fromkeys(_SEEDS, (-1,)),
        **dict.fromkeys(_COUNTS, (0, 1)),
        "background": ("opaque",),
        "cfg_end": (1,),
        "cfg_interval_end": (1,),
        "denoise": (1,),
        "denoising_end": (1,),
        "fit": ("stretch",),
        "guidance_stop": (1,),
        "hr_scale": (1,),
        "image_format": ("png",),
        "initial_noise_multiplier": (1,),
        "output_format": ("png",),
        "format": ("png",),
        "file_format": ("png",),
        "refine": ("no_refiner",),
        "s_noise": (1,),
        "save_extension": ("png",),
        "scale_by": (1,),
        "seed_resize_from_h": (-1,),
        "seed_resize_from_w": (-1,),
        "upscale_by": (1,),
        "upscale_factor": (1,),
    }
)
"""Values with which a field asks for what is done anyway."""
_NOTHING_WORDS: Final = frozenset({"", "none", "null", "off", "false", "auto", "automatic", "default"})
"""Texts by which other tools' clients say that they leave a choice open."""


def _plain(name: str) -> str:
    """The name without what spellings differ in."""
    return "".join(one for one in name.lower() if one.isalnum())


_SPELT: Final[Mapping[str, str]] = {
    **{_plain(name): name for name in (*NOT_HONOURED, *CALLED_OTHERWISE)},
    **{_plain(name): listed for name, listed in SYNONYMS.items()},
}
_COUNTED_CHARACTERS_MIN: Final = 4
"""Letters that a name has at least, of which another number only makes another one of the same: `lora2`, not `n2`."""
_SPELT_IN_PARTS: Final[Mapping[str, Mapping[str, str]]] = {
    part: {_plain(name): remedy for name, remedy in table.items()} for part, table in IN_PARTS.items()
}


def remedy_of(name: str) -> str | None:
    """Return what to do in place of a top-level field of this name, however it is spelt; None if it is not listed."""
    listed = _listed(name)
    if listed is None:
        return None
    return NOT_HONOURED.get(listed) or f"use {CALLED_OTHERWISE[listed]}"


def _listed(name: str) -> str | None:
    """Return the name that the list has for this one, None for a name of nothing that is listed."""
    if len(name) > _NAME_CHARACTERS_MAX:
        return None
    plain = _plain(name)
    listed = _SPELT.get(plain)
    if listed is None:
        counted = "".join(one for one in plain if not one.isdigit())
        listed = _SPELT.get(counted) if len(counted) >= _COUNTED_CHARACTERS_MIN else None
    return listed


def unsupported_fields(model: type[BaseModel], unknown: Iterable[UnknownField]) -> Iterator[UnsupportedField]:
    """Yield those of a request's unknown fields that would change the picture, each with its remedy.

    `model` has the fields that are honoured. A listed field whose value asks for nothing (null, false, empty, zero
    where there is no counterpart here, what is done anyway) is left to those who report unknown fields.
    """
    own = {_plain(name): name for name, facts in facts_of(model).items() if facts.decides == "picture"}
    for path, value in unknown:
        *outer, name = path
        part = outer[0] if outer else ""
        if _asks_nothing(name, value) or (part == "pose" and name in POSE_FIELDS):
            continue
        if part:
            remedy = _spelt_in(part, name) or _remedy(name, own, "it belongs to the request itself, as")
        else:
            remedy = _remedy(name, own, "it is spelt")
        if remedy is not None:
            yield UnsupportedField(bounded(".".join(path), _NAME_CHARACTERS_MAX), remedy)


def refusal_of(model: type[BaseModel], unknown: Iterable[UnknownField]) -> str | None:
    """Return the message that refuses a request with such fields, each with its remedy; None where it has none."""
    found = list(unsupported_fields(model, unknown))
    if not found:
        return None
    named = "; ".join(f"{field.path}: {field.remedy}" for field in found[:FIELDS_NAMED_MAX])
    return named if len(found) <= FIELDS_NAMED_MAX else f"{named}; and {len(found) - FIELDS_NAMED_MAX} more"


def table() -> dict[str, dict[str, str]]:
    """Return the whole list for people: remedies by name, one table for the request and one for each object in it."""
    request = {**NOT_HONOURED, **{name: f"use {field}" for name, field in CALLED_OTHERWISE.items()}}
    request |= {name: request[listed] for name, listed in SYNONYMS.items()}
    return {"request": dict(sorted(request.items())), **{part: dict(names) for part, names in IN_PARTS.items()}}


def _spelt_in(part: str, name: str) -> str | None:
    return _SPELT_IN_PARTS.get(part, {}).get(_plain(name)) if len(name) <= _NAME_CHARACTERS_MAX else None


def spelt_otherwise(field: str, document: Mapping[str, Any]) -> str | None:
    """Return the name by which a document has a field that is spelt otherwise (`requestId`); None where it has none."""
    plain = _plain(field)
    return next((name for name in document if len(name) <= _NAME_CHARACTERS_MAX and _plain(name) == plain), None)


def _remedy(name: str, own: Mapping[str, str], own_is: str) -> str | None:
    if len(name) > _NAME_CHARACTERS_MAX:
        return None
    field = own.get(_plain(name))
    return f"{own_is} `{field}`" if field is not None else remedy_of(name)


def _asks_nothing(name: str, value: Any) -> bool:
    """Whether a field of this value leaves the picture as it is."""
    if value is None or value is False or value in ([], {}):
        return True
    listed = _listed(name)
    if isinstance(value, str):
        text = value.strip().lower()
        return text in _NOTHING_WORDS or text in _SAME_ANYWAY.get(listed or "", ())
    if isinstance(value, bool):
        return False
    if value in _SAME_ANYWAY.get(listed or "", ()):
        return True
    return value == 0 and listed in NOT_HONOURED
