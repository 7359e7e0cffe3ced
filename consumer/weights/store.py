"""Models from the object store as folders of this machine: list, fetch what is not there, hand out the folder.

A model is known by the keys, sizes and ETags of its objects, so one that did not change is not fetched again, and one
that did is fetched beside what is in use. Every way in which this fails is a `ModelError` of one sentence.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import structlog
from minio import Minio

from darkroom.consumer.weights.cache import ModelCache
from darkroom.consumer.weights.listing import RemoteModel, list_model
from darkroom.consumer.weights.transfer import fetch_file
from darkroom.inference.types import ModelError
from darkroom.producer.store.identities import identity_of
from darkroom.producer.store.objects import BucketForbidden, ObjectsError
from darkroom.producer.store.s3_client import connect
from darkroom.producer.store.s3_errors import translated
from darkroom.schemas.settings import ModelSettings, S3Settings
from darkroom.schemas.settings.model_source import StorePrefix

log = structlog.get_logger(__name__)

_TOLD_EVERY_S: Final = 10.0
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


class ModelStore:
    """Blocks: belongs on a thread. What it handed out stays until `close`, or until the process ends."""

    def __init__(self, s3: S3Settings, model: ModelSettings) -> None:
        self._s3 = s3
        self._identity = identity_of(s3)
        self._folder = model.cache_path or default_folder()
        self._cache = ModelCache(self._folder, model.cache_bytes_max)

    def fetch(self, source: StorePrefix) -> Path:
        """Return the folder of a model, or its file where the source is one. Raises `ModelError`."""
        with self.connected(source) as client:
            model = list_model(client, source)
            folder = self.hold(client, model)
        return folder / model.files[0].path if model.is_single else folder

    @contextlib.contextmanager
    def connected(self, source: StorePrefix) -> Iterator[Minio]:
        """Connect to the store for the length of a block. Failures in it become `ModelError`s about `source`."""
        client, http = connect(self._s3, self._identity)
        try:
            # Translated as for another bucket than the one of pictures: its remedies are not ours.
            with translated(self._s3, source.bucket):
                yield client
        except BucketForbidden as error:
            raise ModelError(
                f"The model {source} could not be fetched: the store's keys may not read the bucket {source.bucket}. "
                "Let them do s3:ListBucket on it and s3:GetObject on its objects, or correct the setting."
            ) from error
        except ObjectsError as error:
            raise ModelError(f"The model {source} could not be fetched. {error}") from error
        finally:
            http.clear()

    def close(self) -> None:
        """Let other processes remove the models from the cache."""
        self._cache.release()

    def release_others(self, models: Iterable[RemoteModel]) -> None:
        """Let whoever needs room remove from the cache what this handed out, except for these models."""
        self._cache.release(but={model.digest for model in models})

    def held(self, model: RemoteModel) -> Path | None:
        """Return the folder of a model that this handed out before; None for any other."""
        return self._cache.held(model.digest)

    def hold(self, client: Minio, model: RemoteModel) -> Path:
        """Return the folder of a listed model, fetched where it is not there. Raises `ModelError`, and what the SDK
        raises."""
        source = model.source

        def fill(folder: Path) -> None:
            told = _Progress(model)
            log.info("fetching a model", source=str(source), bytes=model.size_bytes, files=len(model.files))
            for file in model.files:
                target = folder.joinpath(*file.path.split("/"))
                fetch_file(client, source, file, target, attempts=self._s3.attempts, progress=told)
            log.info("fetched a model", source=str(source))

        try:
            return self._cache.hold(model.digest, model.size_bytes, fill)
        except OSError as error:
            remedy = "free some space there" if error.errno in _NO_SPACE else "check its rights"
            raise ModelError(
                f"The model {source} could not be written to {self._folder} ({error.strerror}): {remedy}, or name "
                "another folder in DARKROOM_MODEL__CACHE_PATH."
            ) from error


class _Progress:
    """Says every ten seconds how far a fetch is."""

    def __init__(self, model: RemoteModel, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._clock = clock
        self._done_bytes = 0
        self._told_at = clock()

    def __call__(self, more_bytes: int) -> None:
        self._done_bytes += more_bytes
        if self._clock() - self._told_at >= _TOLD_EVERY_S:
            self._told_at = self._clock()
            percent = 100 * self._done_bytes // max(1, self._model.size_bytes)
            log.info("fetching a model", source=str(self._model.source), done_bytes=self._done_bytes, percent=percent)


def default_folder() -> Path:
    """In the per-user cache folder, by the XDG base directory rules."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "darkroom" / "models"
