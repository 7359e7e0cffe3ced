"""Proves how the stored pictures of a request are read: all of them, each under its field, or none."""

from __future__ import annotations

from typing import Any

import pytest

from darkroom.consumer.provenance.manifest import Ingredient, ingredients_of
from darkroom.consumer.worker.delivery import Delivery, RequestRefused
from darkroom.consumer.worker.intake import stored_pictures
from darkroom.consumer.worker.payload import Payload, Received
from darkroom.consumer.worker.ports import Record
from darkroom.producer.store.memory_objects import MemoryObjects
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import Settings

PNG = b"\x89PNG\r\n\x1a\n"


def picture(key: str) -> dict[str, str]:
    return {"bucket": "darkroom", "key": key}


def asked(**fields: Any) -> GenerationRequest:
    return GenerationRequest.model_validate({"request_id": "r", "prompt": "p", **fields})


TWO = asked(
    pose={"photo": picture("photo")},
    controls=[
        {"kind": "canny", "image": picture("edges")},
        {"kind": "tile", "image": {"inline": "YWJj"}},
        {"kind": "depth", "image": picture("depth")},
    ],
)


def received(request: GenerationRequest) -> Payload:
    return Payload(Received(Record(0, None, b"{}", (), 0), "e", "d", None, request=request))


async def store(**contents: bytes) -> Delivery:
    objects = MemoryObjects("darkroom")
    for key, content in contents.items():
        await objects.put(key, content, content_type="image/png")
    return Delivery(Settings(), objects, lambda _: None)


def test_pictures_are_known_by_their_fields() -> None:
    assert {field: one.key for field, one in stored_pictures(TWO).items()} == {
        "pose": "photo",
        "controls.0": "edges",
        "controls.2": "depth",
    }
    assert stored_pictures(asked(pose={"people": [[[0.5, 0.5]] * 18]})) == {}


async def test_all_pictures_are_read_and_named_in_the_credentials() -> None:
    payload = received(TWO)
    await (await store(photo=PNG, edges=PNG + b"1", depth=PNG + b"2")).fetch_pictures(payload)
    assert payload.pictures == {"pose": PNG, "controls.0": PNG + b"1", "controls.2": PNG + b"2"}
    assert [one.title for one in ingredients_of(TWO, payload.pictures)] == ["photo", "canny", "tile", "depth"]
    assert ingredients_of(TWO, payload.pictures)[3] == Ingredient("depth", PNG + b"2", "image/png")


async def test_a_picture_that_is_not_there_is_named() -> None:
    payload = received(TWO)
    with pytest.raises(RequestRefused, match="no object depth") as caught:
        await (await store(photo=PNG, edges=PNG)).fetch_pictures(payload)
    assert caught.value.code == ErrorCode.POSE_NOT_FOUND.value
    assert payload.pictures == {}
