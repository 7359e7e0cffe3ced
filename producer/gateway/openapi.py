"""The gateway's OpenAPI document: FastAPI's, with the request's own schema in it.

The codec reads the bodies, not FastAPI, so FastAPI knows nothing of them. Forms are derived from the request's schema.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from darkroom.producer.callbacks.addresses import URL_CHARS_MAX
from darkroom.producer.gateway.jobs.answers import ProblemBody
from darkroom.producer.gateway.jobs.submissions import CALLBACK_URL
from darkroom.producer.gateway.openai.answers import ImagesOrder
from darkroom.schemas.describing import described, or_null, readable
from darkroom.schemas.events.request import GenerationRequest

_SCHEMAS: Final = "#/components/schemas/"
PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {
        "description": text,
        "content": {"application/problem+json": {"schema": {"$ref": f"{_SCHEMAS}ProblemBody"}}},
    }
    for status, text in (("4XX", "Refused; `code` says why."), ("5XX", "Not possible now; `code` says why."))
}
"""The error responses of every route."""
_FILES: Final = {
    "pose": {"type": "string", "format": "binary", "description": "An OpenPose skeleton picture."},
    "photo": {"type": "string", "format": "binary", "description": "A photo, in place of the skeleton."},
    "init": {
        "type": "string",
        "format": "binary",
        "description": "A picture to start from; its `strength` and `fit` are fields beside it, or members of `init`.",
    },
    "mask": {"type": "string", "format": "binary", "description": "The part of it that is painted, in white."},
}
_PICTURES: Final = {name: {"contentType": "image/png, image/jpeg, image/webp"} for name in _FILES}
_FORM: Final = {
    "title": "GenerationForm",
    "type": "object",
    "required": ["request"],
    "additionalProperties": False,
    "properties": {
        "request": {"type": "string", "contentMediaType": "application/json", "description": "A GenerationOrder."},
        **_FILES,
    },
}
_JSON: Final = {"application/json": {"schema": {"$ref": f"{_SCHEMAS}GenerationOrder"}}}
ORDER_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            **_JSON,
            "multipart/form-data": {"schema": {"$ref": f"{_SCHEMAS}GenerationForm"}, "encoding": _PICTURES},
        },
    }
}
"""The body of a submission: JSON, or a form whose field `request` is that JSON."""
FIELDS_BODY: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "prompt",
            "in": "query",
            "required": False,
            "schema": {"type": "string", "minLength": 1, "maxLength": 2000},
            "description": "The prompt, where it is not a field.",
        }
    ],
    "requestBody": {
        "required": False,
        "content": {
            "multipart/form-data": {"schema": {"$ref": f"{_SCHEMAS}PictureForm"}, "encoding": _PICTURES},
            "application/x-www-form-urlencoded": {"schema": {"$ref": f"{_SCHEMAS}PictureFields"}},
            **_JSON,
        },
    },
}
"""The body of `POST /generate`: a form of the request's own fields, or JSON."""
_CALLBACK: Final[dict[str, Any]] = {
    "type": "string",
    "maxLength": URL_CHARS_MAX,
    "pattern": "^https?://",
    "description": "Where the completion is posted to when the job has ended (Standard Webhooks); only for tenants "
    "with a secret in the operator's file of callbacks.",
}


def openapi_of(app: FastAPI, public_url: str | None) -> dict[str, Any]:
    """Return the application's document, which is made on the first call and kept."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
            # Without a public address the document gives none: OpenAPI's default is the root of the document's own
            # host, which is right unless a proxy puts a prefix before it.
            servers=None if public_url is None else [{"url": public_url.rstrip("/")}],
        )
        parts = described([GenerationRequest], ref_template=f"{_SCHEMAS}{{model}}", nulls_in=[GenerationRequest])
        order = _order(parts.pop(GenerationRequest.__name__))
        fields = _fields(order)
        answers = document.setdefault("components", {}).setdefault("schemas", {})
        for posted in (ProblemBody, ImagesOrder):
            answers[posted.__name__] = posted.model_json_schema()
        document["components"]["schemas"] = {
            **{name: readable(name, schema) for name, schema in answers.items()},
            **parts,
            "GenerationForm": _FORM,
            "GenerationOrder": order,
            "PictureFields": {"title": "PictureFields", "type": "object", "properties": fields},
            "PictureForm": {"title": "PictureForm", "type": "object", "properties": {**fields, **_FILES}},
        }
        app.openapi_schema = document
    return app.openapi_schema


def _order(request: dict[str, Any]) -> dict[str, Any]:
    """Return the request's schema as a caller writes it: without the tenant, which is that of its key."""
    properties = {name: schema for name, schema in request["properties"].items() if name != "tenant"}
    return {
        **request,
        "title": "GenerationOrder",
        "description": "A GenerationRequest (v1) of the caller's own tenant; an absent request_id is generated.",
        "examples": [
            {name: value for name, value in example.items() if name in properties} for example in request["examples"]
        ],
        "properties": {
            **properties,
            "request_id": or_null(properties["request_id"]),
            CALLBACK_URL: or_null(dict(_CALLBACK)),
        },
        "required": ["prompt"],
        "additionalProperties": False,
    }


def _fields(order: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a form: those with one text or number as their value, but for `count`, which is 1 here.

    An empty field of a form counts as absent, so none may be null.
    """
    fields = {}
    for name, schema in order["properties"].items():
        described_by = {key: part for key, part in schema.items() if key not in ("oneOf", "type")}
        types = schema.get("type")
        kinds = schema.get("oneOf") or [{"type": one} for one in (types if isinstance(types, list) else [types])]
        kind: dict[str, Any] = next((one for one in kinds if one.get("type") != "null"), {})
        if name != "count" and kind.get("type") in ("string", "integer", "number"):
            fields[name] = {**described_by, **kind}
    return fields
