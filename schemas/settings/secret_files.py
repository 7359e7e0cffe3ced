"""A secret that stands in a file: read when it is asked for, so that a renewed one is in force without a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import SecretStr

CHARACTERS_MAX: Final = 64 * 1024
"""A file that holds more is no secret's: a token of many kilobytes is, a log or an image is not."""

_Version = tuple[int, int, int]


class SecretInFile(SecretStr):
    """The secret that a file holds, read again when the file has changed.

    A file that is gone, empty or too large at that moment, as it may be while it is written, leaves in force what was
    read before: whatever uses the secret then says that it is refused, and asks again.
    """

    def __init__(self, path: Path) -> None:
        """Raise `OSError`, `UnicodeDecodeError` or `ValueError` where the file holds no secret now."""
        super().__init__(_read(path))
        self._path = path
        self._version = _look(path)

    def get_secret_value(self) -> str:
        """Return the secret as the file has it."""
        try:
            version = _look(self._path)
            if version != self._version:
                self._secret_value = _read(self._path)
                self._version = version
        except (OSError, ValueError):  # UnicodeDecodeError is a ValueError
            pass
        return self._secret_value

    def __eq__(self, other: object) -> bool:
        """Compare with any secret, wherever that one stands."""
        return isinstance(other, SecretStr) and self.get_secret_value() == other.get_secret_value()

    def __hash__(self) -> int:
        """As the base class: of what the file has now."""
        return hash(self.get_secret_value())


def _look(path: Path) -> _Version:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        text = file.read(CHARACTERS_MAX + 1).strip()
    if not text or len(text) > CHARACTERS_MAX:
        raise ValueError(f"{path} does not hold a secret")
    return text
