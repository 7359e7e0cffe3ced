"""The list of fields that are not honoured: closed, free of those that are, and silent about what asks for nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from darkroom.schemas import publish
from darkroom.schemas.errors import MESSAGE_CHARACTERS_MAX, ErrorCode, RequestRejected
from darkroom.schemas.events import unsupported
from darkroom.schemas.events.controls import Control
from darkroom.schemas.events.request import Adapter, GenerationRequest, Output
from darkroom.schemas.events.unsupported import UnknownField, refusal_of, remedy_of
from darkroom.schemas.events.unsupported_names import CALLED_OTHERWISE, IN_PARTS, NOT_HONOURED
from darkroom.schemas.events.unsupported_synonyms import SYNONYMS
from darkroom.schemas.wire.codec import decode_request

NAMES = (*NOT_HONOURED, *CALLED_OTHERWISE, *SYNONYMS)
RESERVED = (
    "controls", "reference", "upscale", "fit", "model",
)  # fmt: skip
"""Fields that the request may come to have: until then whoever sends one is told so."""


def refused(**fields: Any) -> RequestRejected:
    with pytest.raises(RequestRejected) as caught:
        decode_request(json.dumps({"request_id": "r", "tenant": "t", "prompt": "p", **fields}).encode())
    return caught.value


def plain(name: str) -> str:
    return name.replace("_", "")


def test_no_listed_name_is_a_field_that_is_honoured() -> None:
    assert not {plain(name) for name in NAMES} & {plain(name) for name in GenerationRequest.model_fields}
    for part, model in (("adapter", Adapter), ("adapters", Adapter), ("controls", Control), ("output", Output)):
        assert not set(IN_PARTS[part]) & set(model.model_fields)


def test_each_name_stands_once_in_one_spelling() -> None:
    assert len({plain(name) for name in NAMES}) == len(NAMES)
    assert all(name == name.lower() and name.replace("_", "").isalnum() for name in NAMES)
    assert set(unsupported._SAME_ANYWAY) <= set(NAMES)


def test_fields_of_another_kind_of_pose_are_unknown_and_nothing_worse() -> None:
    pose = {"image": {"bucket": "abc", "key": "k"}, "format": "coco18", "inline": "YWJj"}
    decoded = decode_request(json.dumps({"request_id": "r", "prompt": "p", "pose": pose}).encode())
    assert decoded.unknown_fields == ("pose.format", "pose.inline")


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_names_are_refused_until_they_are_fields(name: str) -> None:
    if name not in GenerationRequest.model_fields:
        assert refused(**{name: "something"}).code is ErrorCode.UNSUPPORTED_FIELD


@pytest.mark.parametrize("name", NAMES)
def test_every_listed_name_is_refused_with_its_remedy(name: str) -> None:
    error = refused(**{name: {"any": "thing"}})
    assert (error.code, error.request_id, error.tenant) == (ErrorCode.UNSUPPORTED_FIELD, "r", "t")
    assert error.message == f"{name}: {remedy_of(name)}"
    for field in set(CALLED_OTHERWISE.get(name, "").split("`")[1::2]):
        assert field.split(".")[0] in GenerationRequest.model_fields


def test_synonyms_stand_for_listed_names() -> None:
    assert set(SYNONYMS.values()) <= {*NOT_HONOURED, *CALLED_OTHERWISE}
    assert remedy_of("use_lora_model") == remedy_of("loras")


def test_numbers_that_count_do_not_matter() -> None:
    for name in ("lora_2", "lora2", "controlnet_1_image", "image3"):
        assert refused(**{name: "x"}).message.startswith(f"{name}: ")
    assert [remedy_of(name) for name in ("n2", "p95", "base64", "sha256", "utf8", "order_3")] == [None] * 6


@pytest.mark.parametrize(
    "spelling", ["init_image", "initImage", "InitImage", "init-image", "INIT_IMAGE", "initimage", "init image"]
)
def test_spellings_do_not_matter(spelling: str) -> None:
    assert refused(**{spelling: "s3://b/k.png"}).message.startswith(f"{spelling}: ")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"negativePrompt": "blurry"}, "negativePrompt: it is spelt `negative_prompt`"),
        ({"Steps": 30}, "Steps: it is spelt `steps`"),
        ({"guidanceScale": 0}, "guidanceScale: it is spelt `guidance_scale`"),
        ({"num_inference_steps": 30}, "num_inference_steps: use `steps`"),
        ({"cfg": 7}, "cfg: use `guidance_scale`"),
        (
            {"adapters": [{"name": "ink"}, {"name": "oil", "strength_clip": 1}]},
            "adapters.1.strength_clip: use `text_weight`",
        ),
        ({"adapter": {"name": "ink", "scale": 0.4}}, "adapter.scale: use `weight`"),
        ({"adapter": {"name": "ink", "textWeight": 0.4}}, "adapter.textWeight: it is spelt `text_weight`"),
        (
            {"controls": [{"kind": "canny", "image": {"bucket": "abc", "key": "k"}, "weight": 0.5}]},
            "controls.0.weight: it is spelt `scale`",
        ),
        ({"controlnet_units": [{"model": "canny"}]}, "controlnet_units: use `controls`"),
        ({"output": {"width": 512}}, "output.width: it belongs to the request itself, as `width`"),
        ({"output": {"lossless": True}}, "output.lossless: use png"),
        ({"pose": {"image": {"bucket": "abc", "key": "k"}, "strength": 0.5}}, "pose.strength: use `control_scale`"),
        ({"init": {"image": {"bucket": "abc", "key": "k"}, "denoise": 0.5}}, "init.denoise: use `init.strength`"),
        (
            {
                "init": {"image": {"bucket": "abc", "key": "k"}},
                "mask": {"image": {"bucket": "abc", "key": "m"}, "padding": 32},
            },
            "mask.padding: the picture is painted whole",
        ),
        ({"pose": {"image": {"bucket": "abc", "key": "k", "mask_blur": 4}}}, "pose.image.mask_blur: a mask is `mask`"),
    ],
    ids=str,
)
def test_the_message_names_the_field_and_what_to_do(fields: dict[str, Any], message: str) -> None:
    error = refused(**fields)
    assert error.code is ErrorCode.UNSUPPORTED_FIELD
    assert error.message.startswith(message)


@pytest.mark.parametrize("nothing", [False, "", [], {}, 0, 0.0, "None", "auto"], ids=repr)
def test_a_field_that_asks_for_nothing_is_an_unknown_field(nothing: Any) -> None:
    decoded = decode_request(json.dumps({"request_id": "r", "prompt": "p", "init_image": nothing}).encode())
    assert decoded.unknown_fields == ("init_image",)


def test_null_for_a_field_that_is_not_there_is_no_field() -> None:
    decoded = decode_request(json.dumps({"request_id": "r", "prompt": "p", "init_image": None}).encode())
    assert (decoded.unknown_fields, decoded.warnings) == ((), ())


@pytest.mark.parametrize(
    "same",
    [{"n_iter": 1}, {"image_seed": -1},
     {"refine": "no_refiner"}, {"s_noise": 1.0}, {"output_format": "PNG"}],
    ids=str,
)  # fmt: skip
def test_a_value_that_is_done_anyway_asks_for_nothing(same: dict[str, Any]) -> None:
    assert refusal_of(GenerationRequest, [UnknownField((name,), value) for name, value in same.items()]) is None


def test_zero_asks_for_something_where_darkroom_has_the_field() -> None:
    assert refused(cfg_scale=0).code is ErrorCode.UNSUPPORTED_FIELD
    assert refused(n_iter=2).code is ErrorCode.UNSUPPORTED_FIELD


@pytest.mark.parametrize(
    "harmless", [{"save_images": True}, {"webhook": "x"}, {"Priority": 3}, {"user": "x"}, {"output": {"dpi": 300}}],
    ids=str,
)  # fmt: skip
def test_other_unknown_fields_stay_warnings(harmless: dict[str, Any]) -> None:
    decoded = decode_request(json.dumps({"request_id": "r", "prompt": "p", **harmless}).encode())
    assert len(decoded.unknown_fields) == 1


def test_labels_are_the_requesters_own() -> None:
    labels = {"mask": "m", "steps": "30"}
    assert decode_request(json.dumps({"request_id": "r", "prompt": "p", "labels": labels}).encode()).warnings == ()


def test_many_fields_make_one_message_that_fits() -> None:
    error = refused(**dict.fromkeys(NAMES, "x"), **{"x" * 100_000: 1})
    assert len(error.message) <= MESSAGE_CHARACTERS_MAX
    assert error.message.startswith(f"{NAMES[0]}: ")
    longest = sorted(NAMES, key=lambda name: len(f"{name}: {remedy_of(name)}"))[-unsupported.FIELDS_NAMED_MAX :]
    message = refusal_of(GenerationRequest, [UnknownField((name,), "x") for name in dict.fromkeys((*longest, *NAMES))])
    assert message is not None
    assert message.endswith(f"; and {len(NAMES) - unsupported.FIELDS_NAMED_MAX} more")
    assert len(message) < MESSAGE_CHARACTERS_MAX + 200


@pytest.mark.parametrize(
    "make",
    [
        lambda: GenerationRequest(request_id="r", prompt="p", init_image="x"),
        lambda: GenerationRequest(request_id="r", prompt="p", adapter=Adapter(name="ink", scale=0.4)),
        lambda: GenerationRequest.model_validate({"request_id": "r", "prompt": "p", "output": {"dpi": 3}}),
    ],
)
def test_a_program_that_makes_a_request_of_another_field_is_told(make: Any) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        make()


def test_the_table_is_published() -> None:
    published = publish.document("unsupported-fields")
    assert set(published["request"]) == set(NAMES)
    assert published["request"]["cfg_scale"] == "use `guidance_scale`"
    assert published["adapter"] == dict(IN_PARTS["adapter"])
