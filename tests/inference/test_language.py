"""Proves that a request drawn from the whole language is the same picture in any company as alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darkroom.inference.sdxl import ModelFiles, SdxlDevice
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import RenderRequest
from darkroom.schemas.events.fields import facts_of
from darkroom.schemas.events.request import GenerationRequest
from tests.inference import language
from tests.inference.painting import TOLERANCE, distance, paint, paint_together

pytestmark = pytest.mark.render

DRAWN = 400


@pytest.fixture(scope="module")
def device(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SdxlDevice]:
    """A device that has the language's adapters."""
    folder = tmp_path_factory.mktemp("adapters")
    language.write_adapters(folder, tiny)
    files = ModelFiles(tiny.path, tiny.controlnet_path, adapters_path=folder)
    device = SdxlDevice(lambda: files, device="cpu", cpu_threads=1)
    device.load()
    assert set(device.info.adapters) == set(language.ADAPTERS), device.info.adapters_refused
    yield device
    device.close()


def test_every_field_that_decides_pixels_is_drawn() -> None:
    dice = random.Random(1)
    made = [language.drawn(dice) for _ in range(DRAWN)]
    deciding = {name for name, facts in facts_of(GenerationRequest).items() if facts.decides == "picture"}
    left_out = deciding - {name for one in made for name in one}
    assert not left_out, f"draw {', '.join(sorted(left_out))} in tests/inference/language.py"
    for name in deciding - {"recipe"}:
        seen = {repr(one.get(name)) for one in made}
        assert len(seen) > 1, f"{name} is always the same"


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dice=st.randoms(use_true_random=False), rows=st.integers(2, 6))
def test_a_request_is_the_same_in_any_company(device: SdxlDevice, dice: random.Random, rows: int) -> None:
    requests = [one for _ in range(rows) for one in language.resolved(language.drawn(dice), device.info)]
    for company in _of_one_size(requests):
        joining = sorted(((dice.randrange(6), request) for request in company), key=lambda one: one[0])
        together = paint_together(device, joining)
        for (_, request), picture in zip(joining, together, strict=True):
            assert distance(picture, paint(device, request)) <= TOLERANCE, request


def _of_one_size(requests: Sequence[RenderRequest]) -> list[list[RenderRequest]]:
    sizes: dict[tuple[int, int], list[RenderRequest]] = {}
    for request in requests:
        sizes.setdefault((request.width, request.height), []).append(request)
    return list(sizes.values())
