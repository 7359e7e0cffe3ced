"""The memory plan as a table: cards by what they report, SDXL base 1.0 with a ControlNet, sizes and dtypes."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from darkroom.inference.planning.memory_layout import Place
from darkroom.inference.planning.memory_model import (
    TILED_ABOVE_PIXELS,
    USABLE_SHARE,
    ModelSize,
    decode_bytes,
    step_bytes,
)
from darkroom.inference.planning.memory_plan import Attention, AttentionProbe, MemoryPlan, plan_memory
from darkroom.inference.types import ModelError, Series

SDXL = ModelSize(unet=2_567_463_684, controlnet=1_251_014_160, text_encoders=817_720_320, vae=83_653_863)
SDPA = AttentionProbe(sdpa_ms=1.0, xformers_ms=None)
CARDS = {
    "8": 8_300_000_000,
    "12": 12_600_000_000,
    "T4": 15_650_000_000,
    "16": 16_900_000_000,
    "24": 25_300_000_000,
    "40": 42_300_000_000,
    "80": 85_000_000_000,
    "141": 150_000_000_000,
}
"""Bytes that torch reports of cards sold by so many GB; a T4 keeps some of its 16 for error correction."""
CACHE_BYTES = 256 * 1024 * 1024


def plan(card: str = "24", side: int = 1024, model: ModelSize = SDXL, **settings: Any) -> MemoryPlan:
    fixed = {"device_kind": "cuda", "dtype": "float16", "probe": SDPA, "cache_bytes": CACHE_BYTES}
    return plan_memory(model, memory_bytes=CARDS[card], width=side, height=side, **{**fixed, **settings})


BESIDE, TURNS, ALL = Series.NONE, Series.DENOISE_AND_FINISH, Series.ALL


@pytest.mark.parametrize(
    ("card", "side", "dtype", "rows", "series", "texts"),
    [
        ("12", 1024, "float16", 4, ALL, Place.SAME),
        ("T4", 1024, "float16", 7, ALL, Place.SAME),
        ("16", 1024, "float16", 8, TURNS, Place.CPU),
        ("24", 1024, "float16", 8, BESIDE, Place.SAME),
        ("40", 1024, "float16", 28, BESIDE, Place.SAME),
        ("80", 1024, "float16", 54, BESIDE, Place.SAME),
        ("141", 1024, "float16", 130, BESIDE, Place.SAME),
        ("12", 512, "float16", 6, BESIDE, Place.CPU),
        ("16", 512, "float16", 18, BESIDE, Place.SAME),
        ("24", 512, "float16", 34, BESIDE, Place.SAME),
        ("40", 512, "float16", 113, BESIDE, Place.SAME),
        ("80", 512, "float16", 313, BESIDE, Place.SAME),
        ("141", 512, "float16", 617, BESIDE, Place.SAME),
        ("16", 1024, "bfloat16", 2, BESIDE, Place.SAME),
        ("24", 1024, "float32", 4, TURNS, Place.CPU),
        ("40", 1024, "float32", 8, BESIDE, Place.SAME),
        ("80", 1024, "float32", 21, BESIDE, Place.SAME),
        ("141", 1024, "float32", 59, BESIDE, Place.SAME),
        ("24", 512, "float32", 6, BESIDE, Place.SAME),
        ("80", 512, "float32", 134, BESIDE, Place.SAME),
    ],
)
def test_the_table(card: str, side: int, dtype: str, rows: int, series: Series, texts: Place) -> None:
    made = plan(card, side, dtype=dtype)
    assert (made.rows_max, made.layout.series, made.layout.text_place) == (rows, series, texts)
    assert made.peaks.total(series, rows) <= CARDS[card] * USABLE_SHARE < made.peaks.total(series, rows + 1)
    assert made.rows_ceiling(side // 8, side // 8) == rows
    assert made.layout.vae_place is Place.SAME


@pytest.mark.parametrize(("card", "dtype"), [("8", "float16"), ("12", "float32"), ("16", "float32")])
def test_what_does_not_fit_is_refused_in_a_sentence_with_numbers(card: str, dtype: str) -> None:
    with pytest.raises(ModelError, match=r"does not fit into [\d.]+ GB.*takes [\d.]+ GB.*use a larger device"):
        plan(card, dtype=dtype)


def test_eight_gigabytes_hold_the_model_without_a_controlnet() -> None:
    made = plan("8", model=replace(SDXL, controlnet=0))
    assert made.layout.series is Series.ALL
    assert made.rows_max is not None
    assert made.rows_max >= 1


def test_more_memory_never_means_fewer_rows_or_more_turns_of_all_lanes() -> None:
    plans = [plan(card) for card in list(CARDS)[1:]]
    beside = [made for made in plans if made.layout.series is Series.NONE]
    assert all((one.rows_max or 0) < (other.rows_max or 0) for one, other in pairwise(beside))
    ranks = [list(Series).index(made.layout.series) for made in plans]
    assert ranks == sorted(ranks, reverse=True)


def test_the_picture_never_depends_on_the_memory() -> None:
    """Tiles and dtypes are the same on every card and in every layout."""
    shown = {
        (made.vae_tiled_above_pixels, made.dtype, made.vae_dtype, made.channels_last)
        for made in (plan(card, side) for card in list(CARDS)[1:] for side in (512, 1024, 2048))
    }
    assert shown == {(TILED_ABOVE_PIXELS, "float16", "float32", True)}


def test_pictures_are_decoded_together_where_that_leaves_room_for_rows() -> None:
    assert plan("40").vae_slicing
    assert plan("40").peaks.finish == decode_bytes(SDXL, "float32", 1024 * 1024)
    assert not plan("80").vae_slicing
    assert plan("80").peaks.finish == 4 * decode_bytes(SDXL, "float32", 1024 * 1024)


def test_the_ceiling_falls_with_the_size_and_is_never_below_one() -> None:
    made = plan("24", 2048)
    ceilings = [made.rows_ceiling(side // 8, side // 8) for side in (512, 1024, 2048, 4096)]
    assert ceilings == [31, 7, 1, 1]
    assert made.rows_ceiling(64, 256) == made.rows_ceiling(128, 128)


def test_a_decode_in_tiles_takes_what_a_tile_takes() -> None:
    whole, tiled = decode_bytes(SDXL, "float32", 1024 * 1024), decode_bytes(SDXL, "float32", 2048 * 2048)
    assert whole < tiled < 1.05 * whole


def test_rows_without_a_controlnet_take_less() -> None:
    alone = step_bytes(SDXL, "float16", 128 * 128, with_control=False)
    assert alone < step_bytes(SDXL, "float16", 128 * 128, with_control=True)
    assert step_bytes(SDXL, "float32", 128 * 128, with_control=False) == pytest.approx(2 * alone, rel=1e-6)


# --- Precision -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "overflows", "vae_dtype"),
    [
        ("float16", True, "float32"),
        ("float16", False, "float16"),
        ("bfloat16", True, "bfloat16"),
        ("float32", True, "float32"),
    ],
)
def test_the_vae_that_overflows_in_fp16_is_in_fp32(dtype: str, overflows: bool, vae_dtype: str) -> None:
    made = plan("40", dtype=dtype, model=replace(SDXL, vae_overflows=overflows))
    assert made.vae_dtype == vae_dtype
    assert any("force_upcast" in reason for reason in made.reasons) == (vae_dtype != dtype)


def test_a_vae_that_is_safe_in_fp16_keeps_a_t4_resident() -> None:
    assert plan("T4", model=replace(SDXL, vae_overflows=False)).layout.series is not Series.ALL
    assert any("DARKROOM_MODEL__VAE_PATH" in reason for reason in plan("T4").reasons)


def test_projections_are_never_fused_with_adapters() -> None:
    assert plan().fuse_qkv
    with_adapters = plan(adapters=True)
    assert not with_adapters.fuse_qkv
    assert any("LoRA" in reason for reason in with_adapters.reasons)
    assert not plan(probe=AttentionProbe(1.0, 0.5)).fuse_qkv


def test_fusing_and_channels_last_are_for_cuda() -> None:
    cpu = plan_memory(SDXL, device_kind="cpu", memory_bytes=None, dtype="float32", width=64, height=64, probe=SDPA)
    assert (cpu.fuse_qkv, cpu.channels_last) == (False, False)
    assert not plan("80", dtype="float32").channels_last


# --- Attention ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sdpa_ms", "xformers_ms", "chosen"),
    [
        (1.0, None, Attention.SDPA),
        (1.0, 1.1, Attention.SDPA),
        (1.0, 0.9, Attention.XFORMERS),
        (None, 0.9, Attention.XFORMERS),
        (None, None, Attention.SLICED),
    ],
)
def test_the_faster_of_what_runs_is_taken(sdpa_ms: float | None, xformers_ms: float | None, chosen: Attention) -> None:
    made = plan(probe=AttentionProbe(sdpa_ms, xformers_ms))
    assert made.attention is chosen
    assert made.why_attention.endswith(".")


def test_sliced_attention_takes_room_of_its_own() -> None:
    sliced = plan("80", 2048, probe=AttentionProbe(None, None))
    assert sliced.peaks.resident - plan("80", 2048).peaks.resident == 3 * (256 * 256 // 4) ** 2 * 2


# --- Places ---------------------------------------------------------------------------------------------------


def test_places_that_were_asked_for_are_kept() -> None:
    made = plan("16", text_place=Place.SECOND, vae_place=Place.SECOND)
    assert (made.layout.text_place, made.layout.vae_place) == (Place.SECOND, Place.SECOND)
    assert made.layout.series is Series.NONE
    assert made.peaks.finish == 0
    kept = plan("12", text_place=Place.SAME)
    assert kept.layout.text_place is Place.SAME


def test_a_second_device_is_advised_and_never_taken() -> None:
    made = plan("16", second_device=True)
    assert Place.SECOND not in (made.layout.text_place, made.layout.vae_place)
    assert any("second GPU" in reason for reason in made.reasons)
    assert not any("second GPU" in reason for reason in plan("80", second_device=True).reasons)


def test_a_cpu_is_not_bounded_by_a_plan() -> None:
    made = plan_memory(SDXL, device_kind="cpu", memory_bytes=None, dtype="float32", width=512, height=512, probe=SDPA)
    assert (made.rows_max, made.rows_ceiling(64, 64), made.layout.series) == (None, None, Series.NONE)


def test_a_plan_can_be_told_in_a_line_and_in_json() -> None:
    made = plan("12")
    assert "4 rows at 1024 x 1024" in made.summary()
    assert "offloaded" in made.summary()
    told = json.loads(json.dumps(made.as_json()))
    assert told["layout"] == {"text_place": "the same device", "vae_place": "the same device", "series": "all"}
    assert told["peaks"]["denoise_weights"] == 2 * (SDXL.unet + SDXL.controlnet)
    assert told["peak_bytes"] <= CARDS["12"]
    assert all(reason.endswith(".") for reason in told["reasons"])
