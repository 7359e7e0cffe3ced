"""What the property tests of this package draw from: valid requests as JSON objects, and JSON of any shape."""

from __future__ import annotations

import base64
import json
import unicodedata
from typing import Any

from hypothesis import strategies as st

IDENTITIES = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}", fullmatch=True)
POINTS = st.none() | st.lists(st.floats(-1, 2) | st.integers(-1, 2), min_size=2, max_size=2)
BUCKETS = st.from_regex(r"[a-z0-9][a-z0-9-]{1,10}[a-z0-9]", fullmatch=True)
KEYS = st.from_regex(r"[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,3}\.png", fullmatch=True)
PICTURES = st.fixed_dictionaries({"bucket": BUCKETS, "key": KEYS}) | st.binary(min_size=1, max_size=60).map(
    lambda content: {"inline": base64.b64encode(content).decode()}
)


ADAPTER_NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\."), min_size=1, max_size=40
)


def people(format_name: str, points: int) -> st.SearchStrategy[dict[str, Any]]:
    person = st.lists(POINTS, min_size=points, max_size=points)
    return st.fixed_dictionaries({"people": st.lists(person, min_size=1, max_size=2), "format": st.just(format_name)})


POSES = st.one_of(
    people("coco18", 18),
    people("coco17", 17),
    PICTURES.map(lambda picture: {"image": picture}),
    PICTURES.map(lambda picture: {"photo": picture}),
)
WINDOWS = st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda pair: pair[0] < pair[1])


@st.composite
def request_objects(draw: st.DrawFn) -> dict[str, Any]:
    """A valid GenerationRequest as the JSON object that a producer would write."""
    text = st.text(min_size=1, max_size=40)
    request: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {"request_id": IDENTITIES, "prompt": text},
            optional={
                "tenant": IDENTITIES,
                "negative_prompt": st.none() | st.text(max_size=40),
                "preset": st.sampled_from(["fast", "quality"]),
                "width": st.none() | st.integers(16, 4096),
                "height": st.none() | st.integers(16, 4096),
                "steps": st.none() | st.integers(1, 150),
                "guidance_scale": st.floats(0, 30) | st.integers(0, 30),
                "sampler": st.sampled_from(["euler_ancestral", "euler"]),
                "seed": st.none() | st.integers(0, 2**53 - 8),
                "count": st.integers(1, 8),
                "pose": st.none() | POSES,
                "control_scale": st.floats(0, 2),
                "adapter": st.none()
                | st.fixed_dictionaries({"name": ADAPTER_NAMES}, optional={"weight": st.floats(-2, 2)}),
                "adapters": st.lists(
                    st.fixed_dictionaries(
                        {"name": ADAPTER_NAMES},
                        optional={"weight": st.floats(-2, 2), "text_weight": st.none() | st.floats(-2, 2)},
                    ),
                    max_size=4,
                    unique_by=lambda adapter: unicodedata.normalize("NFC", adapter["name"]),
                ),
                "output": st.fixed_dictionaries(
                    {}, optional={"format": st.sampled_from(["png", "webp", "jpeg"]), "quality": st.integers(1, 100)}
                ),
                "priority": st.integers(0, 9),
                "deadline": st.none() | st.sampled_from(["2027-01-31T12:00:00Z", "2027-01-31t12:00:00.25+02:00"]),
                "progress": st.sampled_from(["none", "steps", "previews"]),
                "labels": st.dictionaries(st.text(min_size=1, max_size=10), st.text(max_size=10), max_size=4),
            },
        )
    )
    if draw(st.booleans()):
        request["control_start"], request["control_end"] = draw(WINDOWS)
    if request.get("adapter") and request.get("adapters"):
        del request["adapters"]
    return request


ANY_TEXT = st.text(alphabet=st.characters(), max_size=20)
"""Lone surrogates included: JSON can escape them, UTF-8 cannot hold them."""

ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**320)
    | st.floats(allow_nan=True, allow_infinity=True)
    | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)

HEADER_NAMES = st.sampled_from(
    [
        "ce_specversion",
        "ce_type",
        "ce_id",
        "ce_source",
        "ce_time",
        "ce_datacontenttype",
        "content-type",
        "Content-Type",
        "traceparent",
        "ce_traceparent",
        "ce-id",
        "ce-type",
        "cloudEvents:specversion",
    ]
)
HEADER_VALUES = (
    st.none()
    | st.binary(max_size=20)
    | st.sampled_from(
        [
            b"1.0",
            b"0.3",
            b"darkroom.generation.requested.v1",
            b"application/json",
            b"application/cloudevents+json",
            b"application/cloudevents+avro",
            b"2027-01-31T12:00:00Z",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ]
    )
)
HEADERS = st.lists(st.tuples(HEADER_NAMES | ANY_TEXT, HEADER_VALUES), max_size=8)


@st.composite
def mutated_requests(draw: st.DrawFn) -> dict[str, Any]:
    """A valid request in which up to three values, anywhere in it, were replaced, added or taken away."""
    request = draw(request_objects())
    for _ in range(draw(st.integers(1, 3))):
        _mutate(draw, request)
    return request


def _mutate(draw: st.DrawFn, root: dict[str, Any]) -> None:
    container: Any = root
    while True:
        places = list(container) if isinstance(container, dict) else list(range(len(container)))
        if not places:
            break
        place = draw(st.sampled_from(places))
        if isinstance(container[place], dict | list) and container[place] and draw(st.booleans()):
            container = container[place]
            continue
        if draw(st.booleans()):
            container[place] = draw(ANY_JSON)
        else:
            del container[place]
        break
    if isinstance(container, dict) and draw(st.booleans()):
        container[draw(ANY_TEXT | st.sampled_from(["image", "people", "inline", "bucket", "tenant", "steps"]))] = draw(
            ANY_JSON
        )


def as_bytes(value: Any) -> bytes:
    """JSON as producers write it, escapes, NaN and all."""
    return json.dumps(value).encode()
