"""Completion: its status, error and images always agree, and its errors carry the code's own flag."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import Completion, CompletionError, ImageRef, Source, Status

IMAGE = ImageRef(
    bucket="darkroom",
    key="default/r/0-0123456789abcdef.png",
    width=64,
    height=64,
    seed=1,
    content_type="image/png",
    size_bytes=10,
    sha256="a" * 64,
)


def completion(status: Status, images: tuple[ImageRef, ...] = (), code: ErrorCode | None = None) -> Completion:
    return Completion(
        request_id="r",
        tenant="default",
        event_id="e",
        status=status,
        images=images,
        error=None if code is None else CompletionError.of(code, "why"),
        worker="w",
        source=Source(topic="generation.requests", partition=0, offset=1),
        completed_at=datetime(2027, 1, 31, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("status", "images", "code"),
    [
        (Status.SUCCEEDED, (IMAGE,), None),
        (Status.FAILED, (), ErrorCode.RENDER_FAILED),
        (Status.EXPIRED, (), ErrorCode.DEADLINE_PASSED),
        (Status.CANCELLED, (), ErrorCode.CANCELLED),
        (Status.ERASED, (), ErrorCode.ERASED),
    ],
)
def test_what_agrees_is_taken(status: Status, images: tuple[ImageRef, ...], code: ErrorCode | None) -> None:
    assert completion(status, images, code).status is status


@pytest.mark.parametrize(
    ("status", "images", "code"),
    [
        (Status.SUCCEEDED, (), None),
        (Status.SUCCEEDED, (IMAGE,), ErrorCode.RENDER_FAILED),
        (Status.FAILED, (), None),
        (Status.FAILED, (IMAGE,), ErrorCode.RENDER_FAILED),
        (Status.FAILED, (), ErrorCode.CANCELLED),
        (Status.FAILED, (), ErrorCode.ERASED),
        (Status.ERASED, (IMAGE,), ErrorCode.ERASED),
        (Status.EXPIRED, (), ErrorCode.RENDER_FAILED),
        (Status.CANCELLED, (), ErrorCode.DEADLINE_PASSED),
    ],
)
def test_what_disagrees_is_refused(status: Status, images: tuple[ImageRef, ...], code: ErrorCode | None) -> None:
    with pytest.raises(ValidationError):
        completion(status, images, code)


def test_errors_know_whether_to_try_again() -> None:
    assert CompletionError.of("render_failed", "x").retryable
    assert not CompletionError.of(ErrorCode.INVALID_REQUEST, "x").retryable
    assert len(CompletionError.of(ErrorCode.RENDER_FAILED, "x" * 10_000).message) == 500


@pytest.mark.parametrize(
    "changed",
    [
        {"completed_at": datetime(2027, 1, 31)},
        {"attempts": -1},
        {"request_digest": "sha256:short"},
        {"status": "succeeded-ish"},
        {"tenant": "../x"},
    ],
)
def test_odd_values_are_refused(changed: dict[str, Any]) -> None:
    whole = completion(Status.SUCCEEDED, (IMAGE,)).model_dump()
    Completion.model_validate(whole)
    with pytest.raises(ValidationError):
        Completion.model_validate({**whole, **changed})
