"""A memory plan carried out on the tiny model: whatever the plan says, the picture is the one that it was.

On a CPU every place is the same one, but the code's way is that of a GPU: parts loaded to the host, brought for their
lane's turn and taken away. A GPU's own parts of it (streams, pinned memory, fp16) were not run here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from torch import nn

from darkroom.inference.engine import LaneEngine
from darkroom.inference.planning.memory_layout import MemoryLayout, Place
from darkroom.inference.planning.memory_plan import Attention, AttentionProbe, MemoryPlan, plan_memory
from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.sdxl.denoise.attention import fuse_projections
from darkroom.inference.sdxl.loading.placement import HOST, Wishes, place, placed
from darkroom.inference.sdxl.loading.residence import Residence, WeightMover
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import JobPrepared, JobRendered, Lane, ModelError, Part, RenderJob, RowId, Series
from tests.inference.painting import PLAIN, POSED, TOLERANCE, Oracle, distance, load, paint, paint_together, pixels
from tests.inference.scripted import EventLog

pytestmark = pytest.mark.render

CPU = torch.device("cpu")
FP32 = torch.float32
PROBE = AttentionProbe(1.0, None)


@pytest.fixture(scope="module")
def plan(tiny: TinyModel) -> MemoryPlan:
    folders = {part: tiny.path / part for part in ("unet", "vae", "text_encoder", "text_encoder_2")}
    return place({**folders, "controlnet": tiny.controlnet_path}, device=CPU, dtype=FP32, probe=lambda *_: PROBE).plan


def offloaded(plan: MemoryPlan) -> MemoryPlan:
    return replace(plan, layout=MemoryLayout(Place.SAME, Place.SAME, Series.ALL))


# --- The same pictures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"attention": Attention.SLICED},
        {"fuse_qkv": True},
        {"channels_last": True},
        {"vae_slicing": True},
        {"layout": MemoryLayout(Place.SAME, Place.SAME, Series.ALL)},
        {"layout": MemoryLayout(Place.CPU, Place.SAME, Series.DENOISE_AND_FINISH)},
    ],
    ids="-".join,
)
def test_a_picture_does_not_depend_on_the_plan(
    tiny: TinyModel, plan: MemoryPlan, oracle: Oracle, change: dict[str, Any]
) -> None:
    device = load(tiny, plan=replace(plan, **change))
    request = replace(POSED, guidance_scale=6.0)
    assert distance(paint(device, request), oracle.paint(request)) <= TOLERANCE
    together = paint_together(device, [(0, PLAIN), (1, request)])
    for painted, asked in zip(together, (PLAIN, request), strict=True):
        assert distance(painted, oracle.paint(asked)) <= TOLERANCE


def test_the_form_that_is_planned_is_the_form_that_runs(tiny: TinyModel, plan: MemoryPlan) -> None:
    formed = load(tiny, plan=replace(plan, fuse_qkv=True, channels_last=True, vae_slicing=True))
    components = formed._loaded().components
    for network in (components.unet, components.controlnets["controlnet"]):
        assert {type(one).__name__ for one in network.attn_processors.values()} == {"FusedAttnProcessor2_0"}
        assert network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert components.vae.use_slicing
    sliced = load(tiny, plan=replace(plan, attention=Attention.SLICED))._loaded().components
    assert {type(one).__name__ for one in sliced.unet.attn_processors.values()} == {"SlicedAttnProcessor"}
    plain = load(tiny, plan=plan)._loaded().components
    assert {type(one).__name__ for one in plain.unet.attn_processors.values()} == {"AttnProcessor2_0"}
    assert not plain.vae.use_slicing


def test_fused_projections_take_no_more_memory(tiny: TinyModel) -> None:
    library: Any = diffusers
    unet = library.UNet2DConditionModel.from_pretrained(tiny.path / "unet", local_files_only=True)
    before = sum(weight.numel() for weight in unet.parameters())
    fuse_projections(unet)
    assert sum(weight.numel() for weight in unet.parameters()) == before
    assert not any(weight.requires_grad for weight in unet.parameters())


# --- Tiles -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tiling_oracle(oracle: Oracle) -> Iterator[Oracle]:
    """diffusers' pipeline with its own `enable_tiling`."""
    painted, oracle._painted = oracle._painted, {}
    oracle.plain.vae.enable_tiling()
    yield oracle
    oracle.plain.vae.disable_tiling()
    oracle._painted = painted


