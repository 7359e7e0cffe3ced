"""The events for people who do not use Python: JSON Schemas, the error list, and an AsyncAPI 3.0 document.

All of it is generated from the models. The copies in `schemas/published/` are kept current by a test;
`darkroom schemas --write schemas/published` writes them anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from darkroom.schemas.describing import DIALECT, described
from darkroom.schemas.errors import ErrorCode, describe
from darkroom.schemas.events import unsupported
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.progress import Cancellation, Progress
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.names import IDENTITY_PATTERN, DeadLetterHeader, EventType, ReplayHeader, Topic

EVENTS: Final[Mapping[str, tuple[type[BaseModel], EventType, Topic]]] = {
    "request": (GenerationRequest, EventType.REQUESTED, Topic.REQUESTS),
    "completion": (Completion, EventType.COMPLETED, Topic.COMPLETIONS),
    "progress": (Progress, EventType.PROGRESS, Topic.PROGRESS),
    "cancellation": (Cancellation, EventType.CANCELLED, Topic.CANCELLATIONS),
}
"""Each published event: its model, its CloudEvents type and its topic."""

DOCUMENT_NAMES: Final = (*EVENTS, "errors", "unsupported-fields", "asyncapi")
_READ_FROM_OTHERS: Final = (GenerationRequest, Cancellation)
"""Events that other people's serializers write, null for what is unset included."""
_KAFKA_BINDING_VERSION = "0.5.0"
_NOT_ON_EVERY_LETTER = (DeadLetterHeader.OBJECT, DeadLetterHeader.KEY, DeadLetterHeader.HEADERS)

_WHAT_WORKERS_DO: Final[Mapping[str, tuple[str, str]]] = {
    "request": ("receive", "Take a request and owe it exactly one completion, or one dead letter."),
    "completion": ("send", "Say how a request ended. Transactional: read with isolation level read_committed."),
    "progress": ("send", "Say how far a request is, where it asked for that. Events may be lost."),
    "cancellation": ("receive", "Stop a request that is not finished, or that has not come yet."),
}


def document(name: str) -> dict[str, Any]:
    """One published document by its name, one of `DOCUMENT_NAMES`. Raises `KeyError` for another name."""
    if name == "errors":
        return {code.value: describe(code)._asdict() for code in ErrorCode}
    if name == "unsupported-fields":
        return unsupported.table()
    if name == "asyncapi":
        return _asyncapi()
    model, event_type, _ = EVENTS[name]
    definitions = described([model], ref_template="#/definitions/{model}", nulls_in=_accepting_null([model]))
    schema = definitions.pop(model.__name__)
    identified = {"$schema": DIALECT, "$id": f"urn:{event_type.value.replace('.', ':')}"}
    return {**identified, **schema, "definitions": definitions}


def write(folder: Path, names: Iterable[str] = DOCUMENT_NAMES) -> list[Path]:
    """Write documents to `folder`, which is made if need be; returns the files. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in names:
        file = folder / f"{name}.json"
        file.write_text(as_text(document(name)), encoding="utf-8")
        files.append(file)
    return files


def as_text(content: Any) -> str:
    """JSON for people: indented, with a line end."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _asyncapi() -> dict[str, Any]:
    models = [model for model, _, _ in EVENTS.values()]
    definitions = described(models, ref_template="#/components/schemas/{model}", nulls_in=_accepting_null(models))
    channels = {name: _channel(name, topic) for name, (_, _, topic) in EVENTS.items()}
    operations = {
        f"{action}-{name}": {
            "action": action,
            "summary": summary,
            "channel": {"$ref": f"#/channels/{name}"},
            "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
        }
        for name, (action, summary) in _WHAT_WORKERS_DO.items()
    }
    operations["send-deadLetter"] = {
        "action": "send",
        "summary": "Set aside a record in which no request id can be read, or whose request killed its workers.",
        "channel": {"$ref": "#/channels/deadLetter"},
        "messages": [{"$ref": "#/channels/deadLetter/messages/deadLetter"}],
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Darkroom",
            "version": "1.0.0",
            "description": "Generation events in, images in an object store, exactly one completion per request. "
            "Operations are a worker's. A deployment may put a prefix before every topic's name.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {**channels, "deadLetter": _channel("deadLetter", Topic.DEAD_LETTERS)},
        "operations": operations,
        "components": {
            "messages": {**{name: _message(name) for name in EVENTS}, "deadLetter": _dead_letter()},
            "schemas": definitions,
        },
    }


