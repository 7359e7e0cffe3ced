"""Digests: the same ask gives the same digest however it is written, another ask another, and seeds stay in range."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.schemas.events.fields import FieldFacts, Named, Option, facts_of
from darkroom.schemas.events.request import SEED_MAX, GenerationRequest, Output, effective_steps
from darkroom.schemas.wire.digests import (
    DERIVED_SEED_MAX,
    derived_seed,
    picture_text,
    raw_digest,
    render_digest,
    request_digest,
)
from tests.schemas.strategies import IDENTITIES, request_objects

PERSON: list[Any] = [[0.5, 0.25]] * 18
GOLDEN: list[tuple[dict[str, Any], str, str]] = [
    ({}, "11d01a28c88de762", "d69487a0e042cbb6"),
    ({"negative_prompt": ""}, "64b2a7623469ac6c", "cd40fd33a3bc6e4d"),
    (
        {
            "tenant": "studio",
            "preset": "quality",
            "width": 1024,
            "height": 768,
            "seed": 7,
            "count": 2,
            "guidance_scale": 5,
        },
        "c0d2a751cd245db7",
        "2e274546a7ab2bce",
    ),
    (
        {
            "steps": 30,
            "sampler": "euler",
            "priority": 9,
            "progress": "previews",
            "labels": {"a": "b"},
            "deadline": "2027-01-31T12:00:00Z",
        },
        "b54325084b576c3d",
        "c6b40139f59f516f",
    ),
    ({"pose": {"people": [[*PERSON[:17], None]]}}, "4466d4e711bb0584", "a4272c3437f95bce"),
    (
        {
            "pose": {"people": [PERSON[:17]], "format": "coco17"},
            "control_scale": 0.8,
            "control_start": 0.1,
            "control_end": 0.9,
        },
        "d803c12d3dfcf7ef",
        "62c936bc20155614",
    ),
    (
        {"pose": {"image": {"bucket": "abc", "key": "k"}}, "output": {"format": "webp", "quality": 85}},
        "15877c2e2022f488",
        "2236dfacc5459891",
    ),
    ({"pose": {"image": {"inline": "YWJj"}}, "output": {"quality": 10}}, "0cc94332bfaa64d7", "e2cc488e196b9281"),
    ({"pose": {"photo": {"inline": "YWJj"}}, "control_scale": -0.0}, "dc6d6ad18d634503", "0d05ff888ef17fa2"),
    ({"pose": {"photo": {"bucket": "abc", "key": "k"}}}, "f5d5936e93c1a526", "057cbb9ac6e53718"),
    ({"adapter": {"name": "ink"}}, "850c66e2804d226d", "e17f4442f8ee4a46"),
    (
        {"adapter": {"name": "t\u00ef", "weight": -0.5}, "control_scale": 0.5, "prompt": "\u00e9t\u00e9 \u2603"},
        "19f5e41d0f63676b",
        "9ce6b4ed2e4fb096",
    ),
]
"""Requests, and the first 16 digits of the request and the render digest that they always had."""


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
        render_digest(adapted, "m", "s", adapter_digests={"ink": "sha256:1"}),
        render_digest(adapted, "m", "s", adapter_digests={"ink": "sha256:2"}),
        render_digest(stronger, "m", "s", adapter_digests={"ink": "sha256:1"}),
        render_digest(request(), "m", "s"),
    }
    assert len(digests) == 4
    assert render_digest(request(), "m", "s", adapter_digests={"ink": "sha256:1"}) == render_digest(request(), "m", "s")


def test_digests_of_adapters_do_not_depend_on_how_they_are_written() -> None:
    ink, oil = {"name": "ink", "weight": 0.5}, {"name": "oil", "weight": 0.7, "text_weight": 0.1}
    same = [
        (request(adapter=ink), request(adapters=[ink])),
        (request(adapter=ink), request(adapter={**ink, "text_weight": 0.5})),
        (request(adapters=[ink, oil]), request(adapters=[oil, ink])),
        (request(), request(adapters=[])),
        (request(), request(adapters=None)),
    ]
    files = {"ink": "sha256:1", "oil": "sha256:2"}
    for one, other in same:
        assert request_digest(one) == request_digest(other)
        digests = [render_digest(asked, "m", "s", adapter_digests=files) for asked in (one, other)]
        assert digests[0] == digests[1]
    both = request(adapters=[ink, oil])
    others = [request(adapter=ink), request(adapters=[ink, {**oil, "text_weight": None}]), request(adapter=oil)]
    assert len({request_digest(asked) for asked in (both, *others)}) == 4
    for name in files:
        changed = render_digest(both, "m", "s", adapter_digests={**files, name: "sha256:3"})
        assert changed != render_digest(both, "m", "s", adapter_digests=files)


def test_a_pictures_text_names_each_adapters_file() -> None:
    asked = request(adapters=[{"name": "ink", "text_weight": 0.5}, {"name": "oil"}])
    named = picture_text(asked, {}, adapter_digests={"ink": "sha256:1", "oil": "sha256:2"})
    assert named["adapters"] == [
        {"name": "ink", "weight": 1.0, "text_weight": 0.5, "digest": "sha256:1"},
        {"name": "oil", "weight": 1.0, "digest": "sha256:2"},
    ]


def test_render_digest_knows_model_and_sampler() -> None:
    digests = {render_digest(request(), *provenance) for provenance in (("m", "s"), ("n", "s"), ("m", "t"))}
    assert len(digests) == 3
    assert request_digest(request()) not in digests


def test_a_stored_pose_counts_by_its_bytes_where_they_are_known() -> None:
    stored = request(pose={"image": {"bucket": "abc", "key": "k"}})
    moved = request(pose={"image": {"bucket": "abc", "key": "elsewhere"}})
    inline = request(pose={"image": {"inline": base64.b64encode(b"picture").decode()}})
    assert render_digest(stored, "m", "s") != render_digest(moved, "m", "s")
    same = {render_digest(pose, "m", "s", pictures={"pose": b"picture"}) for pose in (stored, moved, inline)}
    assert same == {render_digest(inline, "m", "s")}
    assert render_digest(stored, "m", "s", pictures={"pose": b"other"}) not in same


def test_a_picture_to_start_from_counts_by_its_bytes_and_only_where_there_is_one() -> None:
    inline = {"inline": base64.b64encode(b"picture").decode()}
    asked = request(init={"image": inline, "strength": 0.4})
    stored = request(init={"image": {"bucket": "abc", "key": "k"}, "strength": 0.4})
    assert render_digest(stored, "m", "s", pictures={"init": b"picture"}) == render_digest(asked, "m", "s")
    assert render_digest(stored, "m", "s", pictures={"init": b"other"}) != render_digest(asked, "m", "s")
    others = [
        request(init={"image": inline, "strength": 0.5}),
        request(init={"image": inline, "strength": 0.4, "fit": "cover"}),
        request(),
    ]
    assert len({render_digest(one, "m", "s") for one in (asked, *others)}) == 4
    assert len({request_digest(one) for one in (asked, *others)}) == 4
    assert request_digest(request(init=None)) == request_digest(request())
    named = {"bucket": "abc", "key": "m"}
    masked, elsewhere = (request(init={"image": inline}, mask={"image": one}) for one in (inline, named))
    assert render_digest(elsewhere, "m", "s", pictures={"mask": b"picture"}) == render_digest(masked, "m", "s")
    assert render_digest(masked, "m", "s") != render_digest(request(init={"image": inline}), "m", "s")


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


@pytest.mark.parametrize(("fields", "asked", "rendered"), GOLDEN, ids=range(len(GOLDEN)))
def test_every_field_stands_in_the_digests_as_it_did(fields: dict[str, Any], asked: str, rendered: str) -> None:
    one = request(**fields)
    assert request_digest(one).startswith(f"sha256:{asked}")
    assert render_digest(one, "m", "s", pose_detector="d", adapter_digests={"ink": "x", "t\u00ef": "x"}).startswith(
        f"sha256:{rendered}"
    )


class Later(GenerationRequest):
    """A request of a later release, with fields that declare no more than they must."""

    schedule: Annotated[str | None, FieldFacts(option=Option("NAME"))] = None
    fit: Annotated[str, FieldFacts(idle_when=("pose", None))] = "stretch"
    hint: Annotated[str | None, FieldFacts(digest=Named.NEVER)] = None


def test_a_new_field_changes_the_digests_where_it_is_set_and_nowhere_else() -> None:
    ask = {"request_id": "r", "prompt": "p"}
    for fields, asked, _ in GOLDEN:
        assert request_digest(Later.model_validate({**ask, **fields}, strict=False)).startswith(f"sha256:{asked}")
    later, set_ = Later(**ask), Later(**ask, schedule="karras")
    assert request_digest(set_) != request_digest(later)
    assert render_digest(set_, "m", "s") != render_digest(later, "m", "s")
    assert picture_text(set_, {})["schedule"] == "karras"
    assert "schedule" not in picture_text(later, {})


def test_a_field_declares_with_which_value_of_another_it_changes_no_pixel() -> None:
    ask = {"request_id": "r", "prompt": "p"}
    idle = Later(**ask, fit="cover")
    assert request_digest(idle) != request_digest(Later(**ask))
    assert render_digest(idle, "m", "s") == render_digest(Later(**ask), "m", "s")
    assert "fit" not in picture_text(idle, {})
    posed = request(pose={"people": [PERSON]}).pose
    assert render_digest(Later(**ask, fit="cover", pose=posed), "m", "s") != render_digest(
        Later(**ask, pose=posed), "m", "s"
    )


def test_a_field_that_another_one_covers_stands_in_no_digest() -> None:
    ask = {"request_id": "r", "prompt": "p"}
    assert request_digest(Later(**ask, hint="noir")) == request_digest(Later(**ask))


def test_every_field_of_a_request_declares_what_it_decides() -> None:
    for name, field in GenerationRequest.model_fields.items():
        declared = [one for one in field.metadata if isinstance(one, FieldFacts)]
        assert declared == [facts_of(GenerationRequest)[name]]
    for name, facts in facts_of(Output).items():
        assert facts.in_digest is Named.ALWAYS, name


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
