"""Where a model's files come from: a path of this machine, or a prefix in the object store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BeforeValidator

_SCHEME: Final = "s3:"
_ADDRESS: Final = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/([^\x00-\x1f\x7f]{1,900})")


@dataclass(frozen=True, slots=True)
class StorePrefix:
    """`s3://bucket/prefix`: one object of that key, or all objects under it."""

    bucket: str
    prefix: str
    """Without slashes at its ends."""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def name(self) -> str:
        """The prefix's last part."""
        return self.prefix.rpartition("/")[2]


def _read(value: Any) -> Any:
    if not isinstance(value, str | Path) or not str(value).startswith(_SCHEME):
        return value
    found = _ADDRESS.fullmatch(str(value).rstrip("/"))
    if found is None or any(part in ("", ".", "..") for part in found[2].split("/")):
        raise ValueError("must be a path, or s3://bucket/prefix with a bucket of a-z0-9.- and no empty parts")
    return StorePrefix(found[1], found[2])


ModelSource = Annotated[Path | StorePrefix, BeforeValidator(_read)]
"""In settings: `s3://bucket/prefix` is a prefix in the store, whatever else is given is a path."""
