"""Error codes: every one has its words, and messages are short and publishable whatever they quote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.schemas.errors import ErrorCode, EventUnreadable, RequestRejected, bounded, describe

PROMISED = {
    "invalid_request",
    "request_id_conflict",
    "pose_unreadable",
    "pose_not_found",
    "image_too_large",
    "prompt_rejected",
    "unknown_adapter",
    "out_of_memory",
    "render_failed",
    "worker_crash",
    "model_mismatch",
    "deadline_passed",
    "cancelled",
    "erased",
}


def test_the_promised_codes_are_there() -> None:
    assert {code.value for code in ErrorCode} >= PROMISED


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_has_a_sentence_and_a_remedy(code: ErrorCode) -> None:
    text = describe(code)
    assert text == describe(code.value)
    assert text.sentence.endswith(".")
    assert text.remedy.endswith(".")
    assert text.sentence != text.remedy


def test_what_is_wrong_with_the_request_itself_is_not_retryable() -> None:
    assert not describe(ErrorCode.INVALID_REQUEST).retryable
    assert not describe(ErrorCode.WORKER_CRASH).retryable
    assert describe(ErrorCode.DEADLINE_PASSED).retryable


def test_the_list_is_closed() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        describe("nonsense")


@given(st.text(alphabet=st.characters(), max_size=2000))
def test_messages_are_bounded_and_printable(text: str) -> None:
    for message in (
        bounded(text),
        RequestRejected(ErrorCode.INVALID_REQUEST, text).message,
        EventUnreadable(text).message,
    ):
        assert len(message) <= 500
        assert message.isprintable()
        message.encode()


def test_bounded_keeps_what_fits() -> None:
    assert bounded("naïve — 絵") == "naïve — 絵"
    assert bounded("a\nb\ud800") == "a\\nb\\ud800"
    assert bounded("x" * 501) == "x" * 499 + "…"
    assert bounded("abcdef", 4) == "abc…"
