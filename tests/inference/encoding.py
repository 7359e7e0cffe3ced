"""Paints from embeddings that are made by hand, chunk by chunk and token by token, and given to diffusers' pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from darkroom.inference.types import RenderRequest
from tests.inference.painting import Oracle, Pixels
from tests.inference.schedulers import scheduler_of

Written = list[list[tuple[str, float]]]
"""By chunk its runs: text and weight."""


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
