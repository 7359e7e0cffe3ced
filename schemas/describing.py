"""JSON Schemas of the models in a form that other people's generators read rightly.

Pydantic's own schemas are right and misread. What is changed, and which generator misreads it (versions in
`tests/generators/packages.py`):

- titles of properties go: Modelina names types by them, and two properties with one title become one type;
- the dialect is draft-07, which the constructs used here have the same meaning in: Modelina refuses a document that
  names a later one;
- null is accepted wherever a field may be left out, since serializers of Java, C#, Kotlin and Rust write it; it stands
  beside the type (`"type": ["string", "null"]`), and apart only from an enum, into which Modelina would take it as the
  text "null", from a list, whose items Modelina would mistake, and from a union;
- a definition is called otherwise than a property that may be it or null: of the two Modelina makes an interface under
  the property's name, so that a class `Adapter` would have to implement itself;
- integers that need 64 bits say so (`"format": "int64"`), or Java clients hold a seed in 32;
- the list of error codes is open: a generated enum cannot read a completion of a later version;
- defaults are said in the descriptions: Modelina writes them into Java classes as they stand in JSON, which does not
  compile, and openapi-typescript requires what has one;
- `additionalProperties: false` goes: workers pass over fields that they do not know.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from darkroom.schemas.errors import ErrorCode

DIALECT: Final = "http://json-schema.org/draft-07/schema#"
INT32_MAX: Final = 2**31 - 1
PUBLISHED_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"Adapter": "AdapterUse", "Cost": "CostShare", "Output": "OutputOptions", "PictureRef": "Picture"}
)
"""Models that are published under another name than their class's."""
_NULL: Final = {"type": "null"}

Schema = dict[str, Any]


def described(
    models: Sequence[type[BaseModel]], *, ref_template: str, nulls_in: Sequence[type[BaseModel]]
) -> dict[str, Schema]:
    """Return the schemas of models and of all that they refer to, by name, as readers of events validate.

    Fields of `nulls_in`, and of what those refer to, accept null wherever they have a default.
    """
    _, document = models_json_schema([(model, "validation") for model in models], ref_template=ref_template)
    definitions: dict[str, Schema] = document["$defs"]
    called = {name: PUBLISHED_NAMES.get(name, name) for name in definitions}
    references = {ref_template.format(model=old): ref_template.format(model=new) for old, new in called.items()}
    names = {ref_template.format(model=name): name for name in definitions}
    accepting = _reached([model.__name__ for model in nulls_in], definitions, names)
    shaped = {
        called[name]: {"title": called[name], **_shaped(schema, references, nulls=name in accepting)}
        for name, schema in definitions.items()
    }
    if "ErrorCode" in shaped:
        shaped["ErrorCode"] = _open_list(shaped["ErrorCode"])
    return shaped


def _as_text(default: Any) -> str:
    if isinstance(default, Mapping):
        return ", ".join(f"{name} {value}" for name, value in default.items()) or "none"
    return str(default)


def or_null(part: Schema) -> Schema:
    """Return the schema of the same, or null. Idempotent."""
    alternatives = part.get("oneOf") or part.get("anyOf")
    if alternatives is not None:
        if _NULL in alternatives:
            return part
        rest = {name: value for name, value in part.items() if name not in ("oneOf", "anyOf")}
        return {**rest, "oneOf": [*alternatives, _NULL]}
    if part.keys() & {"enum", "$ref", "items"}:
        rest = {name: part.pop(name) for name in ("description", "examples") if name in part}
        return {**rest, "oneOf": [part, _NULL]}
    if isinstance(part.get("type"), str):
        part["type"] = [part["type"], "null"]
    return part


def readable(name: str, schema: Schema) -> Schema:
    """Return the definition of this name without what generators misread; null is where the model has it."""
    return {"title": name, **_each(copy.deepcopy(schema), _tidied)}


def _shaped(schema: Schema, references: Mapping[str, str], *, nulls: bool) -> Schema:
    """One definition without what is misread, with null where it is accepted, its references under published names."""

    def referring(part: Schema) -> Schema:
        part = _tidied(part)
        return {**part, "$ref": references[part["$ref"]]} if "$ref" in part else part

    schema = _each(copy.deepcopy(schema), referring)
    for name, part in schema.get("properties", {}).items():
        if nulls and name not in schema.get("required", ()):
            schema["properties"][name] = or_null(part)
    return schema


def _tidied(part: Schema) -> Schema:
    part.pop("title", None)
    if part.get("additionalProperties") is False:
        del part["additionalProperties"]
    default = part.pop("default", None)
    if default is not None and "description" in part:
        part["description"] += f" Default: {_as_text(default)}."
    if part.get("type") == "integer" and part.get("maximum", INT32_MAX + 1) > INT32_MAX:
        part["format"] = "int64"
    alternatives = part.get("anyOf", ())
    if _NULL in alternatives:
        part.pop("anyOf")
        others = [one for one in alternatives if one != _NULL]
        return or_null({**part, "anyOf": others} if len(others) > 1 else {**others[0], **part})
    return part


def _open_list(schema: Schema) -> Schema:
    codes = [code.value for code in ErrorCode]
    said = "One of the codes in errors.json. Later versions have more, so read an unknown one like any failure."
    return {"title": schema["title"], "type": "string", "description": said, "examples": codes}


def _reached(begin: Sequence[str], definitions: Mapping[str, Schema], names: Mapping[str, str]) -> set[str]:
    """The names of definitions that these refer to, themselves included."""
    reached: set[str] = set()
    waiting = list(begin)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += [names[part["$ref"]] for part in _parts(definitions[name]) if "$ref" in part]
    return reached


def _inner(schema: Schema) -> Iterator[tuple[Any, Any]]:
    """Where the schemas directly inside of one stand: the container and the place in it."""
    for name in ("items", "additionalProperties", "propertyNames"):
        if isinstance(schema.get(name), dict):
            yield schema, name
    for name in ("properties", "$defs", "definitions"):
        yield from ((schema[name], inner) for inner in schema.get(name, ()))
    for name in ("anyOf", "oneOf", "allOf"):
        yield from ((schema[name], place) for place in range(len(schema.get(name, ()))))


def _parts(schema: Schema) -> Iterator[Schema]:
    """The schema and all in it."""
    yield schema
    for container, place in _inner(schema):
        yield from _parts(container[place])


def _each(schema: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """The schema with each part changed, the inner ones first. Changes in place."""
    for container, place in list(_inner(schema)):
        container[place] = _each(container[place], change)
    return change(schema)
