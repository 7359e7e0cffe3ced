"""Object keys: their form is the published one, and no part that comes from outside can leave its folder."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.schemas.names import (
    EventType,
    Topic,
    image_key,
    is_identity,
    request_key,
    result_key,
    stand_in_tenant,
    upload_key,
)

SHA256 = hashlib.sha256(b"picture").hexdigest()


def test_keys_have_the_published_form() -> None:
    assert image_key("studio", "job-1", 2, SHA256, "png") == f"studio/job-1/2-{SHA256[:16]}.png"
    assert result_key("studio", "job-1") == "studio/job-1/result.json"
    assert request_key("studio", "job-1") == "studio/job-1/request.json"
    assert upload_key("pose", "studio", "job-1", "jpg") == "studio/job-1/pose.jpg"


def test_a_prefix_stands_before_every_key() -> None:
    assert image_key("studio", "job-1", 2, SHA256, "png", prefix="a/b/") == f"a/b/studio/job-1/2-{SHA256[:16]}.png"
    assert result_key("studio", "job-1", prefix="a/b/") == "a/b/studio/job-1/result.json"
    assert request_key("studio", "job-1", prefix="a/b/") == "a/b/studio/job-1/request.json"
    assert upload_key("pose", "studio", "job-1", "jpg", prefix="a/b/") == "a/b/studio/job-1/pose.jpg"


def test_topics_and_types_have_the_published_names() -> None:
    assert [topic.value for topic in Topic] == [
        "generation.requests",
        "generation.completions",
        "generation.progress",
        "generation.cancellations",
        "generation.dead-letters",
    ]
    assert EventType.REQUESTED.value == "darkroom.generation.requested.v1"
    assert EventType.CANCELLED.value == "darkroom.generation.cancelled.v1"


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        ("a", True),
        ("A-z_0.9", True),
        ("-_", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        (".hidden", False),
        ("..", False),
        ("a/b", False),
        ("a\n", False),
        ("é", False),
        ("٣", False),
        (None, False),
        (7, False),
    ],
)
def test_identity(text: object, usable: bool) -> None:
    assert is_identity(text) is usable


@pytest.mark.parametrize("bad", ["", "../x", ".x", "a/b", "a\n", "x" * 129])
def test_keys_refuse_what_is_no_identity(bad: str) -> None:
    for make in (result_key, request_key):
        with pytest.raises(ValueError, match="tenant"):
            make(bad, "job-1")
        with pytest.raises(ValueError, match="request id"):
            make("studio", bad)


def test_image_key_refuses_odd_parts() -> None:
    with pytest.raises(ValueError, match="index"):
        image_key("studio", "job-1", -1, SHA256, "png")
    with pytest.raises(ValueError, match="sha256"):
        image_key("studio", "job-1", 0, SHA256[:16], "png")
    with pytest.raises(ValueError, match="extension"):
        image_key("studio", "job-1", 0, SHA256, "../png")


@given(st.text(alphabet=st.characters()))
def test_a_stand_in_is_a_tenant_and_always_the_same(text: str) -> None:
    assert is_identity(stand_in_tenant(text))
    assert stand_in_tenant(text) == stand_in_tenant(text)
    assert stand_in_tenant(text) != stand_in_tenant(text + "x")
