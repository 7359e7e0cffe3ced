"""Proves long and weighted prompts against embeddings that are made by hand and given to diffusers' pipeline."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.sdxl.denoise.compiled import StaticShapes
from darkroom.inference.sdxl.denoise.slots import lay_out
from darkroom.inference.types import RenderJob
from darkroom.schemas.events.completion import PromptRead
from tests.inference.encoding import Written, painted_from
from tests.inference.painting import PLAIN, POSED, TOLERANCE, Oracle, distance, paint, paint_together, prepare

pytestmark = pytest.mark.render

WEIGHTED = replace(PLAIN, prompt_syntax="weighted")
LONG = ", ".join(f"a small animal number {number}" for number in range(24))

PROMPTS: dict[str, tuple[str, Written]] = {
    "one weight": ("a (red:1.4) fox", [[("a", 1), ("red", 1.4), ("fox", 1)]]),
    "nested": ("((a fox:1.2) in snow:1.5)", [[("a fox", 1.8), ("in snow", 1.5)]]),
    "less": ("a [red] fox (snow:0)", [[("a", 1), ("red", 1 / 1.1), ("fox", 1), ("snow", 0)]]),
    "two chunks": ("a red fox BREAK (deep snow:1.3)", [[("a red fox", 1)], [("deep snow", 1.3)]]),
    "clamped": ("a (fox:7)", [[("a", 1), ("fox", 2.0)]]),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_weighted_prompt_is_what_its_embeddings_are(shared_device: SdxlDevice, oracle: Oracle, name: str) -> None:
    prompt, written = PROMPTS[name]
    request = replace(WEIGHTED, prompt=prompt, negative_prompt="dark", sampler="euler")
    assert distance(paint(shared_device, request), painted_from(oracle, request, written)) <= TOLERANCE


@pytest.mark.parametrize("skip", [1, 2])
def test_clip_skip_is_the_pipelines(shared_device: SdxlDevice, oracle: Oracle, skip: int) -> None:
    request = replace(PLAIN, clip_skip=skip, negative_prompt="dark")
    picture = paint(shared_device, request)
    assert distance(picture, painted_from(oracle, request, [[(PLAIN.prompt, 1)]])) <= TOLERANCE
    assert distance(picture, paint(shared_device, replace(request, clip_skip=0))) > TOLERANCE


def test_without_marks_the_two_syntaxes_paint_the_same_to_the_last_bit(shared_device: SdxlDevice) -> None:
    for request in (PLAIN, POSED, replace(PLAIN, negative_prompt="dark, blurred")):
        plain, weighted = (paint(shared_device, replace(request, prompt_syntax=one)) for one in ("plain", "weighted"))
        assert distance(plain, weighted) == 0


def test_weights_and_chunks_change_the_picture(shared_device: SdxlDevice) -> None:
    pictures = [paint(shared_device, replace(WEIGHTED, prompt=prompt)) for prompt, _ in PROMPTS.values()]
    assert all(distance(one, other) > TOLERANCE for at, one in enumerate(pictures) for other in pictures[at + 1 :])
    long, short = (paint(shared_device, replace(WEIGHTED, prompt=prompt)) for prompt in (LONG, LONG[:200]))
    assert distance(long, short) > TOLERANCE


def test_rows_of_other_lengths_share_steps_and_change_nothing(shared_device: SdxlDevice) -> None:
    requests = [
        replace(WEIGHTED, prompt=LONG, seed=1),
        replace(POSED, seed=2),
        replace(WEIGHTED, prompt=f"{LONG} BREAK {LONG}", seed=3, pose=POSED.pose),
        replace(WEIGHTED, prompt="a (fox:1.3)", negative_prompt=LONG, seed=4, sampler="dpmpp_2m"),
        replace(PLAIN, guidance_scale=1.0, seed=5),
    ]
    rows = prepare(shared_device, requests[0])
    assert rows[0].text.chunks > 1
    together = paint_together(shared_device, list(enumerate(requests)))
    for request, picture in zip(requests, together, strict=True):
        assert distance(picture, paint(shared_device, request)) <= TOLERANCE


@pytest.mark.parametrize(
    ("chunks", "vectors", "is_masked"),
    [
        ((1, 1), 77, False),
        ((1, 2, 4), 308, False),
        ((3, 1), 231, False),
        ((2, 3), 232, True),
        ((1, 2, 3, 4), 312, True),
    ],
)
def test_texts_of_any_lengths_stand_side_by_side(
    shared_device: SdxlDevice, chunks: tuple[int, ...], vectors: int, is_masked: bool
) -> None:
    requests = [
        replace(base, prompt_syntax="weighted", seed=number, prompt=" BREAK ".join(["fox"] * of_it))
        for number, (base, of_it) in enumerate(zip([PLAIN, POSED, POSED, PLAIN], chunks, strict=False))
    ]
    rows = [prepare(shared_device, request, f"job-{number}")[0] for number, request in enumerate(requests)]
    layout = lay_out(rows, StaticShapes(), torch.device("cpu"), torch.float32)
    assert layout.tokens.shape[1] == vectors
    assert (layout.mask is not None) == is_masked
    if layout.mask is not None:
        kept = [int(one) for one in layout.mask.sum(dim=1)]
        assert kept == [77 * of_it for of_it in chunks] + [77] * len(chunks), "prompts, then negative prompts"
    together = paint_together(shared_device, [(0, request) for request in requests])
    for request, picture in zip(requests, together, strict=True):
        assert distance(picture, paint(shared_device, request)) <= TOLERANCE


def test_a_control_token_in_a_prompt_is_text(shared_device: SdxlDevice) -> None:
    written = "a red fox <|endoftext|> in the snow"
    plain, cut = (paint(shared_device, replace(PLAIN, prompt=prompt)) for prompt in (written, "a red fox"))
    assert distance(plain, cut) > TOLERANCE
    [row] = prepare(shared_device, replace(PLAIN, prompt=written))
    [without] = prepare(shared_device, replace(PLAIN, prompt="a red fox"))
    assert not torch.equal(row.text.pooled, without.text.pooled)


@pytest.mark.parametrize(
    ("prompt", "tokens", "chunks", "warned"),
    [
        ("a red fox", 7, 1, ()),
        ("a red fox BREAK (deep snow:1.3)", 15, 2, ()),
        ("fox BREAK " * 4, 12, 4, ()),
        ("fox BREAK " * 4 + "deep snow", 12, 4, ("was cut at 12 tokens: its last 8 tokens",)),
        ("abc " * 120, 300, 4, ("was cut at 300 tokens: its last 60 tokens",)),
        ("(fox:9)", 3, 1, ("clamped to 0 to 2; one was 9",)),
        ("a (fox:-1)", 4, 1, ("clamped to 0 to 2; one was -1",)),
        ("a (fox", 4, 1, ("not closed",)),
        ("a fox) [:", 6, 1, ("not closed",)),
    ],
)
def test_how_a_prompt_was_read_is_told(
    shared_device: SdxlDevice, prompt: str, tokens: int, chunks: int, warned: tuple[str, ...]
) -> None:
    prepared = shared_device.prepare(RenderJob(job_id="job", request=replace(WEIGHTED, prompt=prompt)))
    assert prepared.prompt == PromptRead(tokens=tokens, chunks=chunks)
    assert len(prepared.warnings) == len(warned)
    assert all(part in warning for part, warning in zip(warned, prepared.warnings, strict=True))


def test_how_much_of_a_plain_prompt_was_read_is_told(shared_device: SdxlDevice) -> None:
    for prompt, tokens in (("a red fox", 7), ("abc " * 40, 75)):
        prepared = shared_device.prepare(RenderJob(job_id="job", request=replace(PLAIN, prompt=prompt)))
        assert prepared.prompt == PromptRead(tokens=tokens, chunks=1)
    assert prepared.warnings == ("The prompt was cut at 77 tokens: its last 45 tokens were not used.",)
