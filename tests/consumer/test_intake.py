"""Proves that a wall clock that is wrong, or jumps, decides neither an order nor a deadline that was read before."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.consumer.core.jobs import JobFacts
from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.worker.intake import AGE_S_MAX, EARLIEST, Intake
from darkroom.consumer.worker.payload import Payload, Received
from darkroom.consumer.worker.ports import Record
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.inference.types import ModelError
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.recipes import parse_recipes
from darkroom.schemas.settings import LimitSettings

NOON = datetime(2030, 6, 1, 12, tzinfo=UTC)
P0 = PartitionKey("requests", 0)
INTAKE = Intake(lambda: SimulatedDevice(0.0).info, LimitSettings(), request_bytes_max=1 << 20)
EVENT = {"specversion": b"1.0", "type": b"darkroom.generation.requested.v1", "id": b"e", "source": b"/shop"}


def taken(offset: int, *, now: float, wall: datetime, written: datetime = NOON, **fields: object) -> JobFacts:
    """What the core is told of a record written at a time, read when the loop's clock says `now` and the wall's so."""
    value = json.dumps({"request_id": f"r{offset}", "prompt": "a figure", **fields}).encode()
    record = Record(offset, None, value, (), int(written.timestamp() * 1000))
    return INTAKE.take(P0, record, now=now, wall=wall)[0]


def painted(**fields: object) -> Payload:
    """Return the edges' side of a record, read with a recipe named `few`."""
    recipes = parse_recipes('[few]\nsteps = 4\nsampler = "lcm"\nprompt_syntax = "weighted"')
    intake = Intake(lambda: SimulatedDevice(0.0).info, LimitSettings(), request_bytes_max=1 << 20, recipes=recipes)
    value = json.dumps({"request_id": "r", "prompt": "a (red:1.3) figure", **fields}).encode()
    return intake.take(P0, Record(0, None, value, (), int(NOON.timestamp() * 1000)), now=100.0, wall=NOON)[1]


def test_a_recipe_is_painted_and_warned_of_as_if_written_out() -> None:
    payload, plain = painted(recipe="few", steps=6), painted()
    assert payload.render is not None
    assert (payload.render.steps, payload.render.sampler, payload.render.prompt_syntax) == (6, "lcm", "weighted")
    assert '"sampler":"lcm"' in payload.render.image_text["darkroom:request"]
    assert payload.warnings == ()
    assert plain.warnings != (), "the prompt looks weighted, and is read as plain text"
    assert payload.request_digest != painted(recipe="few").request_digest


ECONOMY = "[cheap]\nfidelity = 'economy'"


@pytest.mark.parametrize(
    ("default", "fields", "painted_as"),
    [
        ("exact", {}, "exact"),
        ("economy", {}, "economy"),
        ("economy", {"fidelity": None}, "economy"),
        ("economy", {"fidelity": "exact"}, "exact"),
        ("exact", {"fidelity": "economy"}, "economy"),
        ("exact", {"recipe": "cheap"}, "economy"),
        ("economy", {"recipe": "cheap", "fidelity": "exact"}, "exact"),
    ],
)
def test_the_request_its_recipe_and_the_operator_choose_the_fidelity_in_this_order(
    default: str, fields: dict[str, object], painted_as: str
) -> None:
    intake = Intake(
        lambda: SimulatedDevice(0.0).info,
        LimitSettings(),
        request_bytes_max=1 << 20,
        recipes=parse_recipes(ECONOMY),
        fidelity_default=default,
    )
    value = json.dumps({"request_id": "r", "prompt": "a figure", **fields}).encode()
    received = intake.take(P0, Record(0, None, value, (), int(NOON.timestamp() * 1000)), now=100.0, wall=NOON)[1]
    assert received.render is not None
    assert received.request is not None
    assert received.render.fidelity == received.request.fidelity == painted_as
    in_text = json.loads(received.render.image_text["darkroom:request"]).get("fidelity", "exact")
    assert in_text == painted_as, "the picture can be painted again from its text"


def test_a_model_that_cannot_take_economy_refuses_it_by_name_and_takes_the_rest() -> None:
    info = replace(SimulatedDevice(0.0).info, economy_refused="its UNet begins with CrossAttnDownBlock2D")
    intake = Intake(lambda: info, LimitSettings(), request_bytes_max=1 << 20)
    for fidelity in ("exact", "economy"):
        value = json.dumps({"request_id": "r", "prompt": "a figure", "fidelity": fidelity}).encode()
        refusal = intake.take(P0, Record(0, None, value, (), int(NOON.timestamp() * 1000)), now=100.0, wall=NOON)[
            1
        ].refusal
        if fidelity == "exact":
            assert refusal is None
        else:
            assert refusal is not None
            assert refusal.code is ErrorCode.MODEL_MISMATCH
            assert "CrossAttnDownBlock2D; ask for exact" in refusal.message


def test_a_worker_does_not_start_with_a_default_that_its_model_cannot_paint() -> None:
    info = replace(SimulatedDevice(0.0).info, economy_refused="its UNet begins with CrossAttnDownBlock2D")
    with pytest.raises(ModelError, match=r"CrossAttnDownBlock2D\. Set DARKROOM_BATCH__FIDELITY_DEFAULT to exact"):
        Intake(lambda: info, LimitSettings(), request_bytes_max=1 << 20, fidelity_default="economy")


def test_an_unknown_recipe_ends_as_a_refusal_that_lists_what_there_is() -> None:
    payload = painted(recipe="noir")
    assert payload.refusal is not None
    assert payload.refusal.code is ErrorCode.INVALID_REQUEST
    assert payload.refusal.message == "recipe 'noir' is not known: there are few"
    assert payload.request_id == "r"


