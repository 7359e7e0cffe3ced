"""The parity table of what a request can ask for: each row of it within 1/255 of diffusers, in four ways of painting.

Rows are each sampler with the model's own schedule and with Karras', weighted and long prompts, two adapters, a LoKr,
and guidance in a window and rescaled, each for a model that predicts epsilon and for one that predicts v. Each row is
painted alone, in a batch, joining one mid-way, and again. A new sampler has its rows by standing in `SAMPLERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from darkroom.inference.sdxl import ModelFiles, SdxlDevice
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import AdapterUse, RenderRequest
from darkroom.schemas.events.samplers import SAMPLERS, pair_fault
from tests.inference import language, loras
from tests.inference.encoding import painted_from
from tests.inference.painting import (
    PLAIN,
    TOLERANCE,
    Oracle,
    Pixels,
    distance,
    paint,
    paint_by_hand,
    paint_together,
    variant,
)

pytestmark = pytest.mark.render

STEPS: Final = 4
BATCH: Final = 8
"""Rows that share steps."""
_LONG: Final = [" ".join(["red fox cub car hut"] * 5), "deep snow"]
"""What fills a chunk of 75 tokens, and what goes into the next one: the tiny model has a token a letter."""

Painter = Callable[[Oracle, RenderRequest], Pixels]


@dataclass(frozen=True, slots=True)
class Row:
    """A request, and diffusers' picture of it."""

    request: RenderRequest
    expected: Painter


def _asked(**changes: Any) -> RenderRequest:
    return replace(PLAIN, steps=STEPS, negative_prompt="dark", **changes)


def _with_lokr(oracle: Oracle, request: RenderRequest) -> Pixels:
    """Paint with the LoKr added to the weights: diffusers cannot load one."""
    [use] = request.adapters
    unet = oracle.plain.unet
    with _changed(unet, use.weight):
        return oracle.paint(replace(request, adapters=(), image_text={"for": "its own place in the oracle's memory"}))


@contextmanager
def _changed(unet: torch.nn.Module, weight: float) -> Iterator[None]:
    layers = loras.transformer_layers(unet, loras.ATTENTION)
    factors = language.lokr_tensors(unet, layers)
    kept = {}
    for layer in layers:
        module: Any = unet.get_submodule(layer)
        kept[layer] = module.weight.data
        flat = f"lycoris_{layer.replace('.', '_')}"
        change = torch.kron(factors[f"{flat}.lokr_w1"], factors[f"{flat}.lokr_w2"])
        module.weight.data = kept[layer] + weight * change
    try:
        yield
    finally:
        for layer, before in kept.items():
            unet.get_submodule(layer).weight.data = before  # type: ignore[union-attr]


ROWS: Final[dict[str, Row]] = {
    **{
        f"{sampler}, {schedule or 'the models schedule'}": Row(_asked(sampler=sampler, schedule=schedule), Oracle.paint)
        for sampler in SAMPLERS
        for schedule in (None, "karras")
        if pair_fault(sampler, schedule, STEPS) is None
    },
    "weighted prompt": Row(
        _asked(prompt="a (red:1.4) [fox]", prompt_syntax="weighted"),
        lambda oracle, request: painted_from(oracle, request, [[("a", 1), ("red", 1.4), ("fox", 1 / 1.1)]]),
    ),
    "long prompt": Row(
        _asked(prompt=" ".join(_LONG), prompt_syntax="weighted", sampler="dpmpp_2m"),
        lambda oracle, request: painted_from(oracle, request, [[(text, 1)] for text in _LONG]),
    ),
    "two adapters": Row(
        _asked(adapters=(AdapterUse("ink", 0.7), AdapterUse("oil", 0.5, 0.2)), sampler="dpmpp_2m_sde"), Oracle.paint
    ),
    "LoKr": Row(_asked(adapters=(AdapterUse("weave", 0.6),), sampler="unipc"), _with_lokr),
    "guidance in a window": Row(
        _asked(guidance_start=0.2, guidance_end=0.7, sampler="euler", schedule="karras"), paint_by_hand
    ),
    "guidance rescaled": Row(_asked(guidance_scale=9.0, guidance_rescale=0.7, sampler="ddim"), Oracle.paint),
}
WAYS: Final = ("alone", "in a batch", "joining mid-way", "again")


class Painted:
    """All rows, painted in each of `WAYS` by one model, and diffusers on the same folders."""

    def __init__(self, model: TinyModel, adapters: Path) -> None:
        self._oracle = Oracle(model.path, model.controlnet_path, adapters_path=adapters)
        files = ModelFiles(model.path, model.controlnet_path, adapters_path=adapters)
        device = SdxlDevice(lambda: files, device="cpu", cpu_threads=1)
        device.load()
        requests = [row.request for row in ROWS.values()]
        ways = (
            [paint(device, one) for one in requests],
            _in_company(device, requests, joins_every=0),
            _in_company(device, requests, joins_every=1),
            [paint(device, one) for one in requests],
        )
        device.close()
        self.pictures = {way: dict(zip(ROWS, pictures, strict=True)) for way, pictures in zip(WAYS, ways, strict=True)}

    def expected(self, name: str) -> Pixels:
        """Return diffusers' picture."""
        return ROWS[name].expected(self._oracle, ROWS[name].request)


def _in_company(device: SdxlDevice, requests: Sequence[RenderRequest], *, joins_every: int) -> list[Pixels]:
    """Paint each with others, dealt out so that samplers mix; the nth joins after n * `joins_every` steps."""
    companies = -(-len(requests) // BATCH)
    painted: dict[int, Pixels] = {}
    for company in range(companies):
        places = range(company, len(requests), companies)
        joining = [(number * joins_every, requests[place]) for number, place in enumerate(places)]
        painted |= dict(zip(places, paint_together(device, joining), strict=True))
    return [painted[place] for place in range(len(requests))]


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def painted(request: pytest.FixtureRequest, tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Painted:
    folder = tmp_path_factory.mktemp("parity")
    (folder / "adapters").mkdir()
    language.write_adapters(folder / "adapters", tiny)
    changes = {"model/scheduler/scheduler_config.json": {"prediction_type": request.param}}
    torch.set_num_threads(1)
    return Painted(variant(tiny, folder, changes), folder / "adapters")


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_table_is_diffusers_picture(painted: Painted, name: str) -> None:
    expected = painted.expected(name)
    apart = {way: distance(painted.pictures[way][name], expected) for way in WAYS}
    assert {way: far for way, far in apart.items() if far > TOLERANCE} == {}
    assert distance(painted.pictures["again"][name], painted.pictures["alone"][name]) == 0, "a replay has the same bits"


def test_rows_differ_from_each_other(painted: Painted) -> None:
    """Or else parity would be cheap. DDIM is Euler in other coordinates."""
    alone = painted.pictures["alone"]
    for name in ("weighted prompt", "long prompt", "two adapters", "LoKr", "guidance in a window", "guidance rescaled"):
        request = ROWS[name].request
        plain = next(
            one
            for one, row in ROWS.items()
            if (row.request.sampler, row.request.schedule) == (request.sampler, request.schedule)
        )
        assert distance(alone[name], alone[plain]) > TOLERANCE, name
