"""Proves of compiled regions: nothing is compiled under load, whatever has no compiled form runs eagerly, padding
changes no picture, and a compiler that is missing stops nobody.

The backend runs what torch captured as it is and counts: the same capture, guards and counters as with a real one,
and no C++ compiler needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from torch._dynamo.utils import counters

from darkroom.inference.sdxl import ControlNetFiles, ModelFiles, SdxlDevice
from darkroom.inference.sdxl.denoise.compiled import CompiledRegions, Padded, StaticShapes, slot_buckets
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import Part
from tests.inference.controls import ControlOracle, UnionOracle, control, edges, slope, write_controlnet, write_union
from tests.inference.painting import PLAIN, POSED, SITTING, TOLERANCE, Oracle, distance, load, paint, paint_together

pytestmark = pytest.mark.render

MIXED = [
    (0, replace(POSED, steps=5, seed=1)),
    (1, replace(PLAIN, steps=3, seed=2, guidance_scale=1.0)),
    (1, replace(POSED, steps=6, seed=3, pose=SITTING, control_end=0.5)),
    (2, replace(PLAIN, steps=4, seed=4, sampler="euler")),
    (7, replace(POSED, steps=2, seed=5, guidance_scale=0.0)),
]
"""Every count of slots from 1 to 7, with and without the ControlNet."""


class Slots:
    """Counts the slots of a network's forwards."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.seen: list[int] = []
        self._hook = network.register_forward_pre_hook(lambda _module, arguments: self.seen.append(len(arguments[0])))

    def close(self) -> None:
        self._hook.remove()


