"""Lists a model's files under a prefix of the object store.

Keys are somebody else's words: one that would be a path outside of the model's folder ends the fetch. Of the rest only
the kinds of file that a model is read from are taken, which leaves pickles where they are.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from minio import Minio
from minio.error import S3Error

from darkroom.inference.types import ModelError
from darkroom.schemas.settings.model_source import StorePrefix

FILES_MAX: Final = 10_000
"""Objects under one prefix. A diffusers folder has some thirty, a folder of adapters as many as there are."""
MANIFEST: Final = "SHA256SUMS"
"""As `sha256sum` writes it, beside the files. Where it stands, every file in it is held against it."""
CONFIG: Final = "config.json"
_MANIFEST_BYTES_MAX: Final = 4 * 1024 * 1024
_MANIFEST_LINE: Final = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(\S.*)")
_POSE_DETECTOR: Final = "body_pose_model.pth"
"""The one file that is no safetensors: OpenPose's weights are published so, and read as tensors alone."""
SUFFIX: Final = ".safetensors"
_SUFFIXES: Final = (SUFFIX, ".json", ".txt", _POSE_DETECTOR)
_NAME_BYTES_MAX: Final = 250
"""Of the 255 that file systems take; a file is written under its name and `.part`."""
_ABSENT: Final = frozenset({"NoSuchKey", "NoSuchObject", "NoSuchBucket"})


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One object of a model."""

    key: str
    path: str
    """Where it belongs in the model's folder, parts separated by `/`."""
    size_bytes: int
    etag: str
    sha256: str | None = None
    """64 hexadecimal digits, where there is a manifest."""


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model to be fetched."""

    source: StorePrefix
    files: tuple[RemoteFile, ...]
    is_single: bool
    """Whether the source is one object and not a folder."""

    @property
    def size_bytes(self) -> int:
        """Return the size of all files together."""
        return sum(file.size_bytes for file in self.files)

    @property
    def digest(self) -> str:
        """Changes with every object that is added, taken away or written anew."""
        parts = [(file.path, file.size_bytes, file.etag, file.sha256) for file in self.files]
        return hashlib.sha256(repr((str(self.source), sorted(parts))).encode()).hexdigest()[:32]


def list_model(client: Minio, source: StorePrefix) -> RemoteModel:
    """Return what lies under a prefix. Raises `ModelError` where it holds no model, and what the SDK raises."""
    if source.name.endswith((SUFFIX, _POSE_DETECTOR)) and (file := _stat(client, source, source.prefix)) is not None:
        return _single(client, source, file)
    files, outside = _objects_under(client, source)
    if outside:
        raise outside[0]
    sums = _manifest(client, source, files.get(MANIFEST))
    missing = sorted(sums.keys() - files.keys())
    if missing:
        raise ModelError(
            f"{source}/{MANIFEST} names {missing[0]}, which is not there ({len(missing)} in all): upload it again."
        )
    wanted = tuple(replace(one, sha256=sums.get(path)) for path, one in files.items() if path.endswith(_SUFFIXES))
    if not wanted:
        raise ModelError(
            f"There is no model at {source}: no object of that key and none under it that ends in "
            f"{', '.join(_SUFFIXES)}; correct the setting, or upload the model."
        )
    return RemoteModel(source, wanted, is_single=False)


class RemoteEntries(NamedTuple):
    """The objects under a prefix of files that do not belong together."""

    entries: tuple[RemoteModel, ...]
    """One for each file, and one for each folder of the first level, with all files below it."""
    passed_over: tuple[str, ...]
    """A sentence for each object whose key is no file's path."""


def list_each(client: Minio, source: StorePrefix) -> RemoteEntries:
    """Return the objects under a prefix by their first level. Raises `ModelError`, and what the SDK raises."""
    if source.name.endswith(SUFFIX):
        raise ModelError(f"{source} is one object: name the prefix above it.")
    files, outside = _objects_under(client, source)
    sums = _manifest(client, source, files.pop(MANIFEST, None))
    first_level: dict[str, list[RemoteFile]] = {}
    for path, file in files.items():
        first_level.setdefault(path.partition("/")[0], []).append(replace(file, sha256=sums.get(path)))
    entries = tuple(
        RemoteModel(source, tuple(files), is_single=files[0].path == name) for name, files in first_level.items()
    )
    return RemoteEntries(entries, tuple(str(error) for error in outside))


def _objects_under(client: Minio, source: StorePrefix) -> tuple[dict[str, RemoteFile], list[ModelError]]:
    """Return the objects under a prefix by path, and an error for each key that is no file's path."""
    listed = client.list_objects(source.bucket, prefix=f"{source.prefix}/", recursive=True)
    try:
        found = list(itertools.islice(listed, FILES_MAX + 1))
    except S3Error as error:
        if error.code not in _ABSENT:
            raise
        raise ModelError(
            f"There is no bucket {source.bucket} for {source}: make it, or correct the setting."
        ) from error
    if len(found) > FILES_MAX:
        raise ModelError(f"There are more than {FILES_MAX} objects under {source}: name the prefix of one model.")
    files, outside = {}, []
    for one in found:
        key = one.object_name or ""
        if key.endswith("/"):
            continue
        try:
            path = _path(source, key)
        except ModelError as error:
            outside.append(error)
        else:
            files[path] = RemoteFile(key, path, one.size or 0, (one.etag or "").strip('"'))
    return files, outside


def _single(client: Minio, source: StorePrefix, file: RemoteFile) -> RemoteModel:
    """One file, with the configuration beside it where there is one. The manifest beside it may know it."""
    folder = file.key.removesuffix(source.name)
    config = _stat(client, source, f"{folder}{CONFIG}")
    sums = _manifest(client, source, _stat(client, source, f"{folder}{MANIFEST}"))
    files = (file,) if config is None else (file, config)
    return RemoteModel(source, tuple(replace(one, sha256=sums.get(one.path)) for one in files), is_single=True)


def _stat(client: Minio, source: StorePrefix, key: str) -> RemoteFile | None:
    try:
        found = client.stat_object(source.bucket, key)
    except S3Error as error:
        if error.code not in _ABSENT:
            raise
        return None
    return RemoteFile(key, key.rpartition("/")[2], found.size or 0, (found.etag or "").strip('"'))


def _path(source: StorePrefix, key: str) -> str:
    path = key.removeprefix(f"{source.prefix}/")
    for part in path.split("/"):
        # A backslash is a separator elsewhere, and a control character is nobody's file name.
        if part in ("", ".", "..") or "\\" in part or not part.isprintable() or len(part.encode()) > _NAME_BYTES_MAX:
            raise ModelError(f"The object {key!r} under {source} has a key that is no file's path: take it away.")
    return path


def _manifest(client: Minio, source: StorePrefix, manifest: RemoteFile | None) -> dict[str, str]:
    """SHA-256 by path; empty without a manifest."""
    if manifest is None:
        return {}
    if manifest.size_bytes > _MANIFEST_BYTES_MAX:
        raise ModelError(f"{manifest.key} of {source} is too large for a list of digests: write it with sha256sum.")
    response = client.get_object(source.bucket, manifest.key)
    try:
        lines = response.read(_MANIFEST_BYTES_MAX).decode(errors="replace").splitlines()
    finally:
        response.close()
        response.release_conn()
    sums = {}
    for line in filter(None, lines):
        found = _MANIFEST_LINE.fullmatch(line)
        if found is None:
            raise ModelError(f"{manifest.key} of {source} has a line that sha256sum does not write: {line[:80]!r}.")
        sums[found[2]] = found[1]
    return sums
