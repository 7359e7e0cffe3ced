"""Sections of settings whose fixed numbers are others, so that a test need not wait for them."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

SectionT = TypeVar("SectionT", bound=BaseModel)


def section_with(section: type[SectionT], **values: Any) -> SectionT:
    """Return a section of these values; those that are no settings take the place of its class variables."""
    fixed = {name: value for name, value in values.items() if name not in section.model_fields}
    assert fixed.keys() <= section.__class_vars__, fixed
    given = {name: value for name, value in values.items() if name not in fixed}
    return section.model_validate(given).model_copy(update=fixed)