def test_pictures_above_the_limit_are_tiled_as_diffusers_tiles_them(
    tiny: TinyModel, plan: MemoryPlan, tiling_oracle: Oracle, shared_device: SdxlDevice
) -> None:
    device = load(tiny, plan=replace(plan, vae_tiled_above_pixels=64 * 64))
    large = replace(PLAIN, width=160, height=96, steps=2)
    tiled, whole = paint(device, large), paint(shared_device, large)
    assert distance(tiled, tiling_oracle.paint(large)) <= TOLERANCE
    assert distance(tiled, whole) > TOLERANCE, "tiles show, and so this test can fail"
    small = replace(PLAIN, steps=2)
    assert distance(paint(device, small), paint(shared_device, small)) <= TOLERANCE


def test_sdxls_own_sizes_are_decoded_whole(plan: MemoryPlan) -> None:
    """diffusers' `enable_tiling` would cut them, going by the longer side."""
    assert plan.vae_tiled_above_pixels == 1024 * 1024
    assert all(width * height <= plan.vae_tiled_above_pixels for width, height in ((1152, 896), (1344, 768)))


# --- Offload ---------------------------------------------------------------------------------------------------


class Ledger:
    """Carries nothing, and writes down what it was to carry."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, nn.Module]] = []

    def bring(self, network: nn.Module) -> None:
        self.lines.append(("bring", network))

    def take_away(self, network: nn.Module) -> None:
        self.lines.append(("take away", network))


def test_a_lanes_networks_come_with_its_turn_and_go_before_the_next() -> None:
    text, unet, controlnet, vae = (nn.Linear(1, 1) for _ in range(4))
    ledger = Ledger()
    residence = Residence({Lane.PREPARE: [text], Lane.DENOISE: [unet, controlnet], Lane.FINISH: [vae]}, ledger)
    for lane in (Lane.PREPARE, Lane.PREPARE, Lane.DENOISE, Lane.DENOISE, Lane.FINISH, Lane.DENOISE):
        residence.enter(lane)
    assert ledger.lines == [
        ("bring", text),
        ("take away", text),
        ("bring", unet),
        ("bring", controlnet),
        ("take away", unet),
        ("take away", controlnet),
        ("bring", vae),
        ("take away", vae),
        ("bring", unet),
        ("bring", controlnet),
    ]


def test_what_could_not_be_brought_is_tried_again() -> None:
    network, ledger = nn.Linear(1, 1), Ledger()
    residence = Residence({Lane.DENOISE: [network]}, ledger)
    bring, ledger.bring = ledger.bring, _fail  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        residence.enter(Lane.DENOISE)
    ledger.bring = bring  # type: ignore[method-assign]
    residence.enter(Lane.DENOISE)
    assert ledger.lines == [("bring", network)]


def _fail(_network: nn.Module) -> None:
    raise MemoryError


class Elsewhere(WeightMover):
    """A device that is not the host, in the host's memory."""

    def _copied(self, host: torch.Tensor) -> torch.Tensor:
        return host.clone()


def test_the_hosts_copy_is_kept_and_comes_back() -> None:
    network = nn.BatchNorm1d(2)
    on_host = {name: tensor.data_ptr() for name, tensor in network.state_dict().items()}
    mover = Elsewhere(CPU)
    for _ in range(2):
        with torch.inference_mode():
            mover.bring(network)
            brought = {name: tensor.data_ptr() for name, tensor in network.state_dict().items()}
            assert not set(brought.values()) & set(on_host.values()), "buffers come, too"
            mover.take_away(network)
        assert {name: tensor.data_ptr() for name, tensor in network.state_dict().items()} == on_host


