"""Stores profiles as files: one JSON document per key, written whole or not at all.

A file that is torn, too large or of another format version raises `ProfileError`. A profile of another key is not
found, because the file name carries the key's digest. The caller measures again in either case.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from darkroom.inference.planning.profile import DeviceProfile, Ended, ProfileKey, ShapeProfile
from darkroom.inference.planning.step_curve import CurveError, StepCurve
from darkroom.inference.user_cache import user_cache_folder
from darkroom.schemas.errors import bounded
from darkroom.schemas.faults import said
from darkroom.schemas.wire.json import read_json

FORMAT: Final = 1
FILE_BYTES_MAX: Final = 1024 * 1024
"""Many times the size of a profile with every shape at every batch size."""
SHAPES_MAX: Final = 256
POINTS_MAX: Final = 1024


def default_folder() -> Path:
    """Return the default folder of profiles, in the per-user cache."""
    return user_cache_folder() / "profiles"


class ProfileError(Exception):
    """A profile that cannot be read or written: one sentence with the file, the reason and the remedy."""


_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
_Text = Annotated[str, Field(max_length=300)]
_Points = Annotated[dict[Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}$")], float], Field(max_length=POINTS_MAX)]


class _Shape(BaseModel):
    model_config = _STRICT

    latent_height: int = Field(ge=1, le=4096)
    latent_width: int = Field(ge=1, le=4096)
    unet_ms_by_slots: _Points
    controlnet_ms_by_slots: _Points | None
    rest_ms_by_slots: _Points | None
    shallow_ms_by_rows: _Points | None = None
    decode_ms: float = Field(ge=0)
    rows_asked: int = Field(ge=1, le=4096)
    ended: Literal["rows_max", "memory", "throughput", "budget"]
    buckets: list[Annotated[int, Field(ge=1, le=8192)]] = Field(max_length=64)


class _File(BaseModel):
    model_config = _STRICT

    format: Literal[1]
    revision: _Text
    dtype: _Text
    sampler_version: _Text
    measured_on: dict[_Text, _Text] = Field(max_length=64)
    shapes: list[_Shape] = Field(min_length=1, max_length=SHAPES_MAX)


def encode_profile(profile: DeviceProfile) -> bytes:
    """Return the profile as a JSON document."""
    key = profile.key
    document = _File(
        format=FORMAT,
        revision=key.revision,
        dtype=key.dtype,
        sampler_version=key.sampler_version,
        measured_on=dict(key.measured_on),
        shapes=[_shape_document(one) for one in profile.shapes],
    )
    return document.model_dump_json(indent=2).encode() + b"\n"


def decode_profile(content: bytes) -> DeviceProfile:
    """Return the profile in a JSON document. Raises `ProfileError` with the first value that does not fit."""
    if len(content) > FILE_BYTES_MAX:
        raise ProfileError(f"it has more than {FILE_BYTES_MAX} bytes")
    document = read_json(content)
    if document.flaw is not None:
        raise ProfileError(f"it {document.flaw}")
    try:
        read = _File.model_validate(document.value)
        key = ProfileKey(read.revision, read.dtype, read.sampler_version, tuple(sorted(read.measured_on.items())))
        return DeviceProfile(key, tuple(_shape(one) for one in read.shapes))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        raise ProfileError(bounded(f"{place or 'the document'}: {said(first)}")) from error
    except (CurveError, ValueError) as error:
        raise ProfileError(bounded(str(error))) from error


def read_profile(path: Path) -> DeviceProfile:
    """Return the profile in a file. Raises `ProfileError` with the file's name if it cannot be read or used."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ProfileError(f"The profile {path} cannot be read ({error.strerror}).") from error
    try:
        return decode_profile(content)
    except ProfileError as error:
        raise ProfileError(f"The profile {path} cannot be used: {error}.") from error


class ProfileStore:
    """A folder of profiles. Several processes may use it at once: files are replaced atomically, never changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: ProfileKey) -> Path:
        """Return the path of a key's profile, which may not exist."""
        return self.folder / f"profile-{key.digest}.json"

    def load(self, key: ProfileKey) -> DeviceProfile | None:
        """Return the profile of a key, or None if there is none. Raises `ProfileError` for a file that cannot be
        used."""
        path = self.path(key)
        if not path.exists():
            return None
        try:
            profile = read_profile(path)
        except ProfileError as error:
            raise ProfileError(f"{error} Remove it to measure again.") from error
        # The name carries only a part of the key's digest, and files can be renamed.
        return profile if profile.key == key else None

    def save(self, profile: DeviceProfile) -> Path:
        """Write the profile, replacing an earlier one. Raises `ProfileError` if it cannot be written."""
        path = self.path(profile.key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, written = tempfile.mkstemp(prefix=".profile-", dir=self.folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(encode_profile(profile))
                Path(written).replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(written).unlink()
                raise
        except OSError as error:
            raise ProfileError(
                f"The profile {path} cannot be written ({error.strerror}): free some space there, "
                "or name another folder in DARKROOM_MODEL__PROFILE_DIR."
            ) from error
        return path


def _shape_document(shape: ShapeProfile) -> _Shape:
    return _Shape(
        latent_height=shape.latent_height,
        latent_width=shape.latent_width,
        unet_ms_by_slots=_document(shape.unet) or {},
        controlnet_ms_by_slots=_document(shape.controlnet),
        rest_ms_by_slots=_document(shape.rest),
        shallow_ms_by_rows=_document(shape.shallow),
        decode_ms=shape.decode_ms,
        rows_asked=shape.rows_asked,
        ended=shape.ended.value,
        buckets=list(shape.buckets),
    )


def _document(curve: StepCurve | None) -> dict[str, float] | None:
    return None if curve is None else {str(slots): ms for slots, ms in curve.points}


def _shape(document: _Shape) -> ShapeProfile:
    unet = _curve(document.unet_ms_by_slots)
    assert unet is not None
    return ShapeProfile(
        document.latent_height,
        document.latent_width,
        unet=unet,
        controlnet=_curve(document.controlnet_ms_by_slots),
        rest=_curve(document.rest_ms_by_slots),
        shallow=_curve(document.shallow_ms_by_rows),
        decode_ms=document.decode_ms,
        rows_asked=document.rows_asked,
        ended=Ended(document.ended),
        buckets=tuple(sorted(set(document.buckets))),
    )


def _curve(points: dict[str, float] | None) -> StepCurve | None:
    return None if points is None else StepCurve({int(slots): ms for slots, ms in points.items()})