class CountingBackend:
    """Compiles nothing; counts how often a captured graph ran."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, graph: torch.fx.GraphModule, _inputs: Any) -> Any:
        def run(*arguments: Any) -> Any:
            self.runs += 1
            return graph.forward(*arguments)

        return run


BACKEND = CountingBackend()


@pytest.fixture(scope="module")
def compiled(tiny: TinyModel) -> Iterator[SdxlDevice]:
    torch.compiler.reset()
    device = load(tiny, compiles="on", rows_max=4, compile_backend=BACKEND)
    yield device
    device.close()
    torch.compiler.reset()


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def test_what_is_measured_is_what_is_compiled(compiled: SdxlDevice) -> None:
    known, ran = graphs(), BACKEND.runs
    for part in (Part.UNET, Part.CONTROLNET):
        assert compiled.measure(part, 8, 8, 3) > 0
    assert BACKEND.runs > ran
    ran = BACKEND.runs
    assert compiled.measure(Part.UNET, 16, 16, 3) > 0, "a size that is not on the list runs eagerly"
    assert (graphs(), BACKEND.runs) == (known, ran)
    assert (compiled.buckets(8, 8), compiled.buckets(16, 16)) == (slot_buckets(4), ())
    assert compiled.measured_on()["compiled"] != "no"


def test_economy_rows_keep_and_reuse_the_same_beside_padding(compiled: SdxlDevice, shared_device: SdxlDevice) -> None:
    economy = replace(POSED, fidelity="economy", steps=18)
    requests = [replace(economy, sampler="euler", seed=6), replace(economy, seed=7, guidance_scale=1.0)]
    before = graphs()
    together = paint_together(compiled, [(0, requests[0]), (1, requests[1]), (3, replace(POSED, seed=8))])
    for request, picture in zip(requests, together, strict=False):
        assert distance(picture, paint(shared_device, request)) <= TOLERANCE
    assert graphs() == before, "a shallow forward has no block that would be compiled"


def test_pictures_of_padded_compiled_batches_are_the_pipelines_and_nothing_is_compiled_under_load(
    compiled: SdxlDevice, oracle: Oracle
) -> None:
    before, runs_before = graphs(), BACKEND.runs
    assert before > 0, "nothing was compiled, so this test would prove nothing"
    model = compiled._loaded()
    assert model.networks.regions is not None
    slots, controlnet_slots = Slots(model.networks.unet), Slots(model.networks.controlnets[0])
    painted = paint_together(compiled, MIXED)
    slots.close()
    controlnet_slots.close()
    assert set(controlnet_slots.seen) == {2, 4}
    assert set(slots.seen) <= {2, 4, 8}, "the UNet ran at a count of slots that is no bucket"
    for (_, request), picture in zip(MIXED, painted, strict=True):
        assert distance(picture, oracle.paint(request)) <= TOLERANCE
    assert graphs() == before
    unet_blocks, controlnet_blocks = (
        len([one for one in network.modules() if isinstance(one, BasicTransformerBlock)])
        for network in (model.networks.unet, model.networks.controlnets[0])
    )
    runs = unet_blocks * len(slots.seen) + controlnet_blocks * len(controlnet_slots.seen)
    assert BACKEND.runs - runs_before == runs > 0, "the compiled blocks of both networks were not used"


def test_other_sizes_and_larger_batches_run_eagerly_and_unpadded(compiled: SdxlDevice, oracle: Oracle) -> None:
    before, runs_before = graphs(), BACKEND.runs
    wide = [(0, replace(POSED, width=96, steps=2, seed=seed)) for seed in range(3)]
    many = [(0, replace(PLAIN, steps=2, seed=seed)) for seed in range(5)]
    model = compiled._loaded()
    slots = Slots(model.networks.unet)
    painted = [paint_together(compiled, requests) for requests in (wide, many)]
    slots.close()
    assert set(slots.seen) == {6, 10}
    assert (graphs(), BACKEND.runs) == (before, runs_before)
    for requests, pictures in zip((wide, many), painted, strict=True):
        assert distance(pictures[-1], oracle.paint(requests[-1][1])) <= TOLERANCE


def test_further_controlnets_are_compiled_and_padded_each_to_its_own_bucket(
    tiny: TinyModel, oracle: Oracle, tmp_path: Path
) -> None:
    torch.compiler.reset()
    canny = write_controlnet(tmp_path / "canny", tiny.controlnet_path, 1)
    union = write_union(tmp_path / "union", tiny.controlnet_path, 2)
    further = (ControlNetFiles("canny", canny, ("canny",)), ControlNetFiles("union", union, ("depth", "normal")))
    files = ModelFiles(tiny.path, tiny.controlnet_path, controlnets=further)
    backend = CountingBackend()
    device = SdxlDevice(lambda: files, device="cpu", cpu_threads=1, compiles="on", rows_max=4, compile_backend=backend)
    device.load()
    before = graphs()
    lines, depth = control("canny", edges()), control("depth", slope(), scale=0.7)
    one, two = replace(PLAIN, seed=41, controls=(lines,)), replace(PLAIN, seed=42, controls=(depth,))
    watched = [Slots(network) for network in device._loaded().networks.controlnets]
    painted = paint_together(device, [(0, one), (0, two), (0, POSED), (1, replace(one, seed=43))])
    assert [set(slots.seen) for slots in watched] == [{2}, {2, 4}, {2}]
    assert graphs() == before
    assert backend.runs > 0
    assert distance(painted[0], ControlOracle(oracle, {"canny": canny}).paint(one)) <= TOLERANCE
    assert distance(painted[1], UnionOracle(oracle, union).paint(two)) <= TOLERANCE
    device.close()


def test_a_backend_that_fails_leaves_an_eager_device(tiny: TinyModel, oracle: Oracle) -> None:
    def broken(_graph: Any, _inputs: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    torch.compiler.reset()
    device = load(tiny, compiles="on", rows_max=2, compile_backend=broken)
    assert device._loaded().networks.regions is None
    request = replace(POSED, steps=2)
    assert distance(paint_together(device, [(0, request)])[0], oracle.paint(request)) <= TOLERANCE
    device.close()


def test_levels_of_one_width_are_all_compiled(tiny: TinyModel) -> None:
    """Without a ControlNet: blocks of one width that see different counts of tokens are further forms of one code."""
    torch.compiler.reset()
    device = SdxlDevice(tiny.path, device="cpu", cpu_threads=1, compiles="on", rows_max=4, compile_backend="eager")
    device.load()
    assert device._loaded().networks.regions is not None
    device.close()


def test_nothing_is_compiled_on_a_cpu_unless_asked(shared_device: SdxlDevice) -> None:
    assert shared_device._loaded().networks.regions is None


@torch.inference_mode()
def test_a_shape_that_comes_after_the_seal_is_not_compiled(tiny: TinyModel) -> None:
    torch.compiler.reset()
    device = load(tiny)
    unet = device._loaded().networks.unet
    regions = CompiledRegions([unet], shapes_max=8, backend="eager")
    block = next(module for module in unet.modules() if isinstance(module, BasicTransformerBlock))

    def run(slots: int) -> torch.Tensor:
        with regions.entered(is_static=True):
            output: torch.Tensor = block(
                torch.ones(slots, 16, block.dim),
                encoder_hidden_states=torch.ones(slots, 77, unet.config.cross_attention_dim),
            )
        return output

    run(2)
    before = graphs()
    run(3)
    assert graphs() > before
    regions.seal()
    before = graphs()
    assert torch.allclose(run(4)[:3], run(3), atol=1e-5)
    assert graphs() == before
    device.close()


def test_only_the_repeated_blocks_are_compiled(tiny: TinyModel) -> None:
    device = load(tiny)
    unet = device._loaded().networks.unet
    regions = CompiledRegions([unet], shapes_max=1, backend="eager")
    blocks = [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]
    assert regions.count == len(blocks) > 0
    assert all(block._compiled_call_impl is not None for block in blocks)
    assert unet._compiled_call_impl is None
    regions.give_up()
    assert all(block._compiled_call_impl is None for block in blocks)
    device.close()


@pytest.mark.parametrize(
    ("slots", "control", "expected"),
    [
        (1, 0, Padded(2, 0, True)),
        (2, 1, Padded(2, 2, True)),
        (3, 3, Padded(4, 4, True)),
        (8, 5, Padded(8, 8, True)),
        (9, 1, Padded(9, 1, False)),
    ],
)
def test_slots_are_padded_to_the_next_bucket(slots: int, control: int, expected: Padded) -> None:
    shapes = StaticShapes([(8, 8)], slot_buckets(4))
    assert shapes.pad(8, 8, unet_slots=slots, control_slots=control) == expected
    assert shapes.pad(8, 12, unet_slots=slots, control_slots=control) == Padded(slots, control, False)


@pytest.mark.parametrize(
    ("rows", "buckets"), [(1, (2,)), (2, (2, 4)), (3, (2, 4, 6)), (5, (2, 4, 8, 10)), (8, (2, 4, 8, 16))]
)
def test_buckets_are_powers_of_two_up_to_the_largest_batch(rows: int, buckets: tuple[int, ...]) -> None:
    assert slot_buckets(rows) == buckets


def test_shapes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one bucket"):
        StaticShapes([(8, 8)])
    with pytest.raises(ValueError, match="counted from 1"):
        StaticShapes([(8, 8)], [0, 2])
