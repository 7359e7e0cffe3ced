"""Reads the operator's file of recipes, for workers, gateways and commands alike."""

from __future__ import annotations

from pathlib import Path

from darkroom.schemas.errors import SettingsError
from darkroom.schemas.recipes import NO_RECIPES, RECIPES_BYTES_MAX, Recipes, RecipesUnreadable, parse_recipes


def read_recipes(path: Path | None) -> Recipes:
    """Return the recipes of a file, none without one. Raises `SettingsError` for a file that cannot be used.

    Read once, at a process's start: which picture a request gets must not depend on when its worker looked at the file.
    """
    if path is None:
        return NO_RECIPES
    try:
        with path.open("rb") as file:
            content = file.read(RECIPES_BYTES_MAX + 1)
        return parse_recipes(content.decode("utf-8"))
    except OSError as error:
        why = error.strerror or "it cannot be read"
    except UnicodeDecodeError:
        why = "it is not UTF-8 text"
    except RecipesUnreadable as error:
        why = str(error)
    raise SettingsError(
        f"The file of recipes {path} cannot be used: {why}. Correct it, or DARKROOM_MODEL__RECIPES_FILE."
    )
