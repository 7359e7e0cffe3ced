"""SDXL at its full size on torch's meta device: sizes, shapes, and the numbers that the memory plan is made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from darkroom.inference.planning.memory_model import (
    CONTROL_NUMBERS,
    DECODE_NUMBERS,
    KEPT_NUMBERS,
    POSE_NUMBERS,
    PREPARE_BYTES,
    SLOT_NUMBERS,
    ModelSize,
)
from darkroom.inference.planning.reuse import NOISY, STEADY
from darkroom.inference.sdxl.denoise.reuse import ShallowNetwork
from darkroom.inference.sdxl.loading.full_size import FULL_SIZE, FullSize, full_size_components
from darkroom.inference.sdxl.loading.placement import model_size
from darkroom.inference.types import SHALLOW_SHARE, ModelError
from tests.inference.live_bytes import peak_bytes

pytestmark = pytest.mark.render


@pytest.fixture(scope="module")
def sdxl() -> FullSize:
    return full_size_components("meta", torch.float16, vae_dtype=torch.float32)


@pytest.fixture(scope="module")
def pose_encoder(sdxl: FullSize) -> Any:
    """Taken out of the ControlNet, as the loader does it."""
    assert sdxl.controlnet is not None
    encoder = sdxl.controlnet.controlnet_cond_embedding
    sdxl.controlnet.controlnet_cond_embedding = torch.nn.Identity()
    return encoder


def parameters(network: Any) -> int:
    return sum(tensor.numel() for tensor in network.parameters())


def step(sdxl: FullSize, slots: int, side: int, *, control: bool) -> Any:
    """A step's forwards, as `darkroom.inference.sdxl.denoise.step` makes them."""
    latent = side // 8
    half = {"device": "meta", "dtype": torch.float16}
    sample, timestep = torch.empty(slots, 4, latent, latent, **half), torch.empty(slots, device="meta")
    shared = {
        "encoder_hidden_states": torch.empty(slots, 77, 2048, **half),
        "added_cond_kwargs": {
            "text_embeds": torch.empty(slots, 1280, **half),
            "time_ids": torch.empty(slots, 6, **half),
        },
        "return_dict": False,
    }
    residuals = {}
    if control:
        assert sdxl.controlnet is not None
        down, mid = sdxl.controlnet(
            sample,
            timestep,
            controlnet_cond=torch.empty(slots, 320, latent, latent, **half),
            conditioning_scale=torch.empty(slots, 1, 1, 1, **half),
            **shared,
        )
        residuals = {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": mid}
    return sdxl.unet(sample, timestep, **shared, **residuals)[0]


def test_parameters_are_those_of_the_published_checkpoints(sdxl: FullSize) -> None:
    """2.567 billion in the UNet is SDXL's own figure; the others are counted in the checkpoints' files."""
    assert parameters(sdxl.unet) == 2_567_463_684
    assert parameters(sdxl.vae) == 83_653_863
    assert [parameters(encoder) for encoder in sdxl.text_encoders] == [123_060_480, 694_659_840]


def test_the_controlnet_is_the_unets_half_with_its_own_encoder(sdxl: FullSize, pose_encoder: Any) -> None:
    assert parameters(sdxl.controlnet) + parameters(pose_encoder) == 1_251_014_160
    without = full_size_components("meta", torch.float16, controlnet=False)
    assert without.controlnet is None


def test_shapes_at_1024_with_eight_guided_posed_rows(sdxl: FullSize, pose_encoder: Any) -> None:
    assert tuple(step(sdxl, 16, 1024, control=True).shape) == (16, 4, 128, 128)
    picture = sdxl.vae.decode(torch.empty(1, 4, 128, 128, device="meta"), return_dict=False)[0]
    assert tuple(picture.shape) == (1, 3, 1024, 1024)
    pose = pose_encoder(torch.empty(1, 3, 1024, 1024, device="meta", dtype=torch.float16))
    assert tuple(pose.shape) == (1, 320, 128, 128)
    texts = [
        encoder(torch.zeros(1, 77, dtype=torch.long, device="meta"), output_hidden_states=True)
        for encoder in sdxl.text_encoders
    ]
    assert sum(text.hidden_states[-2].shape[-1] for text in texts) == 2048
    assert texts[1].text_embeds.shape[-1] == 1280


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize(("side", "slots"), [(512, 4), (1024, 2), (1024, 16)])
def test_a_step_takes_what_the_plan_reckons_with(
    sdxl: FullSize, pose_encoder: Any, side: int, slots: int, control: bool
) -> None:
    peak = peak_bytes(lambda: step(sdxl, slots, side, control=control), [sdxl.unet, sdxl.controlnet])
    numbers = peak / 2 / slots / (side // 8) ** 2 / 320
    assert numbers == pytest.approx(SLOT_NUMBERS + CONTROL_NUMBERS * control, rel=0.01)


def operations(run: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def shallow_step(sdxl: FullSize, slots: int, side: int) -> Any:
    """A shallow forward on what a full one left, as `darkroom.inference.sdxl.denoise.step` makes it."""
    latent = side // 8
    half: dict[str, Any] = {"device": "meta", "dtype": torch.float16}
    added = {"text_embeds": torch.empty(slots, 1280, **half), "time_ids": torch.empty(slots, 6, **half)}
    residuals = (torch.empty(slots, 320, latent, latent, **half),) * 3
    deep = torch.empty(slots, 640, latent, latent, **half)
    sample, timestep = torch.empty(slots, 4, latent, latent, **half), torch.empty(slots, device="meta")
    return ShallowNetwork(sdxl.unet)(sample, timestep, added, deep, residuals)


def test_an_economy_row_keeps_what_the_plan_reckons_with(sdxl: FullSize, pose_encoder: Any) -> None:
    network = ShallowNetwork(sdxl.unet)
    with network.watching() as seen:
        step(sdxl, 2, 1024, control=True)
    (deep,) = seen
    assert tuple(deep.shape) == (2, 640, 128, 128)
    assert network.residuals == 3
    kept = deep[0].numel() + network.residuals * 320 * 128 * 128
    assert kept / 128**2 / 320 == KEPT_NUMBERS
    peak = peak_bytes(lambda: shallow_step(sdxl, 1, 1024), [sdxl.unet])
    assert peak < peak_bytes(lambda: step(sdxl, 1, 1024, control=True), [sdxl.unet, sdxl.controlnet])


def test_economy_takes_a_fraction_of_the_operations_at_full_size(sdxl: FullSize, pose_encoder: Any) -> None:
    full = operations(lambda: step(sdxl, 2, 1024, control=True))
    shallow = operations(lambda: shallow_step(sdxl, 1, 1024))
    assert full / 1e12 == pytest.approx(19.6, rel=0.02)
    assert shallow / full < SHALLOW_SHARE
    for rule, least in ((STEADY, 2.6), (NOISY, 1.95)):
        calls = rule.full_calls(22)
        assert 22 * full / sum(full if one else shallow for one in calls) >= least


@pytest.mark.parametrize("side", [512, 1024])
def test_decoding_takes_what_the_plan_reckons_with(sdxl: FullSize, side: int) -> None:
    latents = torch.empty(1, 4, side // 8, side // 8, device="meta")
    peak = peak_bytes(lambda: sdxl.vae.decode(latents, return_dict=False), [sdxl.vae])
    assert peak / 4 / side**2 / 128 == pytest.approx(DECODE_NUMBERS, rel=0.01)


def test_preparing_takes_what_the_plan_reckons_with(sdxl: FullSize, pose_encoder: Any) -> None:
    picture = torch.empty(1, 3, 1024, 1024, device="meta", dtype=torch.float16)
    pose = peak_bytes(lambda: pose_encoder(picture), [pose_encoder])
    assert pose / 2 / 1024**2 == pytest.approx(POSE_NUMBERS, rel=0.01)
    ids = torch.zeros(1, 77, dtype=torch.long, device="meta")
    texts = [peak_bytes(lambda: encoder(ids, output_hidden_states=True), [encoder]) for encoder in sdxl.text_encoders]  # noqa: B023
    assert sum(texts) < PREPARE_BYTES


def test_a_model_is_weighed_by_its_configurations_alone(tmp_path: Path) -> None:
    folders = {}
    for part in ("unet", "controlnet", "vae", "text_encoder", "text_encoder_2"):
        folders[part] = tmp_path / part
        folders[part].mkdir()
        (folders[part] / "config.json").write_text(json.dumps(FULL_SIZE[part]))
    assert model_size(folders) == ModelSize(
        unet=2_567_463_684, controlnet=1_251_014_160, text_encoders=817_720_320, vae=83_653_863
    )
    del folders["controlnet"]
    assert model_size(folders).controlnet == 0
    (folders["vae"] / "config.json").write_text('{"block_out_channels": "no"}')
    with pytest.raises(ModelError, match=r"vae.config\.json does not describe SDXL's vae"):
        model_size(folders)
