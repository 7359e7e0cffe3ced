"""GenerationRequest: each constraint of the published contract, from both of its sides, and exact types."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from darkroom.schemas.errors import RequestRejected
from darkroom.schemas.events.pose import (
    INLINE_BYTES_MAX,
    InlinePicture,
    PeoplePose,
    PhotoPose,
    SkeletonPose,
    StoredPicture,
)
from darkroom.schemas.events.request import GenerationRequest, effective_steps
from darkroom.schemas.recipes import parse_recipes

INLINE = {"inline": "AAAA"}
PERSON18: list[Any] = [[0.5, 0.25]] * 16 + [None, None]
PERSON17: list[Any] = [[0.5, 0.25]] * 17


def read(**fields: Any) -> GenerationRequest:
    return GenerationRequest.model_validate_json(json.dumps({"request_id": "r", "prompt": "p", **fields}))


def test_defaults() -> None:
    request = read()
    assert request.tenant == "default"
    assert request.negative_prompt is None
    assert (request.preset, request.steps, effective_steps(request)) == ("fast", None, 22)
    assert (request.width, request.height, request.seed, request.count) == (None, None, None, 1)
    assert (request.guidance_scale, request.sampler) == (5.0, "euler_ancestral")
    assert (request.pose, request.adapter, request.deadline) == (None, None, None)
    assert (request.control_scale, request.control_start, request.control_end) == (1.0, 0.0, 1.0)
    assert (request.output.format, request.priority, request.progress, request.labels) == ("png", 4, "none", {})


def test_presets_and_explicit_steps() -> None:
    assert effective_steps(read(preset="quality")) == 35
    assert effective_steps(read(preset="quality", steps=7)) == 7


ACCEPTED: list[dict[str, Any]] = [
    {"request_id": "x" * 128},
    {"tenant": "a.b_c-d"},
    {"prompt": "x" * 2000},
    {"negative_prompt": ""},
    {"width": 16, "height": 4096},
    {"steps": 1},
    {"steps": 150},
    {"guidance_scale": 0},
    {"guidance_scale": 30},
    {"seed": 2**53 - 1},
    {"seed": 2**53 - 8, "count": 8},
    {"control_start": 0.2, "control_end": 0.3},
    {"adapter": {"name": "ink", "weight": -2}},
    {"adapters": [{"name": name, "weight": 0.5, "text_weight": -2} for name in "abcd"]},
    {"adapters": [{"name": "ink"}], "adapter": None},
    {"adapter": {"name": "ink"}, "adapters": []},
    {"adapter": {"name": "ink drawing (v2)"}},
    {"adapter": {"name": "水墨 a=b+c@d, e"}},
    {"adapter": {"name": "i" * 128}},
    {"output": {"format": "jpeg", "quality": 1}},
    {"priority": 0},
    {"deadline": "2027-01-31T12:00:00.123456789+05:30"},
    {"labels": {f"k{n}": "v" * 256 for n in range(16)}},
    {"labels": {"k" * 64: ""}},
    {"pose": {"people": [PERSON18] * 8}},
    {"pose": {"people": [[[-1, 2]] * 18]}},
    {"pose": {"people": [PERSON17], "format": "coco17"}},
    {"pose": {"image": {"bucket": "abc", "key": "x" * 1024}}},
    {"pose": {"photo": {"inline": base64.b64encode(b"x" * INLINE_BYTES_MAX).decode()}}},
]

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"request_id": ""}, "request_id"),
    ({"request_id": ".x"}, "request_id"),
    ({"request_id": "a/b"}, "request_id"),
    ({"request_id": "x" * 129}, "request_id"),
    ({"request_id": "x\n"}, "request_id"),
    ({"request_id": 7}, "request_id"),
    ({"tenant": ""}, "tenant"),
    ({"tenant": 7}, "tenant"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": "x" * 2001}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"negative_prompt": "x" * 2001}, "negative_prompt"),
    ({"preset": "best"}, "preset"),
    ({"width": 15}, "width"),
    ({"height": 4097}, "height"),
    ({"width": 512.5}, "width"),
    ({"steps": 0}, "steps"),
    ({"steps": 151}, "steps"),
    ({"steps": "30"}, "steps"),
    ({"steps": True}, "steps"),
    ({"steps": 30.5}, "steps"),
    ({"guidance_scale": -0.1}, "guidance_scale"),
    ({"guidance_scale": 30.1}, "guidance_scale"),
    ({"guidance_scale": "5"}, "guidance_scale"),
    ({"guidance_scale": False}, "guidance_scale"),
    ({"guidance_scale": float("nan")}, "guidance_scale"),
    ({"guidance_scale": float("inf")}, "guidance_scale"),
    ({"guidance_scale": 10**400}, "guidance_scale"),
    ({"sampler": "plms"}, "sampler"),
    ({"sampler": "lcm", "schedule": "karras"}, "schedule"),
    ({"sampler": "ddim", "schedule": "beta"}, "schedule"),
    ({"sampler": "tcd", "steps": 51}, "steps"),
    ({"guidance_start": 0.5, "guidance_end": 0.5}, "guidance_start"),
    ({"prompt": "a [cat:dog:0.5]", "prompt_syntax": "weighted"}, "changes over the steps"),
    ({"negative_prompt": "[a|b]", "prompt_syntax": "weighted"}, "negative_prompt"),
    ({"prompt": "a cat AND a dog", "prompt_syntax": "weighted"}, "AND"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**53}, "seed"),
    ({"seed": 2**53 - 7, "count": 8}, "seed"),
    ({"count": 0}, "count"),
    ({"count": 9}, "count"),
    ({"control_scale": 2.1}, "control_scale"),
    ({"control_start": 0.5, "control_end": 0.5}, "control_start"),
    ({"control_end": 0}, "control_start"),
    ({"control_end": 1.1}, "control_end"),
    ({"adapter": {"name": "../ink"}}, "adapter"),
    ({"adapter": {"name": ".ink"}}, "adapter"),
    ({"adapter": {"name": "inks/blue"}}, "adapter"),
    ({"adapter": {"name": "inks\\blue"}}, "adapter"),
    ({"adapter": {"name": "ink\n"}}, "adapter"),
    ({"adapter": {"name": ""}}, "adapter"),
    ({"adapter": {"name": "i" * 129}}, "adapter"),
    ({"adapter": {"name": "ink", "weight": 2.1}}, "adapter"),
    ({"adapter": {}}, "adapter"),
    ({"adapter": {"name": "ink"}, "adapters": [{"name": "oil"}]}, "either adapter or adapters"),
    ({"adapters": [{"name": "ink"}, {"name": "ink", "weight": 0.5}]}, "once"),
    ({"adapters": [{"name": name} for name in "abcde"]}, "adapters"),
    ({"adapters": [{"name": "ink", "text_weight": 2.1}]}, "text_weight"),
    ({"output": {"format": "gif"}}, "output"),
    ({"output": {"quality": 0}}, "output"),
    ({"priority": 10}, "priority"),
    ({"deadline": "2027-01-31T12:00:00"}, "deadline"),
    ({"deadline": "2027-01-31"}, "deadline"),
    ({"deadline": "1800000000"}, "deadline"),
    ({"deadline": 1800000000}, "deadline"),
    ({"deadline": "2027-02-30T12:00:00Z"}, "deadline"),
    ({"deadline": "0001-01-01T00:00:00+23:59"}, "deadline"),
    ({"deadline": "9999-12-31T23:59:59-23:59"}, "deadline"),
    ({"progress": "all"}, "progress"),
    ({"labels": {f"k{n}": "v" for n in range(17)}}, "labels"),
    ({"labels": {"k" * 65: "v"}}, "labels"),
    ({"labels": {"": "v"}}, "labels"),
    ({"labels": {"k": "v" * 257}}, "labels"),
    ({"labels": {"k": 1}}, "labels"),
    ({"labels": ["k"]}, "labels"),
    ({"pose": {}}, "pose"),
    ({"pose": "standing"}, "pose"),
    ({"pose": {"people": [PERSON18], "image": {"inline": "aaaa"}}}, "pose"),
    ({"pose": {"people": []}}, "pose"),
    ({"pose": {"people": [PERSON18] * 9}}, "pose"),
    ({"pose": {"people": [PERSON17]}}, "pose"),
    ({"pose": {"people": [PERSON18], "format": "coco17"}}, "pose"),
    ({"pose": {"people": [PERSON18], "format": "body25"}}, "pose"),
    ({"pose": {"people": [[[0.5, 2.01]] * 18]}}, "pose"),
    ({"pose": {"people": [{"pose_keypoints_2d": [1.0] * 54}]}}, "person 0 is an object, as OpenPose writes it"),
    ({"pose": {"people": [[[0.5, 0.5, 0.9, 0.9]] * 18]}}, "pose"),
    ({"pose": {"people": [[1.0] * 54]}}, "person 0 has its numbers in a row"),
    ({"pose": {"people": [PERSON18, [[640, 400]] * 18]}}, "person 1 has coordinates in pixels"),
    ({"pose": {"people": [[[0.5, float("nan")]] * 18]}}, "pose"),
    ({"pose": {"people": [[[0.5, "0.5"]] * 18]}}, "pose"),
    ({"pose": {"people": [[[0.5]] * 18]}}, "pose"),
    ({"pose": {"image": {}}}, "pose"),
    ({"pose": {"image": {"bucket": "abc"}}}, "pose"),
    ({"pose": {"image": {"key": "abc"}}}, "pose"),
    ({"pose": {"image": {"bucket": "abc", "key": "k", "inline": "aaaa"}}}, "pose"),
    ({"pose": {"image": {"bucket": "ABC", "key": "k"}}}, "pose"),
    ({"pose": {"image": {"bucket": "abc", "key": "/k"}}}, "pose"),
    ({"pose": {"image": {"bucket": "abc", "key": "a/../b"}}}, "pose"),
    ({"pose": {"image": {"bucket": "abc", "key": ""}}}, "pose"),
    ({"pose": {"image": {"bucket": "abc", "key": "a\x00"}}}, "pose"),
    ({"pose": {"image": {"bucket": "abc", "key": "é" * 600}}}, "pose"),
    ({"pose": {"image": {"inline": "not base64!"}}}, "pose"),
    ({"pose": {"image": {"inline": "YWJj\nZGVm"}}}, "pose"),
    ({"pose": {"image": {"inline": "YWJ"}}}, "pose"),
    ({"pose": {"image": {"inline": "YWJé"}}}, "pose"),
    ({"pose": {"image": {"inline": ""}}}, "pose"),
    ({"pose": {"photo": {"inline": base64.b64encode(b"x" * (INLINE_BYTES_MAX + 1)).decode()}}}, "pose"),
]


@pytest.mark.parametrize("fields", ACCEPTED, ids=",".join)
def test_accepted(fields: dict[str, Any]) -> None:
    read(**fields)


@pytest.mark.parametrize(("fields", "blamed"), REFUSED, ids=lambda part: str(part)[:40])
def test_refused_and_the_field_is_named(fields: dict[str, Any], blamed: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(**fields)
    named = {str(part) for error in caught.value.errors() for part in (*error["loc"], error["msg"])}
    assert any(blamed in part for part in named)


@pytest.mark.parametrize("missing", ["request_id", "prompt"])
def test_required_fields(missing: str) -> None:
    whole = {"request_id": "r", "prompt": "p"}
    del whole[missing]
    with pytest.raises(ValidationError, match="Field required"):
        GenerationRequest.model_validate_json(json.dumps(whole))


def test_deadlines_are_held_in_utc() -> None:
    for text in ("2027-01-31T14:00:00+02:00", "2027-01-31t12:00:00z"):
        deadline = read(deadline=text).deadline
        assert deadline == datetime(2027, 1, 31, 12, tzinfo=UTC)
        assert deadline.tzinfo is UTC


def test_poses_are_told_apart_and_typed() -> None:
    people = read(pose={"people": [PERSON18]}).pose
    assert isinstance(people, PeoplePose)
    assert people.people[0][0] == (0.5, 0.25)
    assert people.people[0][17] is None
    skeleton = read(pose={"image": {"bucket": "abc", "key": "k.png"}}).pose
    assert isinstance(skeleton, SkeletonPose)
    assert skeleton.image == StoredPicture(bucket="abc", key="k.png")
    photo = read(pose={"photo": {"inline": "YWJj"}}).pose
    assert isinstance(photo, PhotoPose)
    assert isinstance(photo.photo, InlinePicture)
    assert photo.photo.content == b"abc"


def test_python_callers_may_pass_lists_and_models() -> None:
    pose = PeoplePose.model_validate({"people": [PERSON18]})
    request = GenerationRequest(request_id="r", prompt="p", pose=pose)
    assert request == read(pose={"people": [PERSON18]})
    assert (
        GenerationRequest.model_validate({"request_id": "r", "prompt": "p", "pose": {"people": [PERSON18]}}) == request
    )


def test_requests_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read().steps = 3


@pytest.mark.parametrize(
    ("init", "says"),
    [
        ({"image": INLINE, "strength": 0}, "init.strength is 0, which would give the picture back"),
        ({"image": INLINE, "strength": 1}, "init.strength is 1, which would paint all of it anew"),
        ({"image": INLINE, "strength": 0.2}, "init.strength is 0.2, which leaves none of 4 steps to take"),
        ({"image": INLINE, "strength": 1.5}, "less than or equal to 1"),
        ({"image": INLINE, "strength": -0.5}, "greater than or equal to 0"),
        ({"image": INLINE, "fit": "fill"}, "'stretch', 'contain' or 'cover'"),
        ({"strength": 0.5}, "Field required"),
        ({"image": "AAAA"}, "inline"),
    ],
)
def test_a_picture_to_start_from_says_what_is_wrong_with_it(init: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        GenerationRequest.model_validate({"request_id": "r", "prompt": "p", "steps": 4, "init": init})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"init": None}, "give the picture as init"),
        ({"sampler": "unipc"}, "would undo the mask between steps: use dpmpp_2m"),
        ({"sampler": "heun"}, "would undo the mask between steps"),
        ({"mask": {"image": INLINE, "blur": -1}}, "greater than or equal to 0"),
        ({"mask": {"image": INLINE, "composite": 1}}, "valid boolean"),
        ({"mask": {"blur": 4}}, "Field required"),
    ],
)
def test_a_mask_says_what_is_wrong_with_it(fields: dict[str, Any], says: str) -> None:
    init = {"image": INLINE, "strength": 1}
    whole = {"request_id": "r", "prompt": "p", "init": init, "mask": {"image": INLINE}}
    assert GenerationRequest.model_validate(whole).mask is not None, "with a mask the strength may be 1"
    with pytest.raises(ValidationError, match=says):
        GenerationRequest.model_validate({**whole, **fields})


def test_a_recipes_steps_count_for_the_strength() -> None:
    asked = {"request_id": "r", "prompt": "p", "recipe": "long", "init": {"image": INLINE, "strength": 0.01}}
    request = GenerationRequest.model_validate(asked)
    assert parse_recipes("[long]\nsteps = 120").filled(request).steps == 120
    with pytest.raises(RequestRejected, match="leaves none of 20 steps"):
        parse_recipes("[long]\nsteps = 20").filled(request)
    left_out = GenerationRequest.model_validate({**asked, "recipe": None, "init": {"image": INLINE, "strength": None}})
    assert left_out.init is not None
    assert (left_out.init.strength, left_out.init.fit) == (0.6, "stretch")
