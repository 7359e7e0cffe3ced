"""Fetches Kafka's jars into a folder that all stacks of a user share.

A file appears in the folder only whole and with the expected digest, by a rename. So a fetch that was cut off is
taken up where it ended, and several at once do each other no harm.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from darkroom.consumer.stack.errors import StackError
from darkroom.consumer.stack.jars import DOWNLOAD_BYTES, KAFKA_JARS, KAFKA_VERSION, Jar
from darkroom.consumer.stack.lock import held
from darkroom.consumer.stack.settings import StackSettings, remote_repositories

CONNECTIONS: Final = 8
ATTEMPTS: Final = 3
"""A single reset connection among 46 should not end a first `up`."""
_PAUSE_S: Final = 0.3
_ANSWER_LIMIT_S: Final = 15
_PART: Final = ".part-"

Report = Callable[[str], None]


def fetch_kafka(settings: StackSettings, report: Report, *, jars: Sequence[Jar] = KAFKA_JARS) -> Path:
    """The folder with Kafka's jars, fetched where they are not there yet. Raises `StackError`."""
    listed = hashlib.sha256("".join(f"{jar.coordinates} {jar.sha256}\n" for jar in jars).encode()).hexdigest()
    folder = settings.cache_dir.expanduser().absolute() / f"kafka-{KAFKA_VERSION}-{listed[:8]}"
    if not _missing(folder, jars):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder / "lock", limit_s=settings.lock_limit_s, activity="Fetching Kafka"):
            _fetch(folder, _missing(folder, jars), settings, report)
    except OSError as error:
        raise StackError(
            f"Kafka cannot be kept in {folder}: {error}. Make room or rights there, or set DARKROOM_STACK_CACHE_DIR."
        ) from error
    return folder


def _missing(folder: Path, jars: Sequence[Jar]) -> list[Jar]:
    return [jar for jar in jars if not (folder / jar.file_name).is_file()]


def _fetch(folder: Path, jars: Sequence[Jar], settings: StackSettings, report: Report) -> None:
    if not jars:
        return
    report(
        f"resolving Kafka {KAFKA_VERSION} (first time only): {len(jars)} jars of {DOWNLOAD_BYTES / 1e6:.0f} MB "
        f"from {_source(settings)}"
    )
    begun = time.monotonic()
    for left_over in folder.glob(f"{_PART}*"):
        shutil.rmtree(left_over, ignore_errors=True)
    fetching = _Fetching(folder, settings, end=begun + settings.download_limit_s)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        futures = [pool.submit(fetching.fetch, jar) for jar in jars]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            fetching.given_up.set()
            raise
    report(f"Kafka {KAFKA_VERSION} resolved in {time.monotonic() - begun:.1f} s")


class _Fetching:
    """One fetch of several jars. `fetch` runs in several threads at once."""

    def __init__(self, folder: Path, settings: StackSettings, *, end: float) -> None:
        self._folder = folder
        self._repositories = remote_repositories(settings.maven_url)
        self._source = _source(settings)
        self._limit_s = settings.download_limit_s
        self._end = end
        self.given_up = threading.Event()

    def fetch(self, jar: Jar) -> None:
        """Fetch one jar into the folder. Raises `StackError` after the last attempt."""
        for attempt in range(1, ATTEMPTS + 1):
            if self.given_up.is_set():
                return
            try:
                with tempfile.TemporaryDirectory(prefix=_PART, dir=self._folder) as part:
                    self._attempt(jar, Path(part))
            except (OSError, RuntimeError) as error:
                if attempt == ATTEMPTS or time.monotonic() > self._end:
                    raise self._failed(jar, error) from error
                self.given_up.wait(_PAUSE_S * attempt)
            else:
                return

    def _attempt(self, jar: Jar, part: Path) -> None:
        try:
            from jgo.maven import MavenContext, PythonResolver
        except ModuleNotFoundError as error:
            raise StackError(
                f"The package {error.name}, which fetches Kafka, is not installed. pip install 'darkroom[stack]'"
            ) from error
        context = MavenContext(
            resolver=PythonResolver(progress_callback=self._watch),
            repo_cache=part,
            remote_repos=self._repositories,
            timeout=_ANSWER_LIMIT_S,
        )
        path = Path(context.create_dependency(jar.coordinates).artifact.resolve())
        digest = base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()
        if digest != jar.sha256:
            raise RuntimeError(f"{jar.file_name} has the SHA-256 {digest} instead of {jar.sha256}")
        path.replace(self._folder / jar.file_name)

    @contextmanager
    def _watch(self, _file_name: str, _size_bytes: int) -> Iterator[Callable[[int], None]]:
        """Called as bytes come in: ends a download that would trickle on for ever."""

        def on_bytes(_count: int) -> None:
            if self.given_up.is_set() or time.monotonic() > self._end:
                raise TimeoutError(f"it took longer than {self._limit_s:.0f} s (DARKROOM_STACK_DOWNLOAD_LIMIT_S)")

        yield on_bytes

    def _failed(self, jar: Jar, error: Exception) -> StackError:
        return StackError(
            f"Kafka {KAFKA_VERSION} cannot be fetched from {self._source} ({jar.file_name}: {_reason(error)}). Check "
            "the network, set DARKROOM_STACK_MAVEN_URL to a mirror of Maven Central that can be reached from here, or "
            f"copy {self._folder} from a machine where `darkroom up` has run."
        )


def _source(settings: StackSettings) -> str:
    return "Maven Central" if settings.maven_url is None else str(settings.maven_url).rstrip("/")


def _reason(error: Exception) -> str:
    """The HTTP client's connection errors are nested five deep: what a person needs is the first word of it."""
    import requests

    if isinstance(error, requests.Timeout):
        return f"no answer in {_ANSWER_LIMIT_S} s"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return str(error)
