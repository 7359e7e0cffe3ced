"""Proves that no validation error speaks in pydantic's own words, whichever of its kinds it is."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from darkroom.schemas.faults import said

NOT_OURS = re.compile(r"\b(Input|String|Field required|Extra inputs|valid (string|integer|dictionary)|Value error)\b")


class Everything(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: Annotated[int, Field(ge=1, lt=10)] = 1
    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1
    step: Annotated[int, Field(multiple_of=8)] = 8
    name: Annotated[str, Field(pattern="^a+$", min_length=1, max_length=3)] = "a"
    kind: Literal["png", "webp"] = "png"
    names: Annotated[list[str], Field(max_length=1)] = []
    labels: dict[str, str] = {}
    is_on: bool = False


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ({"number": 0}, "must be at least 1"),
        ({"number": 10}, "must be less than 10"),
        ({"number": "x"}, "must be an integer"),
        ({"number": 1.5}, "must be an integer"),
        ({"number": "9" * 5000}, "must be an integer"),
        ({"share": 0}, "must be greater than 0"),
        ({"share": 2}, "must be at most 1"),
        ({"share": float("inf")}, "must be a finite number"),
        ({"share": "x"}, "must be a number"),
        ({"step": 7}, "must be a multiple of 8"),
        ({"name": 7}, "must be text"),
        ({"name": "b"}, "must match pattern '^a+$'"),
        ({"name": ""}, "must have at least 1 character"),
        ({"name": "aaaa"}, "must have at most 3 characters"),
        ({"kind": "gif"}, "must be 'png' or 'webp'"),
        ({"names": ["a", "b"]}, "must have at most 1 item after validation, not 2"),
        ({"names": 7}, "must be an array"),
        ({"labels": []}, "must be an object"),
        ({"is_on": "perhaps"}, "must be true or false"),
        ({"other": 1}, "is not a known field"),
    ],
    ids=str,
)
def test_an_error_is_in_our_words(given: dict[str, Any], right: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Everything.model_validate(given)
    [error] = caught.value.errors()
    assert said(error) == right
    assert not NOT_OURS.search(right)
