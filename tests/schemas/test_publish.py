"""The published documents: valid, with valid examples, the same as the models say, and printed by the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from hypothesis import given, settings

from darkroom.producer.cli.contracts import schemas as command
from darkroom.schemas import publish
from darkroom.schemas.describing import or_null
from darkroom.schemas.errors import ErrorCode, RequestRejected
from darkroom.schemas.names import DeadLetterHeader, EventType, Topic
from darkroom.schemas.wire.codec import decode_cancellation, decode_completion, decode_progress, decode_request
from tests.producer.gateway.house import House
from tests.schemas.strategies import request_objects

PUBLISHED = Path(publish.__file__).parent / "published"


@pytest.mark.parametrize("name", publish.DOCUMENT_NAMES)
def test_the_checked_in_copy_is_current(name: str) -> None:
    written = (PUBLISHED / f"{name}.json").read_text(encoding="utf-8")
    assert written == publish.as_text(publish.document(name)), "run: darkroom schemas --write schemas/published"


def test_nothing_else_is_published() -> None:
    assert {path.name for path in PUBLISHED.iterdir()} == {f"{name}.json" for name in publish.DOCUMENT_NAMES}


@pytest.mark.parametrize("name", publish.EVENTS)
def test_schemas_are_valid_and_their_examples_too(name: str) -> None:
    schema = publish.document(name)
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    read: Any = {
        "request": decode_request,
        "completion": decode_completion,
        "progress": decode_progress,
        "cancellation": decode_cancellation,
    }[name]
    assert len(schema["examples"]) >= 1
    for example in schema["examples"]:
        validator.validate(example)
        read(json.dumps(example).encode())


@pytest.mark.parametrize("name", publish.EVENTS)
def test_every_field_is_described(name: str) -> None:
    schema = publish.document(name)
    for part in (schema, *schema["definitions"].values()):
        assert part.get("description") or "oneOf" in part
        for field_name, field in part.get("properties", {}).items():
            assert field.get("description"), field_name


@pytest.mark.parametrize(
    "broken",
    [
        {"prompt": "p"},
        {"request_id": "../r", "prompt": "p"},
        {"request_id": "r", "prompt": ""},
        {"request_id": "r", "prompt": "p", "steps": 151},
        {"request_id": "r", "prompt": "p", "steps": "30"},
        {"request_id": "r", "prompt": "p", "pose": {"image": {"bucket": "abc", "key": "/k"}}},
        {"request_id": "r", "prompt": "p", "pose": {"image": {"bucket": "abc", "key": "a/../k"}}},
        {"request_id": "r", "prompt": "p", "pose": {"people": [[[0, 1e6]] * 18]}},
        {"request_id": "r", "prompt": "p", "labels": {f"k{n}": "" for n in range(17)}},
        {"request_id": "r", "prompt": "p", "labels": {"": "v"}},
    ],
    ids=str,
)
def test_the_schema_refuses_what_the_codec_refuses(broken: dict[str, Any]) -> None:
    assert not jsonschema.Draft7Validator(publish.document("request")).is_valid(broken)
    with pytest.raises(RequestRejected):
        decode_request(json.dumps(broken).encode())


def test_every_error_code_is_published() -> None:
    assert set(publish.document("errors")) == {code.value for code in ErrorCode}


def test_asyncapi_names_every_topic_and_type_and_its_references_resolve() -> None:
    document = publish.document("asyncapi")
    assert document["asyncapi"] == "3.0.0"
    assert {channel["address"] for channel in document["channels"].values()} == {topic.value for topic in Topic}
    messages = document["components"]["messages"]
    types = {
        message["headers"]["properties"]["ce_type"]["const"]
        for name, message in messages.items()
        if name != "deadLetter"
    }
    assert types == {kind.value for kind in EventType}
    assert set(messages["deadLetter"]["headers"]["properties"]) == {header.value for header in DeadLetterHeader}
    references = list(references_in(document))
    assert len(references) > 20
    for reference in references:
        assert resolve(document, reference)


def test_asyncapi_payload_examples_are_valid() -> None:
    document = publish.document("asyncapi")
    for name in publish.EVENTS:
        message = document["components"]["messages"][name]
        validator = jsonschema.Draft7Validator(
            {"$ref": message["payload"]["$ref"], "components": document["components"]}
        )
        assert message["examples"]
        for example in message["examples"]:
            validator.validate(example["payload"])
        assert not validator.is_valid({})


# --- What generators read rightly ------------------------------------------------------------------------


async def documents() -> dict[str, dict[str, Any]]:
    """All that clients are generated from, by name: the published schemas, AsyncAPI, and the gateway's OpenAPI."""
    async with House().gateway() as replica:
        openapi = replica.app.openapi()
    return {**{name: publish.document(name) for name in (*publish.EVENTS, "asyncapi")}, "openapi": openapi}