def test_an_offloaded_model_renders_the_same_through_the_engine(
    tiny: TinyModel, plan: MemoryPlan, oracle: Oracle
) -> None:
    device = SdxlDevice(tiny.path, tiny.controlnet_path, cpu_threads=1, device="cpu", plan=offloaded(plan))
    engine, log = LaneEngine(device, rows_max=4), EventLog()
    engine.start(log)
    requests = [replace(PLAIN, seed=seed, steps=3 + seed % 2) for seed in range(3)] + [replace(POSED, seed=9)]
    try:
        for number, request in enumerate(requests):
            engine.prepare(RenderJob(f"job-{number}", request))
        for number in range(len(requests)):
            log.wait(JobPrepared, f"job-{number}")
            engine.admit([RowId(f"job-{number}", 0)])
        for number, request in enumerate(requests):
            image = log.wait(JobRendered, f"job-{number}").images[0]
            assert distance(pixels(image), oracle.paint(request)) <= TOLERANCE
    finally:
        engine.close()


def test_an_offloaded_model_can_be_timed(tiny: TinyModel, plan: MemoryPlan) -> None:
    device = SdxlDevice(tiny.path, tiny.controlnet_path, cpu_threads=1, device="cpu", plan=offloaded(plan))
    device.load()
    assert all(device.measure(part, 8, 8, 2) > 0 for part in (*Part, *reversed(Part)))
    device.close()


# --- Places ----------------------------------------------------------------------------------------------------


def test_offloaded_parts_are_loaded_to_the_host_and_others_to_their_device(plan: MemoryPlan) -> None:
    gpu, second = torch.device("cuda:0"), torch.device("cuda:1")
    beside = placed(plan, device=gpu, dtype=torch.float16)
    assert {beside.home(part) for part in ("unet", "controlnet", "vae", "text_encoder")} == {gpu}
    away = placed(offloaded(plan), device=gpu, dtype=torch.float16, vae_device=second)
    assert [away.home(part) for part in ("unet", "text_encoder_2", "vae")] == [HOST, HOST, second]
    assert away.device_of(Lane.DENOISE) == gpu


def test_text_encoders_beside_a_gpu_are_in_fp32_on_the_cpu(plan: MemoryPlan) -> None:
    on_cpu = replace(plan, layout=MemoryLayout(Place.CPU, Place.SAME, Series.NONE))
    placement = placed(on_cpu, device=torch.device("cuda:0"), dtype=torch.float16)
    assert placement.text_device == HOST
    assert (placement.dtype_of("text_encoder"), placement.dtype_of("unet")) == (torch.float32, torch.float16)
    assert placed(on_cpu, device=CPU, dtype=torch.bfloat16).dtype_of("text_encoder") is torch.bfloat16


@pytest.mark.parametrize(
    ("wishes", "sentence"),
    [
        (Wishes(text_device="cuda:7"), r"The device cuda:7 is not there: torch sees \d+ GPUs"),
        (Wishes(vae_device="gpu one"), "There is no torch device 'gpu one'"),
    ],
)
def test_a_place_that_is_not_there_is_a_sentence(tiny: TinyModel, wishes: Wishes, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        load(tiny, wishes=wishes)


def test_the_plan_is_part_of_what_is_known_of_a_model(shared_device: SdxlDevice, plan: MemoryPlan) -> None:
    known = shared_device.plan
    assert known.model == plan.model
    assert known.attention is Attention.SDPA
    assert (shared_device.series, shared_device.rows_ceiling(8, 8)) == (Series.NONE, None)


def test_the_ceiling_is_the_plans(tiny: TinyModel, plan: MemoryPlan) -> None:
    bounded = plan_memory(
        plan.model, device_kind="cuda", memory_bytes=2 * 10**9, dtype="float32", width=64, height=64, probe=PROBE
    )
    device = load(tiny, plan=replace(bounded, fuse_qkv=False))
    assert device.rows_ceiling(64, 64) == bounded.rows_ceiling(64, 64)
    assert device.rows_ceiling(64, 64) is not None
