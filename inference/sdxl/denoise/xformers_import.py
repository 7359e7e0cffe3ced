"""Imports xformers, or hides it if it cannot be imported.

diffusers imports xformers as soon as its package is found, and a package that does not fit this torch would prevent
every model from loading. So xformers is tried here, before diffusers is imported, and a broken one is made to look as
if it were not installed: for Python, None in `sys.modules` means that.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from typing import Any


@cache
def xformers_ops() -> tuple[Any | None, str | None]:
    """Return the module `xformers.ops`, or None with a sentence that says why; None and None if it is not installed."""
    if importlib.util.find_spec("xformers") is None:
        return None, None
    try:
        return importlib.import_module("xformers.ops"), None
    # The loader of a binary extension can raise anything.
    except Exception as error:
        sys.modules["xformers"] = None  # type: ignore[assignment]
        line = (str(error).strip().splitlines() or [""])[0][:200]
        return None, f"xformers cannot be imported ({type(error).__name__}: {line})."