def definitions_of(document: dict[str, Any]) -> dict[str, Any]:
    """A document's named schemas, its own included."""
    named = document.get("definitions") or document.get("components", {}).get("schemas", {})
    return {**named, **({document["title"]: document} if "title" in document else {})}


def parts_of(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for name, part in value.items():
            if name not in ("examples", "example"):
                yield from parts_of(part)
    elif isinstance(value, list):
        for part in value:
            yield from parts_of(part)


async def test_only_types_have_titles_and_each_its_own() -> None:
    for name, document in (await documents()).items():
        definitions = definitions_of(document)
        assert {key: schema["title"] for key, schema in definitions.items()} == {key: key for key in definitions}
        titled = [part for schema in definitions.values() for part in parts_of(schema) if "title" in part]
        titles = [part["title"] for part in titled if isinstance(part["title"], str)]
        assert set(titles) == set(definitions), name


async def test_nothing_stands_in_them_that_a_generator_misreads() -> None:
    for name, document in (await documents()).items():
        for part in parts_of(document):
            kinds = part.get("type")
            if isinstance(kinds, list):
                assert len(set(kinds) - {"null"}) == 1, f"{name}: openapi-generator has no base type for {kinds}"
        definitions = definitions_of(document)
        for key, schema in definitions.items():
            for part in parts_of(schema):
                assert "default" not in part or "type" in part["default"], f"{name} {key}: Modelina, openapi-typescript"
                assert "prefixItems" not in part
                assert "exclusiveMinimum" not in part
                assert "exclusiveMaximum" not in part
                assert "anyOf" not in part, "oneOf says what is meant"
                assert None not in part.get("enum", ()), f"{name} {key}: Modelina makes the text 'null' of it"
                assert "(?" not in str(part.get("pattern", "")).replace("(?:", ""), "Rust and Go cannot look ahead"
                if part.get("type") == "integer" and "maximum" not in part:
                    assert part.get("format") == "int64", f"{name} {key}: Java makes 32 bits of it"
            for field, part in schema.get("properties", {}).items():
                alternatives = [one.get("$ref", "") for one in part.get("oneOf", ())]
                if len(alternatives) == 2 and {"type": "null"} in part["oneOf"]:
                    assert all(one.rpartition("/")[2].lower() != field for one in alternatives), "Modelina for Java"


@pytest.mark.parametrize("name", ["request", "cancellation"])
def test_null_is_described_and_accepted_wherever_a_field_may_be_left_out(name: str) -> None:
    schema = publish.document(name)
    validator = jsonschema.Draft7Validator(schema)
    least = dict.fromkeys(schema["required"], "x")
    validator.validate({**least, **dict.fromkeys(set(schema["properties"]) - set(least))})
    for field in least:
        assert not validator.is_valid({**least, field: None})
    for nested in ("AdapterUse", "OutputOptions", "PeoplePose"):
        part = schema["definitions"].get(nested, {"properties": {}})
        for field in set(part["properties"]) - set(part.get("required", ())):
            validator.evolve(schema=part["properties"][field]).validate(None)


def test_seeds_have_64_bits() -> None:
    assert publish.document("request")["properties"]["seed"]["format"] == "int64"
    assert "format" not in publish.document("request")["properties"]["steps"]


def test_defaults_are_said() -> None:
    for field, default in (("preset", "fast"), ("count", "1"), ("guidance_scale", "5.0"), ("output", "format png")):
        assert f" Default: {default}" in publish.document("request")["properties"][field]["description"]


def test_readers_of_completions_can_read_those_of_later_versions() -> None:
    schema = publish.document("completion")
    validator = jsonschema.Draft7Validator(schema)
    for example in schema["examples"]:
        later = {**example, "a_field_of_later": {"category": "x"}, "full_steps": 2}
        if "error" in later:
            later["error"] = {**later["error"], "code": "a_code_of_later", "hint": "x"}
        validator.validate(later)
    for part in parts_of(schema):
        assert part.get("additionalProperties", {}) is not False


def test_headers_may_be_left_out() -> None:
    for name in publish.EVENTS:
        headers = publish.document("asyncapi")["components"]["messages"][name]["headers"]
        assert "required" not in headers


def test_the_shape_is_the_same_when_the_model_says_null_itself() -> None:
    nullable = {"type": ["string", "null"], "maxLength": 3}
    assert or_null(dict(nullable)) == nullable
    for plain in ({"type": "string", "enum": ["a"]}, {"$ref": "#/x"}, {"type": "array", "items": {"type": "string"}}):
        once = or_null(dict(plain))
        assert once == {"oneOf": [plain, {"type": "null"}]}
        assert or_null(dict(once)) == once


@settings(max_examples=150, deadline=None)
@given(request_objects())
def test_what_the_codec_accepts_the_schema_accepts(request: dict[str, Any]) -> None:
    assert decode_request(json.dumps(request).encode()).request.request_id == request["request_id"]
    jsonschema.Draft7Validator(publish.document("request")).validate(request)


@pytest.mark.parametrize(
    "pose",
    [
        {"people": None, "format": None, "image": {"bucket": "abc", "key": "k.png", "inline": None}, "photo": None},
        {"people": [[[0.5, 0.5]] * 18], "image": None, "photo": None},
    ],
    ids=["image", "people"],
)
def test_a_class_of_all_kinds_of_pose_writes_null_for_the_others(pose: dict[str, Any]) -> None:
    """As quicktype's Java class does, which is one for the three kinds."""
    request = {"request_id": "r", "prompt": "p", "pose": pose}
    jsonschema.Draft7Validator(publish.document("request")).validate(request)
    decoded = decode_request(json.dumps(request).encode())
    assert decoded.warnings == ()
    kept = {name: value for name, value in pose.items() if value is not None}
    assert decoded.digest == decode_request(json.dumps({**request, "pose": kept}).encode()).digest


def references_in(value: Any) -> Any:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for part in value.values():
            yield from references_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from references_in(part)


def resolve(document: Any, reference: str) -> Any:
    for step in reference.removeprefix("#/").split("/"):
        document = document[step]
    return document


# --- The command -----------------------------------------------------------------------------------------


def test_the_command_prints_everything_by_name() -> None:
    for arguments in ([], ["--json"]):
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code == 0
        assert json.loads(result.stdout) == {name: publish.document(name) for name in publish.DOCUMENT_NAMES}


def test_the_command_prints_one_document() -> None:
    result = CliRunner().invoke(command, ["--only", "request"])
    assert (result.exit_code, result.stdout) == (0, publish.as_text(publish.document("request")))
    result = CliRunner().invoke(command, ["--only", "asyncapi", "--json"])
    assert len(result.stdout.splitlines()) == 1
    assert json.loads(result.stdout) == publish.document("asyncapi")


def test_the_command_knows_all_documents() -> None:
    for name in publish.DOCUMENT_NAMES:
        assert CliRunner().invoke(command, ["--only", name]).exit_code == 0
    assert CliRunner().invoke(command, ["--only", "nonsense"]).exit_code == 2


def test_the_command_writes_files(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--write", str(tmp_path / "deep" / "er")])
    assert result.exit_code == 0
    files = [Path(line) for line in result.stdout.splitlines()]
    assert [file.name for file in files] == [f"{name}.json" for name in publish.DOCUMENT_NAMES]
    for file in files:
        assert file.read_bytes() == (PUBLISHED / file.name).read_bytes()
    result = CliRunner().invoke(command, ["--write", str(tmp_path), "--only", "errors", "--json"])
    assert json.loads(result.stdout) == [str(tmp_path / "errors.json")]


def test_the_command_says_why_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    result = CliRunner().invoke(command, ["--write", str(tmp_path / "file" / "below")])
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
    assert result.stdout == ""


def test_the_help_has_an_example() -> None:
    assert "Example: darkroom schemas --only request" in CliRunner().invoke(command, ["--help"]).stdout