def test_a_deadline_is_kept_by_the_clock_that_cannot_jump() -> None:
    facts = taken(0, now=100.0, wall=NOON, deadline=(NOON + timedelta(seconds=30)).isoformat())
    assert facts.deadline == 130.0, "whatever becomes of the wall clock from here on"


def test_a_clock_that_jumps_moves_a_record_in_the_order_by_an_hour_at_the_most() -> None:
    for jump in (timedelta(days=-3650), timedelta(days=3650)):
        before, after = taken(0, now=100.0, wall=NOON), taken(1, now=101.0, wall=NOON + jump)
        assert abs(after.waiting_since - before.waiting_since) <= AGE_S_MAX + 1.0
        assert after.waiting_since <= 101.0, "nothing waits since a time to come"


def test_a_time_stamp_of_another_age_is_bounded_the_same_way() -> None:
    for written in (datetime(1970, 1, 1, tzinfo=UTC), NOON, datetime(2900, 1, 1, tzinfo=UTC)):
        facts = taken(0, now=5000.0, wall=NOON, written=written)
        assert 5000.0 - AGE_S_MAX <= facts.waiting_since <= 5000.0


def waits(timestamp_ms: int, *, headers: tuple[tuple[str, bytes | None], ...] = (), **fields: object) -> Received:
    """The edges' side of a record with a time of its own, read at noon."""
    value = json.dumps({"request_id": "r", "prompt": "a figure", **fields}).encode()
    facts, received = INTAKE.take(P0, Record(0, None, value, headers, timestamp_ms), now=5000.0, wall=NOON)
    queued = Payload(received, taken_at=NOON).queued_ms
    assert facts.waiting_since <= 5000.0
    if received.requested_at is None:
        assert (facts.waiting_since, queued) == (5000.0, None), "it is as young as can be, and no figure is made of it"
    return received


@pytest.mark.parametrize(
    "timestamp_ms",
    [
        int(NOON.timestamp()),
        0,
        -2,
        -(2**63),
        2**63 - 1,
        int(EARLIEST.timestamp() * 1000) - 1,
        int(NOON.timestamp() * 1000) + 86_400_001,
        int(NOON.timestamp() * 1_000_000),
    ],
)
def test_a_record_time_that_cannot_be_is_none_and_is_warned_of(timestamp_ms: int) -> None:
    received = waits(timestamp_ms)
    assert received.requested_at is None
    [warning] = received.warnings
    assert str(timestamp_ms) in warning
    assert "milliseconds since 1970" in warning


def test_a_record_without_a_time_is_nobody_s_mistake() -> None:
    received = waits(-1)
    assert (received.requested_at, received.warnings) == (None, ())


def test_a_clock_that_is_a_little_ahead_is_believed() -> None:
    ahead = NOON + timedelta(hours=14)
    received = waits(int(ahead.timestamp() * 1000))
    assert (received.requested_at, received.warnings, Payload(received, taken_at=NOON).queued_ms) == (ahead, (), 0.0)


def test_an_event_s_time_that_cannot_be_gives_way_to_the_record_s() -> None:
    event = ((f"ce_{name}", value) for name, value in EVENT.items())
    headers = (*event, ("ce_time", b"1970-01-01T00:00:00Z"))
    received = waits(int(NOON.timestamp() * 1000), headers=headers)
    assert received.requested_at == NOON
    [warning] = received.warnings
    assert "CloudEvents time, 1970-01-01" in warning
    refused = waits(int(NOON.timestamp() * 1000), headers=headers, steps=0)
    assert (refused.requested_at, refused.warnings) == (NOON, (warning,))


def test_the_age_of_a_record_whose_time_is_in_seconds_does_not_let_it_jump_the_queue() -> None:
    honest = taken(0, now=5000.0, wall=NOON, written=NOON - timedelta(seconds=30))
    in_seconds = taken(1, now=5000.0, wall=NOON, written=datetime.fromtimestamp(NOON.timestamp() / 1000, UTC))
    assert honest.waiting_since < in_seconds.waiting_since


@settings(max_examples=300, deadline=None)
@given(
    key=st.none() | st.binary(max_size=20),
    value=st.none() | st.binary(max_size=60) | st.just(b'{"request_id": "r", "prompt": "p"}'),
    headers=st.lists(
        st.tuples(
            st.binary(max_size=12).map(lambda name: name.decode("utf-8", "surrogateescape"))
            | st.sampled_from(["ce_id", "ce_type", "ce_specversion", "ce-id", "content-type", "traceparent"]),
            st.none() | st.binary(max_size=20) | st.sampled_from([b"1.0", b'"1.0"', b"application/cloudevents+json"]),
        ),
        max_size=6,
    ),
    timestamp_ms=st.integers(-(2**63), 2**63 - 1),
)
def test_whatever_bytes_a_record_holds_it_is_taken_in(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]], timestamp_ms: int
) -> None:
    facts, received = INTAKE.take(P0, Record(0, key, value, tuple(headers), timestamp_ms), now=5000.0, wall=NOON)
    sent = len(key or b"") + len(value or b"") + sum(len(content or b"") for _, content in headers)
    assert facts.size_bytes >= sent
    assert 5000.0 - AGE_S_MAX <= facts.waiting_since <= 5000.0
    said = [*received.warnings, *([received.refusal.message] if received.refusal else [])]
    assert all(one.isprintable() for one in said), "no surrogate gets into a completion"
    assert (facts.identity is None) == (received.request_id is None)
