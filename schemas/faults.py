"""Words for validation errors: pydantic's own speak of Python's types, and of an "input" that nobody here calls so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_WORDS: Final = {
    "missing": "is missing",
    "extra_forbidden": "is not a known field",
    "string_type": "must be text",
    "string_unicode": "must be text without unpaired surrogates (\\ud800 to \\udfff)",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "must be an integer"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type", "mapping_type"), "must be an object"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), "must be an array"),
}
_SUBJECT: Final = re.compile(
    r"^(?:Value error, |(?:Input|String|Value|List|Tuple|Dictionary|Set|Data|Bytes|URL|Datetime|Decimal input) "
    r"(?=should ))"
)
_BOUNDS: Final = {"greater than or equal to": "at least", "less than or equal to": "at most"}


def said(error: Mapping[str, Any]) -> str:
    """Return what is wrong with a field by one of pydantic's error details, to follow the field's name."""
    words = _WORDS.get(error["type"])
    if words is not None:
        return words
    words = _SUBJECT.sub("", error["msg"])
    if words.startswith("should "):
        words = f"must {words.removeprefix('should ')}"
    for theirs, ours in _BOUNDS.items():
        words = words.replace(theirs, ours)
    return words
