"""Recipes at the gateway: listed, left to the workers to fill in, and refused where a worker would refuse them."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.schemas.errors import SettingsError
from tests.producer.gateway.house import House

FILE = """
[few]
description = "Few steps"
steps = 4
sampler = "DPM++ 2M Karras"

[large]
width = 4096
"""


def serving(path: Path) -> House:
    house = House()
    model = house.settings.model.model_copy(update={"recipes_file": path})
    house.settings = house.settings.model_copy(update={"model": model})
    return house


@pytest.fixture
def house(tmp_path: Path) -> House:
    file = tmp_path / "recipes.toml"
    file.write_text(FILE)
    return serving(file)


async def test_recipes_are_listed_with_their_fields(house: House) -> None:
    async with house.gateway() as replica:
        answer = await replica.client.get("/v1/recipes")
    assert answer.json() == {
        "recipes": [
            {
                "name": "few",
                "description": "Few steps",
                "fields": {"steps": 4, "sampler": "dpmpp_2m", "schedule": "karras"},
            },
            {"name": "large", "description": "", "fields": {"width": 4096}},
        ]
    }


async def test_a_caller_without_a_key_sees_none(house: House) -> None:
    async with house.gateway() as replica:
        assert (await replica.client.get("/v1/recipes", headers={"authorization": ""})).status_code == 401


async def test_the_recipes_name_is_sent_and_the_worker_fills_it_in(house: House) -> None:
    async with house.gateway() as replica:
        assert (await replica.post({"request_id": "a", "prompt": "a dancer", "recipe": "few"})).status_code == 202
    [sent] = house.kafka.sent
    assert (sent.recipe, sent.steps, sent.sampler) == ("few", None, "euler_ancestral")


@pytest.mark.parametrize(
    ("recipe", "told"),
    [("fewer", "recipe 'fewer' is not known: there are few, large"), ("large", "width and height must be")],
)
async def test_what_a_worker_would_refuse_is_refused(house: House, recipe: str, told: str) -> None:
    async with house.gateway() as replica:
        answer = await replica.post({"request_id": "a", "prompt": "a dancer", "recipe": recipe})
    assert answer.status_code == 422
    assert told in answer.json()["detail"]
    assert house.kafka.sent == []


async def test_a_gateway_without_a_file_leaves_recipes_to_the_workers() -> None:
    house = House()
    async with house.gateway() as replica:
        assert (await replica.client.get("/v1/recipes")).json() == {"recipes": []}
        assert (await replica.post({"request_id": "a", "prompt": "a dancer", "recipe": "few"})).status_code == 202


async def test_a_file_that_cannot_be_used_keeps_the_gateway_from_starting(tmp_path: Path) -> None:
    file = tmp_path / "recipes.toml"
    file.write_text("[few]\nsteps = 0")
    with pytest.raises(SettingsError, match="recipe few: steps must be at least 1"):
        async with serving(file).gateway():
            raise AssertionError("it started")
