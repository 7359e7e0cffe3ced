"""What `resolve` fills in, what it refuses, and what a PNG will say of itself."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.inference.resolve import batch_key, resolve
from darkroom.inference.types import AdapterUse, BatchKey, ModelInfo
from darkroom.schemas.errors import ErrorCode, RequestRejected
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import LimitSettings
from darkroom.schemas.wire.digests import derived_seed, raw_digest

INFO = ModelInfo(
    name="model",
    revision="sha256:" + "1" * 64,
    native_width=512,
    native_height=768,
    size_multiple=64,
    latent_factor=8,
    device="cpu",
    dtype="float32",
    sampler_version="1",
)
SEEING = replace(INFO, pose_detector="sha256:" + "2" * 64)
"""The same with a detector of people in photos."""
LIMITS = LimitSettings()
PERSON = [[0.5, 0.1 + point / 40] for point in range(18)]


def asked(**fields: Any) -> GenerationRequest:
    whole = {"request_id": "r-1", "tenant": "studio", "prompt": "a dancer", **fields}
    return GenerationRequest.model_validate_json(json.dumps(whole))


def refused(info: ModelInfo = INFO, limits: LimitSettings = LIMITS, **fields: Any) -> RequestRejected:
    with pytest.raises(RequestRejected) as caught:
        resolve(asked(**fields), info, limits)
    assert (caught.value.request_id, caught.value.tenant) == ("r-1", "studio")
    return caught.value


def test_what_is_left_open_is_filled_in() -> None:
    resolved = resolve(asked(), INFO, LIMITS)
    assert (resolved.width, resolved.height) == (512, 768)
    assert resolved.steps == 22
    assert resolved.seed == derived_seed("studio", "r-1")
    assert (resolved.count, resolved.guidance_scale, resolved.sampler) == (1, 5.0, "euler_ancestral")
    assert (resolved.negative_prompt, resolved.pose) == (None, None)
    assert (resolved.image_format, resolved.image_quality) == ("png", 90)


def test_what_was_said_is_kept() -> None:
    resolved = resolve(
        asked(
            negative_prompt="",
            preset="quality",
            width=128,
            height=64,
            guidance_scale=1.5,
            sampler="euler",
            seed=0,
            count=3,
            pose={"people": [PERSON]},
            control_scale=0.5,
            control_start=0.1,
            control_end=0.9,
            output={"format": "webp", "quality": 70},
        ),
        INFO,
        LIMITS,
    )
    assert (resolved.prompt, resolved.negative_prompt) == ("a dancer", "")
    assert (resolved.width, resolved.height, resolved.steps) == (128, 64, 35)
    assert (resolved.guidance_scale, resolved.sampler, resolved.seed, resolved.count) == (1.5, "euler", 0, 3)
    assert resolved.pose is not None
    assert (resolved.control_scale, resolved.control_start, resolved.control_end) == (0.5, 0.1, 0.9)
    assert (resolved.image_format, resolved.image_quality) == ("webp", 70)


def test_explicit_steps_win_over_the_preset() -> None:
    assert resolve(asked(preset="quality", steps=7), INFO, LIMITS).steps == 7


@pytest.mark.parametrize(
    ("fields", "limits", "code", "what"),
    [
        ({"width": 2112}, {}, ErrorCode.IMAGE_TOO_LARGE, "width is 2112: at most 2048"),
        ({"height": 2112}, {}, ErrorCode.IMAGE_TOO_LARGE, "height is 2112: at most 2048"),
        ({}, {"max_height": 640}, ErrorCode.IMAGE_TOO_LARGE, "height is 768: at most 640"),
        (
            {"width": 1024, "height": 1024},
            {"max_pixels": 1_000_000},
            ErrorCode.IMAGE_TOO_LARGE,
            "is 1048576: at most 1000000 pixels",
        ),
        ({"width": 64}, {"min_side": 128}, ErrorCode.INVALID_REQUEST, "width is 64: at least 128"),
        ({"height": 16}, {}, ErrorCode.INVALID_REQUEST, "height is 16: at least 64"),
        ({"width": 520}, {}, ErrorCode.INVALID_REQUEST, "width is 520: model 'model' paints multiples of 64"),
        ({"height": 520}, {}, ErrorCode.INVALID_REQUEST, "height is 520: model 'model' paints multiples of 64"),
        ({"steps": 51}, {"max_steps": 50}, ErrorCode.INVALID_REQUEST, "steps is 51: at most 50"),
        ({"preset": "quality"}, {"max_steps": 30}, ErrorCode.INVALID_REQUEST, "steps is 35: at most 30"),
        ({"count": 5}, {"max_count": 4}, ErrorCode.INVALID_REQUEST, "count is 5: at most 4"),
        ({"adapter": {"name": "ink"}}, {}, ErrorCode.UNKNOWN_ADAPTER, "adapter 'ink' is not known"),
    ],
)
def test_what_is_out_of_bounds_is_refused(
    fields: dict[str, Any], limits: dict[str, int], code: ErrorCode, what: str
) -> None:
    rejected = refused(limits=LimitSettings(**limits), **fields)
    assert rejected.code is code
    assert what in rejected.message


def test_a_pose_needs_a_controlnet() -> None:
    without = replace(INFO, takes_pose=False)
    assert refused(info=without, pose={"people": [PERSON]}).code is ErrorCode.MODEL_MISMATCH
    assert resolve(asked(), without, LIMITS).pose is None


def test_an_adapter_is_one_of_the_models() -> None:
    having = replace(INFO, adapters={name: raw_digest(name.encode()) for name in ("ink", "oil")})
    resolved = resolve(asked(adapter={"name": "ink", "weight": 0.5}), having, LIMITS)
    assert resolved.adapters == (AdapterUse("ink", 0.5),)
    assert refused(info=having, adapters=[{"name": "ink"}, {"name": "tar"}]).code == "unknown_adapter"
    said = json.loads(resolved.image_text["darkroom:request"])["adapter"]
    assert said == {"name": "ink", "weight": 0.5, "digest": raw_digest(b"ink")}
    rejected = refused(info=having, adapter={"name": "tar"})
    assert (rejected.code, rejected.message) == (
        ErrorCode.UNKNOWN_ADAPTER,
        "adapter 'tar' is not known: this worker has ink, oil",
    )
    having = replace(having, adapters_refused={"tar": "The adapter file tar.safetensors is torn: copy it again."})
    rejected = refused(info=having, adapter={"name": "tar"})
    assert rejected.code is ErrorCode.UNKNOWN_ADAPTER
    assert rejected.message == ("adapter 'tar' is refused: The adapter file tar.safetensors is torn: copy it again.")
    many = replace(INFO, adapters={f"a{number}": "" for number in range(9)})
    assert refused(info=many, adapter={"name": "tar"}).message.endswith("a3, a4 and others")
    assert batch_key(resolved, having) == batch_key(resolve(asked(), having, LIMITS), having)


def test_bounds_are_allowed_themselves() -> None:
    exact = LimitSettings(max_width=512, max_height=768, max_pixels=512 * 768, min_side=512, max_steps=22, max_count=2)
    assert resolve(asked(count=2), INFO, exact).count == 2


def test_a_batch_key_is_the_latents_size_and_the_model() -> None:
    resolved = resolve(asked(width=1024, height=512), INFO, LIMITS)
    assert batch_key(resolved, INFO) == BatchKey(latent_height=64, latent_width=128, revision=INFO.revision)


def test_a_batch_key_holds_nothing_that_is_a_rows_own() -> None:
    one = resolve(asked(), INFO, LIMITS)
    other = resolve(
        asked(prompt="a horse", steps=3, seed=4, guidance_scale=9, control_scale=0.1, count=2), INFO, LIMITS
    )
    assert batch_key(one, INFO) == batch_key(other, INFO)


# --- What a PNG says of itself --------------------------------------------------------------------------


def test_a_png_says_what_was_asked_and_what_painted_it() -> None:
    text = dict(resolve(asked(seed=5, count=2), INFO, LIMITS).image_text)
    said = json.loads(text.pop("darkroom:request"))
    assert said == {
        "tenant": "studio",
        "request_id": "r-1",
        "prompt": "a dancer",
        "negative_prompt": None,
        "width": 512,
        "height": 768,
        "steps": 22,
        "guidance_scale": 5.0,
        "sampler": "euler_ancestral",
        "seed": 5,
        "count": 2,
        "output": {"format": "png", "quality": 90},
    }
    assert text == {
        "Software": "darkroom",
        "darkroom:model": "model",
        "darkroom:revision": INFO.revision,
    }


def test_the_text_is_canonical() -> None:
    text = resolve(asked(prompt="naïve ☃"), INFO, LIMITS).image_text["darkroom:request"]
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert text.isascii()


def test_how_a_request_is_treated_does_not_change_the_file() -> None:
    plain = resolve(asked(), INFO, LIMITS)
    treated = asked(
        priority=9, progress="previews", labels={"campaign": "spring"}, deadline="2030-01-01T00:00:00Z", preset="fast"
    )
    assert resolve(treated, INFO, LIMITS) == plain


def test_poses_are_said_an_inline_picture_by_its_digest() -> None:
    def pose_said(pose: dict[str, Any]) -> Any:
        return json.loads(resolve(asked(pose=pose), SEEING, LIMITS).image_text["darkroom:request"])["pose"]

    assert pose_said({"people": [PERSON]}) == {"people": [PERSON], "format": "coco18"}
    stored = {"bucket": "darkroom", "key": "studio/pose.png"}
    assert pose_said({"image": stored}) == {"image": stored}
    assert pose_said({"photo": stored}) == {"photo": stored}
    inline = {"inline": base64.b64encode(b"picture").decode()}
    assert pose_said({"image": inline}) == {"image": raw_digest(b"picture")}


def test_a_photo_needs_a_detector_and_its_picture_names_it() -> None:
    photo = {"photo": {"bucket": "darkroom", "key": "studio/photo.jpg"}}
    rejected = refused(pose=photo)
    assert rejected.code is ErrorCode.POSE_UNREADABLE
    assert "DARKROOM_MODEL__POSE_DETECTOR_PATH" in rejected.message
    text = resolve(asked(pose=photo), SEEING, LIMITS).image_text
    assert text["darkroom:pose_detector"] == SEEING.pose_detector
    for pose in (None, {"people": [PERSON]}, {"image": photo["photo"]}):
        assert resolve(asked(pose=pose), SEEING, LIMITS) == resolve(asked(pose=pose), INFO, LIMITS)


@settings(deadline=None, max_examples=150)
@given(
    width=st.none() | st.integers(16, 4096),
    height=st.none() | st.integers(16, 4096),
    steps=st.none() | st.integers(1, 150),
    count=st.integers(1, 8),
    seed=st.none() | st.integers(0, 2**53 - 9),
    max_steps=st.integers(1, 150),
)
def test_whatever_is_resolved_is_within_bounds_and_whole(
    width: int | None, height: int | None, steps: int | None, count: int, seed: int | None, max_steps: int
) -> None:
    limits = LimitSettings(max_steps=max_steps, max_count=4)
    request = asked(width=width, height=height, steps=steps, count=count, seed=seed)
    try:
        resolved = resolve(request, INFO, limits)
    except RequestRejected:
        # Which code and when, the examples above say.
        return
    assert resolved.width % INFO.size_multiple == resolved.height % INFO.size_multiple == 0
    assert limits.min_side <= resolved.width <= limits.max_width
    assert limits.min_side <= resolved.height <= limits.max_height
    assert resolved.width * resolved.height <= limits.max_pixels
    assert resolved.steps <= limits.max_steps
    assert resolved.count <= limits.max_count
    assert 0 <= resolved.seed <= resolved.seed + resolved.count - 1 <= 2**53 - 1
    key = batch_key(resolved, INFO)
    assert (key.latent_height * 8, key.latent_width * 8) == (resolved.height, resolved.width)
