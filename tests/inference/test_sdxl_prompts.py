"""Proves long and weighted prompts against embeddings that are made by hand and given to diffusers' pipeline."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.types import RenderJob, RenderRequest
from tests.inference.painting import PLAIN, POSED, TOLERANCE, Oracle, Pixels, distance, paint, paint_together, prepare
from tests.inference.schedulers import scheduler_of

pytestmark = pytest.mark.render

WEIGHTED = replace(PLAIN, prompt_syntax="weighted")
LONG = ", ".join(f"a small animal number {number}" for number in range(24))

Written = list[list[tuple[str, float]]]
"""By chunk its runs: text and weight."""

PROMPTS: dict[str, tuple[str, Written]] = {
    "one weight": ("a (red:1.4) fox", [[("a", 1), ("red", 1.4), ("fox", 1)]]),
    "nested": ("((a fox:1.2) in snow:1.5)", [[("a fox", 1.8), ("in snow", 1.5)]]),
    "less": ("a [red] fox (snow:0)", [[("a", 1), ("red", 1 / 1.1), ("fox", 1), ("snow", 0)]]),
    "two chunks": ("a red fox BREAK (deep snow:1.3)", [[("a red fox", 1)], [("deep snow", 1.3)]]),
    "clamped": ("a (fox:7)", [[("a", 1), ("fox", 2.0)]]),
}


def by_hand(oracle: Oracle, written: Written, skip: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode chunk by chunk and token by token, with the encoders' own tokenizers."""
    pipeline = oracle.plain
    sides = []
    with torch.no_grad():
        for tokenizer, encoder in (
            (pipeline.tokenizer, pipeline.text_encoder),
            (pipeline.tokenizer_2, pipeline.text_encoder_2),
        ):

            def encode(text: str, tokenizer: Any = tokenizer, encoder: Any = encoder) -> Any:
                ids = tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
                return encoder(ids, output_hidden_states=True)

            empty = encode("").hidden_states[-2 - skip]
            chunks = []
            for number, runs in enumerate(written):
                output = encode(" ".join(text for text, _ in runs))
                layer = output.hidden_states[-2 - skip].clone()
                at = 1
                for text, weight in runs:
                    for _ in tokenizer(text, add_special_tokens=False).input_ids:
                        layer[:, at] = empty[:, at] + (layer[:, at] - empty[:, at]) * weight
                        at += 1
                chunks.append(layer)
                if number == 0 and "text_embeds" in output:
                    pooled = output.text_embeds
            sides.append(torch.cat(chunks, dim=1))
    return torch.cat(sides, dim=-1), pooled


def painted_from(oracle: Oracle, request: RenderRequest, written: Written) -> Pixels:
    tokens, pooled = by_hand(oracle, written, request.clip_skip)
    away, away_pooled = by_hand(oracle, [[(request.negative_prompt or "", 1)]], request.clip_skip)
    pipeline = oracle.plain
    pipeline.scheduler = scheduler_of(request.sampler, request.schedule, oracle.scheduler_config)
    painted = pipeline(
        prompt_embeds=tokens,
        pooled_prompt_embeds=pooled,
        # The pipeline asks for equal lengths; a text repeated as a whole is the same text to attention.
        negative_prompt_embeds=away.repeat(1, len(written), 1),
        negative_pooled_prompt_embeds=away_pooled,
        width=request.width,
        height=request.height,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
    )
    return np.asarray(painted.images[0], dtype=np.int16)


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


def test_a_control_token_in_a_prompt_is_text(shared_device: SdxlDevice) -> None:
    written = "a red fox <|endoftext|> in the snow"
    plain, cut = (paint(shared_device, replace(PLAIN, prompt=prompt)) for prompt in (written, "a red fox"))
    assert distance(plain, cut) > TOLERANCE
    [row] = prepare(shared_device, replace(PLAIN, prompt=written))
    [without] = prepare(shared_device, replace(PLAIN, prompt="a red fox"))
    assert not torch.equal(row.text.pooled, without.text.pooled)


def test_what_was_cut_and_clamped_is_told(shared_device: SdxlDevice) -> None:
    request = replace(WEIGHTED, prompt=" BREAK ".join([LONG] * 4) + " (fox:9", negative_prompt=None)
    warnings = shared_device.prepare(RenderJob(job_id="job", request=request)).warnings
    assert any("was cut at 308 tokens" in warning for warning in warnings)
    assert any("not closed" in warning for warning in warnings)
    clamped = shared_device.prepare(RenderJob(job_id="job", request=replace(WEIGHTED, prompt="(fox:9)"))).warnings
    assert any("clamped" in warning for warning in clamped)
