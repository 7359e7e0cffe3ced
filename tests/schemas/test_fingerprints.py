"""Digests: the same ask gives the same digest however it is written, another ask another, and seeds stay in range."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.schemas.events.request import SEED_MAX, GenerationRequest, effective_steps
from darkroom.schemas.wire.digests import DERIVED_SEED_MAX, derived_seed, raw_digest, render_digest, request_digest
from tests.schemas.strategies import IDENTITIES, request_objects

PERSON: list[Any] = [[0.5, 0.25]] * 18


def read(fields: dict[str, Any]) -> GenerationRequest:
    return GenerationRequest.model_validate_json(json.dumps(fields), extra="ignore")


def request(**fields: Any) -> GenerationRequest:
    return read({"request_id": "r", "prompt": "p", **fields})


@settings(max_examples=150, deadline=None)
@given(st.data(), request_objects(), st.dictionaries(st.text(min_size=30), st.none() | st.integers(), max_size=3))
def test_order_unknown_fields_and_written_defaults_do_not_matter(
    data: st.DataObject, fields: dict[str, Any], unknown: dict[str, Any]
) -> None:
    asked = read(fields)
    shuffled = dict(data.draw(st.permutations([*fields.items(), *unknown.items()])))
    assert request_digest(read(shuffled)) == request_digest(asked)
    with_defaults = GenerationRequest.model_validate_json(asked.model_dump_json())
    assert request_digest(with_defaults) == request_digest(asked)
    assert render_digest(with_defaults, "m", "s") == render_digest(asked, "m", "s")


@settings(max_examples=100, deadline=None)
@given(request_objects())
def test_what_is_derived_may_be_written_out(fields: dict[str, Any]) -> None:
    asked = read(fields)
    spelled = {**fields, "steps": effective_steps(asked), "preset": "quality"}
    spelled["seed"] = derived_seed(asked.tenant, asked.request_id) if asked.seed is None else asked.seed
    assert request_digest(read(spelled)) == request_digest(asked)


@pytest.mark.parametrize(
    "changed",
    [
        {"deadline": "2027-01-31T12:00:00Z"},
        {"priority": 9},
        {"progress": "steps"},
        {"labels": {"a": "b"}},
        {"guidance_scale": 5},
        {"control_start": -0.0},
    ],
    ids=str,
)
def test_how_it_is_treated_is_not_what_is_asked(changed: dict[str, Any]) -> None:
    assert request_digest(request(**changed)) == request_digest(request())
    assert render_digest(request(**changed), "m", "s") == render_digest(request(), "m", "s")


@pytest.mark.parametrize(
    "changed",
    [
        {"request_id": "other"},  # by its derived seed
        {"tenant": "other"},
        {"prompt": "q"},
        {"negative_prompt": ""},
        {"preset": "quality"},
        {"width": 64},
        {"height": 64},
        {"steps": 23},
        {"guidance_scale": 5.1},
        {"sampler": "euler"},
        {"seed": 1},
        {"count": 2},
        {"pose": {"people": [PERSON]}},
        {"pose": {"image": {"bucket": "abc", "key": "k"}}},
        {"pose": {"photo": {"bucket": "abc", "key": "k"}}},
        {"adapter": {"name": "ink"}},
        {"output": {"format": "webp"}},
    ],
    ids=str,
)
def test_another_ask_has_another_digest(changed: dict[str, Any]) -> None:
    assert request_digest(request(**changed)) != request_digest(request())
    assert render_digest(request(**changed), "m", "s") != render_digest(request(), "m", "s")


def test_each_field_changes_the_digest_in_its_own_way() -> None:
    digests = {
        request_digest(request(pose=pose))
        for pose in (
            {"people": [PERSON]},
            {"people": [PERSON[:17]], "format": "coco17"},
            {"image": {"bucket": "abc", "key": "k"}},
            {"photo": {"bucket": "abc", "key": "k"}},
            {"image": {"inline": "YWJj"}},
            {"photo": {"inline": "YWJj"}},
        )
    }
    assert len(digests) == 6


def test_render_digest_leaves_out_what_paints_nothing() -> None:
    assert render_digest(request(control_scale=0.5), "m", "s") == render_digest(request(), "m", "s")
    assert request_digest(request(control_scale=0.5)) != request_digest(request())
    png = {"output": {"format": "png", "quality": 10}}
    assert render_digest(request(**png), "m", "s") == render_digest(request(), "m", "s")
    low, high = ({"output": {"format": "webp", "quality": quality}} for quality in (10, 90))
    assert render_digest(request(**low), "m", "s") != render_digest(request(**high), "m", "s")
    posed = {"pose": {"people": [PERSON]}}
    assert render_digest(request(**posed, control_scale=0.5), "m", "s") != render_digest(request(**posed), "m", "s")


def test_render_digest_knows_what_an_adapters_name_stands_for() -> None:
    adapted = request(adapter={"name": "ink", "weight": 0.5})
    stronger = request(adapter={"name": "ink", "weight": 0.6})
    digests = {
        render_digest(adapted, "m", "s", adapter_digest="sha256:1"),
        render_digest(adapted, "m", "s", adapter_digest="sha256:2"),
        render_digest(stronger, "m", "s", adapter_digest="sha256:1"),
        render_digest(request(), "m", "s"),
    }
    assert len(digests) == 4
    assert render_digest(request(), "m", "s", adapter_digest="sha256:1") == render_digest(request(), "m", "s")


def test_render_digest_knows_model_and_sampler() -> None:
    digests = {render_digest(request(), *provenance) for provenance in (("m", "s"), ("n", "s"), ("m", "t"))}
    assert len(digests) == 3
    assert request_digest(request()) not in digests


def test_a_stored_pose_counts_by_its_bytes_where_they_are_known() -> None:
    stored = request(pose={"image": {"bucket": "abc", "key": "k"}})
    moved = request(pose={"image": {"bucket": "abc", "key": "elsewhere"}})
    inline = request(pose={"image": {"inline": base64.b64encode(b"picture").decode()}})
    assert render_digest(stored, "m", "s") != render_digest(moved, "m", "s")
    same = {render_digest(pose, "m", "s", pose_picture=b"picture") for pose in (stored, moved, inline)}
    assert same == {render_digest(inline, "m", "s")}
    assert render_digest(stored, "m", "s", pose_picture=b"other") not in same


def test_a_photos_pictures_depend_on_the_detector_and_no_others_do() -> None:
    picture = {"inline": base64.b64encode(b"picture").decode()}
    for pose, depends in (
        (None, False),
        ({"people": [PERSON]}, False),
        ({"image": picture}, False),
        ({"photo": picture}, True),
    ):
        one, other = (render_digest(request(pose=pose), "m", "s", pose_detector=name) for name in ("one", "other"))
        assert (one != other) is depends


def test_digests_do_not_change_between_releases() -> None:
    """Stored outcomes are compared with these for as long as objects are kept."""
    asked = request(pose={"people": [PERSON]}, seed=7, labels={"a": "b"})
    assert request_digest(asked) == GOLDEN_REQUEST
    assert render_digest(asked, "sha256:0", "1") == GOLDEN_RENDER
    assert derived_seed("default", "r") == GOLDEN_SEED


def test_raw_digest_is_plain_sha256() -> None:
    assert raw_digest(b"abc") == "sha256:" + hashlib.sha256(b"abc").hexdigest()


@given(IDENTITIES, IDENTITIES)
def test_derived_seeds_leave_room_for_every_image(tenant: str, request_id: str) -> None:
    seed = derived_seed(tenant, request_id)
    assert 0 <= seed <= DERIVED_SEED_MAX
    assert seed == derived_seed(tenant, request_id)
    read({"request_id": request_id, "tenant": tenant, "prompt": "p", "seed": seed, "count": 8})
    assert SEED_MAX - DERIVED_SEED_MAX == 8


def test_identities_that_join_alike_have_their_own_seeds() -> None:
    assert derived_seed("a", "b") != derived_seed("b", "a")
    assert derived_seed("a.b", "c") != derived_seed("a", "b.c")


GOLDEN_REQUEST = "sha256:473558be84d4788f0f6bdbc71e8e6d707dcb8a6779bf84690023950dfdbf62af"
GOLDEN_RENDER = "sha256:36f61cc59a7aab7fc7ec1116520748372b808c41af0220d5b098ad0a69d1371f"
GOLDEN_SEED = 2527486291309879
