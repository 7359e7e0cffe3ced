"""The published documents: valid, with valid examples, the same as the models say, and printed by the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from schemas import publish
from schemas.codec import decode_cancellation, decode_completion, decode_progress, decode_request
from schemas.commands import schemas as command
from schemas.errors import ErrorCode, RequestRejected
from schemas.names import DeadLetterHeader, EventType, Topic

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
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
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
    for part in (schema, *schema.get("$defs", {}).values()):
        assert part["description"]
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
        {"request_id": "r", "prompt": "p", "pose": {"people": [[[0, 3]] * 18]}},
        {"request_id": "r", "prompt": "p", "labels": {f"k{n}": "" for n in range(17)}},
        {"request_id": "r", "prompt": "p", "labels": {"": "v"}},
    ],
    ids=str,
)
def test_the_schema_refuses_what_the_codec_refuses(broken: dict[str, Any]) -> None:
    assert not jsonschema.Draft202012Validator(publish.document("request")).is_valid(broken)
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
        validator = jsonschema.Draft202012Validator({**document, "$ref": message["payload"]["$ref"]})
        assert message["examples"]
        for example in message["examples"]:
            validator.validate(example["payload"])
        assert not validator.is_valid({})


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
