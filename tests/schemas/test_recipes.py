"""Recipes: what a file may say, what a request gets of one, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from darkroom import main
from darkroom.producer.recipes_file import read_recipes
from darkroom.schemas.errors import ErrorCode, RequestRejected, SettingsError
from darkroom.schemas.events.request import effective_steps
from darkroom.schemas.recipes import RECIPES_BYTES_MAX, RECIPES_MAX, Recipes, RecipesUnreadable, parse_recipes
from darkroom.schemas.wire.codec import Decoded, decode_request
from darkroom.schemas.wire.digests import render_digest

EXAMPLES = Path(__file__).parents[2] / "examples" / "recipes.toml"
RECIPES = parse_recipes("""
[few]
description = "Few steps"
steps = 4
sampler = "lcm"
guidance_scale = 1
negative_prompt = "blurry"
adapter = { name = "lcm", weight = 0.9 }

[late]
guidance_start = 0.5
""")

FEW: dict[str, Any] = {
    "sampler": "lcm",
    "guidance_scale": 1,
    "negative_prompt": "blurry",
    "adapter": {"name": "lcm", "weight": 0.9},
}
"""The fields of the first one, but its steps."""


def decoded(**fields: Any) -> Decoded:
    return decode_request(json.dumps({"request_id": "a", "prompt": "a dancer", **fields}).encode())


def test_a_recipe_fills_what_the_request_leaves_out() -> None:
    filled = RECIPES.filled(decoded(recipe="few", sampler="euler").request)
    assert (filled.steps, filled.guidance_scale, filled.negative_prompt) == (4, 1.0, "blurry")
    assert filled.adapter is not None
    assert (filled.adapter.name, filled.adapter.weight) == ("lcm", 0.9)
    assert filled.sampler == "euler"


def test_what_a_request_says_wins_though_it_be_the_default() -> None:
    assert RECIPES.filled(decoded(recipe="few", guidance_scale=5.0).request).guidance_scale == 5.0


def test_null_is_left_out_as_serializers_write_it() -> None:
    nulls = dict.fromkeys(("steps", "preset", "sampler", "guidance_scale", "adapter", "seed", "labels", "output"))
    assert RECIPES.filled(decoded(recipe="few", **nulls).request) == RECIPES.filled(decoded(recipe="few").request)


@pytest.mark.parametrize(("preset", "steps"), [("quality", 35), ("fast", 22)])
def test_a_preset_names_the_steps(preset: str, steps: int) -> None:
    filled = RECIPES.filled(decoded(recipe="few", preset=preset).request)
    assert effective_steps(filled) == steps


def test_the_request_digest_names_the_recipe_and_the_render_digest_its_fields() -> None:
    by_name, written_out = decoded(recipe="few"), decoded(steps=4, **FEW)
    assert len({by_name.digest, written_out.digest, decoded().digest}) == 3
    filled = RECIPES.filled(by_name.request)
    assert render_digest(filled, "r", "s") == render_digest(written_out.request, "r", "s")
    other = parse_recipes("[few]\nsteps = 5").filled(by_name.request)
    assert render_digest(filled, "r", "s") != render_digest(other, "r", "s")


def test_an_unknown_recipe_is_refused_with_what_there_is() -> None:
    with pytest.raises(RequestRejected) as refused:
        RECIPES.filled(decoded(recipe="fewer").request)
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert refused.value.message == "recipe 'fewer' is not known: there are few, late"
    with pytest.raises(RequestRejected, match="there are no recipes here, leave it out"):
        Recipes({}).filled(decoded(recipe="few").request)


def test_a_request_that_contradicts_its_recipe_is_refused() -> None:
    with pytest.raises(RequestRejected) as refused:
        RECIPES.filled(decoded(recipe="late", guidance_end=0.4).request)
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert refused.value.message == "with recipe 'late', guidance_start must be below guidance_end"


def test_a_recipe_may_use_other_tools_names() -> None:
    [recipe] = parse_recipes('[a]\nsampler = "DPM++ 2M Karras"')
    assert recipe.fields == {"sampler": "dpmpp_2m", "schedule": "karras"}


def test_every_example_can_be_used() -> None:
    recipes = read_recipes(EXAMPLES)
    names = [recipe.name for recipe in recipes]
    assert names == ["lightning-4", "hyper-sd-8", "lcm-lora", "dmd2", "turbo", "ays-10"]
    for name in names:
        assert recipes.filled(decoded(recipe=name).request).steps is not None


BROKEN = {
    "steps = 4": "steps stands outside of any recipe",
    "[a": "it is not TOML",
    "[a]\nsteps = 0": "recipe a: steps must be at least 1",
    "[a]\nsteps = '4'": "recipe a: steps must be an integer",
    "[a]\nscheduler = 'karras'": "recipe a: scheduler is no field of a request",
    "[sdxl.lightning]\nsteps = 4": 'write the name with a dot in quotes, as ["sdxl.lightning"]',
    "[a]\nprompt = 'a cat'": "recipe a: prompt is for each request to say",
    "[a]\nseed = 1": "recipe a: seed is for each request to say",
    "[a]\npriority = 9": "recipe a: priority is for each request to say",
    "[a]\nrecipe = 'b'": "recipe a: recipe is for each request to say",
    "[a]\nsampler = 'lcm'\nschedule = 'karras'": "recipe a: schedule is 'karras': lcm samples",
    "[a]\nadapter = {weight = 1}": "recipe a: adapter.name is missing",
    "[a]\nguidance_start = 0.5\nguidance_end = 0.5": "recipe a: guidance_start must be below guidance_end",
    "[a]\ndescription = 1": "recipe a: description must be one line of text",
    "['a b']\nsteps = 4": "'a b' is no name of a recipe",
    "\n".join(f"[r{number}]" for number in range(RECIPES_MAX + 1)): f"more than {RECIPES_MAX} recipes",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_is_told_in_a_sentence(text: str, tmp_path: Path) -> None:
    with pytest.raises(RecipesUnreadable) as refused:
        parse_recipes(text)
    assert BROKEN[text] in str(refused.value)
    file = tmp_path / "recipes.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"The file of recipes .*recipes\.toml cannot be used: .*RECIPES_FILE\."):
        read_recipes(file)


def test_a_file_that_cannot_be_read_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        read_recipes(tmp_path / "none.toml")
    file = tmp_path / "recipes.toml"
    file.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="it is not UTF-8 text"):
        read_recipes(file)
    file.write_bytes(b"#" * (RECIPES_BYTES_MAX + 1))
    with pytest.raises(SettingsError, match="it has more than"):
        read_recipes(file)


def test_the_command_lists_them_for_people_and_machines(tmp_path: Path) -> None:
    env = {"DARKROOM_MODEL__RECIPES_FILE": str(EXAMPLES)}
    listed = CliRunner().invoke(main, ["recipes"], env=env)
    assert listed.exit_code == 0
    assert 'dmd2: DMD2, 4 steps; not for commercial use\n  steps = 4\n  guidance_scale = 0.0\n  sampler = "lcm"' in (
        listed.stdout
    )
    found = json.loads(CliRunner().invoke(main, ["recipes", "--json"], env=env).stdout)
    assert found[-1]["fields"] == {"steps": 10, "sampler": "dpmpp_2m_sde", "schedule": "align_your_steps"}
    broken = CliRunner().invoke(main, ["recipes"], env={"DARKROOM_MODEL__RECIPES_FILE": str(tmp_path / "none.toml")})
    assert broken.exit_code == 1
    assert "The file of recipes" in broken.stderr
