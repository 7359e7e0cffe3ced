"""Control pictures at the gateway: the kinds that it lists, and pictures that a tenant may not read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from darkroom.schemas.errors import SettingsError
from darkroom.schemas.settings import load_settings
from tests.producer.gateway.house import House

CONTROLNETS = [
    {"name": "union", "path": "/models/union", "kinds": ["depth", "softedge"]},
    {"name": "edges", "path": "s3://models/edges", "kinds": ["canny"]},
]


def loaded(**variables: str) -> Any:
    return load_settings(environ={f"DARKROOM_MODEL__{name}": value for name, value in variables.items()}).model


def serving(**variables: str) -> House:
    house = House()
    house.settings = house.settings.model_copy(update={"model": loaded(**variables)})
    return house


async def listed(house: House) -> list[dict[str, str]]:
    async with house.gateway() as replica:
        answer = await replica.client.get("/v1/controls")
    controls: list[dict[str, str]] = answer.json()["controls"]
    return controls


async def test_the_kinds_are_listed_with_their_controlnets() -> None:
    assert await listed(serving(CONTROLNETS=json.dumps(CONTROLNETS))) == [
        {"kind": "canny", "controlnet": "edges"},
        {"kind": "depth", "controlnet": "union"},
        {"kind": "openpose", "controlnet": "controlnet"},
        {"kind": "softedge", "controlnet": "union"},
    ]


async def test_a_model_without_a_controlnet_follows_nothing() -> None:
    assert await listed(serving(PATH="/models/sdxl")) == []
    assert await listed(serving(PATH="/models/sdxl", CONTROLNET_PATH="/models/poses")) == [
        {"kind": "openpose", "controlnet": "controlnet"}
    ]


async def test_a_control_picture_of_another_tenant_is_forbidden() -> None:
    house = House()
    own, others = ({"bucket": house.objects.bucket, "key": f"{tenant}/x.png"} for tenant in ("studio", "other"))
    async with house.gateway() as replica:
        asked = {"prompt": "p", "controls": [{"kind": "canny", "image": own}, {"kind": "depth", "image": others}]}
        answer = await replica.post({"request_id": "a", **asked})
        assert answer.status_code == 403
        assert "controls.1" in answer.json()["detail"]
        asked["controls"].pop()
        assert (await replica.post({"request_id": "b", **asked})).status_code == 202


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kinds": ["dept"]}, "openpose"),
        ({"kinds": []}, "at least 1"),
        ({"name": "a b"}, "name"),
        ({"size": 1}, "size"),
    ],
)
def test_a_controlnet_that_cannot_be_used_is_refused_with_its_variable(change: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match="DARKROOM_MODEL__CONTROLNETS") as caught:
        loaded(CONTROLNETS=json.dumps([CONTROLNETS[0] | change]))
    assert said in str(caught.value)
