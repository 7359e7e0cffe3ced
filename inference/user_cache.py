"""The folder for files that can be fetched, measured or built again."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache_folder() -> Path:
    """Return `darkroom` in the per-user cache, by the XDG Base Directory Specification. The folder may not exist
    yet."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "darkroom"