def _accepting_null(models: Iterable[type[BaseModel]]) -> list[type[BaseModel]]:
    return [model for model in models if model in _READ_FROM_OTHERS]


def _channel(name: str, topic: Topic) -> dict[str, Any]:
    return {
        "address": topic.value,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {"kafka": {"topic": topic.value, "bindingVersion": _KAFKA_BINDING_VERSION}},
    }


def _message(name: str) -> dict[str, Any]:
    model, event_type, _ = EVENTS[name]
    examples = document(name)["examples"]
    return {
        "name": event_type.value,
        "title": model.__name__,
        "summary": (model.__doc__ or "").partition("\n")[0],
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "description": "All of them may be left out, and a value without any is read as version 1. Where one of "
            "ce_specversion, ce_id, ce_type and ce_source is there, ce_specversion and ce_type are needed.",
            "properties": {
                "ce_specversion": _text("CloudEvents version.", const="1.0"),
                "ce_id": _text("The event's id, unique for its source.", minLength=1),
                "ce_type": _text("The event's type.", const=event_type.value),
                "ce_source": _text("Who published it.", minLength=1),
                "ce_time": _text("When it happened.", format="date-time"),
                "content-type": _text("The value's content type, application/json."),
                "traceparent": _text("W3C trace context, passed through.", pattern="^[0-9a-f-]{55}$"),
            },
        },
        "payload": {"$ref": f"#/components/schemas/{model.__name__}"},
        "bindings": _key("The request id.", pattern=IDENTITY_PATTERN),
        "examples": [{"name": f"{name}{number}", "payload": payload} for number, payload in enumerate(examples, 1)],
    }


def _dead_letter() -> dict[str, Any]:
    return {
        "name": "deadLetter",
        "title": "DeadLetter",
        "summary": "The original bytes of a record that could not end in a completion alone.",
        "description": f"A record with the header {ReplayHeader.OF} and without {DeadLetterHeader.OFFSET} is no dead "
        f"letter but the note that one was replayed; {ReplayHeader.AS} names the new record.",
        "contentType": "application/octet-stream",
        "headers": {
            "type": "object",
            "required": [header.value for header in DeadLetterHeader if header not in _NOT_ON_EVERY_LETTER],
            "properties": {
                DeadLetterHeader.TOPIC.value: _text("The record's topic."),
                DeadLetterHeader.PARTITION.value: _text("Its partition, in digits."),
                DeadLetterHeader.OFFSET.value: _text("Its offset, in digits."),
                DeadLetterHeader.ERROR_CODE.value: _text("Why.", enum=[code.value for code in ErrorCode]),
                DeadLetterHeader.ERROR_MESSAGE.value: _text("Why, for people."),
                DeadLetterHeader.ATTEMPTS.value: _text("How often rendering was begun, in digits."),
                DeadLetterHeader.WORKER.value: _text("The worker that set it aside."),
                DeadLetterHeader.OBJECT.value: _text("bucket/key of the bytes, where they are too many for a record."),
                DeadLetterHeader.KEY.value: _text("The record's key, where it had one and is repeated here."),
                DeadLetterHeader.HEADERS.value: _text(
                    "All its headers, where a name is not UTF-8: a JSON list of [name, value or null] in base64."
                ),
            },
        },
        "payload": {"description": "Whatever the record's value was."},
        "bindings": _key("The request id, or topic-partition-offset of the record where it has none."),
    }


def _key(description: str, **constraints: Any) -> dict[str, Any]:
    return {"kafka": {"key": _text(description, **constraints), "bindingVersion": _KAFKA_BINDING_VERSION}}


def _text(description: str, **constraints: Any) -> dict[str, Any]:
    return {"type": "string", "description": description, **constraints}
