"""Recipes: values that an operator gives request fields under a name, for requests to use as a whole.

A file of recipes is TOML, one table a recipe, with the fields of a request and a `description`:

    [lightning-4]
    description = "SDXL-Lightning in 4 steps"
    steps = 4
    sampler = "euler"
    schedule = "sgm_uniform"
    guidance_scale = 0.0
    adapter = { name = "sdxl_lightning_4step_lora" }

A request's `recipe` fills the fields that the request leaves out. Fields that state one choice go together: a request
that names its preset or its steps keeps them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from darkroom.schemas.errors import ErrorCode, RequestRejected, bounded
from darkroom.schemas.events.fields import facts_of
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.events.samplers import in_our_names
from darkroom.schemas.faults import said
from darkroom.schemas.names import RECIPE_NAME_PATTERN

RECIPES_BYTES_MAX: Final = 256 * 1024
RECIPES_MAX: Final = 200
"""All of them are listed on a page and in an answer; a file of so many has some 60 KB."""
DESCRIPTION_CHARACTERS_MAX: Final = 300
_NAMED_MAX: Final = 20
"""Recipes that a refusal lists."""
_ONE_CHOICE: Final = (frozenset({"preset", "steps"}), frozenset({"adapter", "adapters"}))
"""Fields of which a request that names one has chosen the others, too."""


class RecipesUnreadable(ValueError):  # noqa: N818 - said of the file
    """A text that is no file of recipes: one sentence of what is wrong in it."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe."""

    name: str
    description: str
    fields: Mapping[str, Any]
    """The request's fields as JSON has them."""

    def as_json(self) -> dict[str, Any]:
        """Return the recipe as it is listed."""
        return {"name": self.name, "description": self.description, "fields": dict(self.fields)}

    def fills(self, request: GenerationRequest) -> dict[str, Any]:
        """Return the fields that the recipe gives a request, with their values."""
        given = request.model_fields_set
        chosen = given.union(*(one for one in _ONE_CHOICE if one & given))
        return {name: value for name, value in self.fields.items() if name not in chosen}


class Recipes:
    """The recipes of a deployment. Immutable."""

    def __init__(self, recipes: Mapping[str, Recipe]) -> None:
        self._recipes = dict(recipes)

    def __iter__(self) -> Iterator[Recipe]:
        return iter(self._recipes.values())

    def filled(self, request: GenerationRequest) -> GenerationRequest:
        """Return the request with its recipe's fields in place of the recipe, or the request itself if it names none.

        Raises `RequestRejected`, `invalid_request`, for an unknown recipe and for fields that contradict the recipe's.
        """
        if request.recipe is None:
            return request
        recipe = self._recipes.get(request.recipe)
        if recipe is None:
            raise _rejected(request, f"recipe {request.recipe!r} is not known: {self._known()}")
        asked = {name: getattr(request, name) for name in request.model_fields_set - {"recipe"}}
        try:
            return GenerationRequest.model_validate({**asked, **recipe.fills(request)})
        except ValidationError as error:
            raise _rejected(request, f"with recipe {recipe.name!r}, {_fault(error)}") from error

    def _known(self) -> str:
        if not self._recipes:
            return "there are no recipes here, leave it out"
        more = " and others" if len(self._recipes) > _NAMED_MAX else ""
        return f"there are {', '.join(list(self._recipes)[:_NAMED_MAX])}{more}"


NO_RECIPES: Final = Recipes({})


def parse_recipes(text: str) -> Recipes:
    """Return the recipes of a TOML text. Raises `RecipesUnreadable`."""
    if len(text.encode()) > RECIPES_BYTES_MAX:
        raise RecipesUnreadable(f"it has more than {RECIPES_BYTES_MAX} bytes")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipesUnreadable(f"it is not TOML: {error}") from error
    if len(tables) > RECIPES_MAX:
        raise RecipesUnreadable(f"it has more than {RECIPES_MAX} recipes")
    return Recipes({name: _recipe(name, table) for name, table in tables.items()})


def _recipe(name: str, table: Any) -> Recipe:
    if not re.fullmatch(RECIPE_NAME_PATTERN, name):
        raise RecipesUnreadable(f"{bounded(name, 80)!r} is no name of a recipe: use 1-64 of A-Za-z0-9._-, no dot first")
    if not isinstance(table, dict):
        raise RecipesUnreadable(f"{name} stands outside of any recipe: begin one with its name in brackets, [name]")
    fields = in_our_names({key: value for key, value in table.items() if key != "description"})
    for key, value in fields.items():
        _check_field(name, key, value)
    try:
        request = GenerationRequest.model_validate({"request_id": "recipe", "prompt": "any", **fields})
    except ValidationError as error:
        raise RecipesUnreadable(f"recipe {name}: {_fault(error)}") from error
    return Recipe(name, _description(name, table), request.model_dump(mode="json", include=set(fields)))


def _check_field(name: str, key: str, value: Any) -> None:
    facts = facts_of(GenerationRequest).get(key)
    if facts is None:
        dotted = f'; write the name with a dot in quotes, as ["{name}.{key}"]' if isinstance(value, dict) else ""
        raise RecipesUnreadable(f"recipe {name}: {bounded(key, 80)} is no field of a request{dotted}")
    if not facts.fits_recipes:
        raise RecipesUnreadable(f"recipe {name}: {key} is for each request to say, take it out")


def _description(name: str, table: Mapping[str, Any]) -> str:
    text = table.get("description", "")
    if not isinstance(text, str) or len(text) > DESCRIPTION_CHARACTERS_MAX or not text.isprintable():
        raise RecipesUnreadable(
            f"recipe {name}: description must be one line of text, up to {DESCRIPTION_CHARACTERS_MAX} characters"
        )
    return text


def _fault(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    path = ".".join(str(step) for step in first["loc"])
    return f"{path} {said(first)}" if path else said(first)


def _rejected(request: GenerationRequest, message: str) -> RequestRejected:
    return RequestRejected(ErrorCode.INVALID_REQUEST, message, request_id=request.request_id, tenant=request.tenant)
