"""Lists the files that may be adapters, again and again while a worker runs.

A listing is a sequence of entries as in one folder: files `NAME.safetensors`, and folders `NAME` as PEFT saves them.
Each entry has a version, by which the adapter store sees that it has to examine the entry again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from darkroom.inference.types import ModelError

ADAPTERS_MAX: Final = 10_000
"""Entries in one folder: more files than anybody's collection has, and their sizes are read in a tenth of a second."""
SUFFIX: Final = ".safetensors"
PICKLES: Final = frozenset({".pt", ".pth", ".bin", ".ckpt"})
"""Endings of files that are refused with a remedy rather than passed over."""
PEFT_FILE: Final = "adapter_model.safetensors"
PEFT_CONFIG: Final = "adapter_config.json"
"""PEFT saves an adapter as a folder of these two."""


class AdapterEntry(NamedTuple):
    """A file or a folder that may be an adapter."""

    path: Path
    version: Hashable
    """Differs from the one before where the content may differ."""
    trouble: str | None = None
    """A sentence with the remedy if there is no file at `path`, because it could not be fetched."""


ListAdapters = Callable[[], Sequence[AdapterEntry]]
"""Lists the entries there are now. May take its time; raises `ModelError` if they cannot be listed."""


class AdapterFolder:
    """Lists a folder of this machine.

    From the second call on, a change counts when two calls in a row have seen it: a file that somebody is copying there
    grows between the calls. Until then the entry is listed as before.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[Path, Hashable] | None = None
        """The versions that the last call saw."""
        self._listed: dict[Path, Hashable] = {}

    def __call__(self) -> Sequence[AdapterEntry]:
        """Return the entries, sorted by path. Raises `ModelError` for a folder that cannot be read."""
        seen = self._look()
        if self._seen is None:
            self._listed = seen
        else:
            for path in self._seen.keys() | seen.keys() | self._listed.keys():
                if path not in seen and path not in self._seen:
                    self._listed.pop(path, None)
                elif path in seen and seen[path] == self._seen.get(path):
                    self._listed[path] = seen[path]
        self._seen = seen
        return [AdapterEntry(path, version) for path, version in sorted(self._listed.items())]

    def _look(self) -> dict[Path, Hashable]:
        try:
            entries = list(islice(self._folder.iterdir(), ADAPTERS_MAX + 1))
            if len(entries) > ADAPTERS_MAX:
                raise ModelError(
                    f"There are more than {ADAPTERS_MAX} files in the adapters' folder {self._folder}: name a folder "
                    "of adapters alone in DARKROOM_MODEL__ADAPTERS_PATH."
                )
            return {
                entry: (_stamp(entry / PEFT_FILE), _stamp(entry / PEFT_CONFIG)) if entry.is_dir() else _stamp(entry)
                for entry in entries
                if not entry.name.startswith(".")
            }
        except OSError as error:
            raise ModelError(
                f"The adapters' folder {self._folder} cannot be read ({error.strerror}): correct "
                "DARKROOM_MODEL__ADAPTERS_PATH."
            ) from error


def _stamp(file: Path) -> Hashable:
    """Return what changes when a file is written or replaced; None for a file that is not there."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino
