"""What the text says to the UNet: prompt embeddings and time ids.

SDXL reads a prompt with two encoders. Both give their penultimate layer, side by side; the second also gives a pooled
embedding. The same text with the same adapter always gives the same embeddings, so they are cached by both.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch

from darkroom.inference.sdxl.denoise.adapters import AdapterBank, AppliedAdapter, shares_of
from darkroom.inference.sdxl.prepare.cache import ByteCache
from darkroom.inference.types import CacheCounts

ENCODERS: Final = ("text_encoder", "text_encoder_2")
"""What diffusers' folders and LoRA files call the two, in their order."""


@dataclass(frozen=True, slots=True)
class TextEmbedding:
    """One text, or the absence of one, as the UNet takes it."""

    tokens: torch.Tensor
    """(1, 77, cross-attention width) in the model's dtype, on its device."""
    pooled: torch.Tensor
    """(1, projection width), as above."""
    tokens_cut: int = 0
    """How many tokens of the text did not fit."""


class _TextKey(NamedTuple):
    text: str
    adapter: tuple[str, str, float] | None
    """Name, digest and weight of one that changes the text encoders; None for others, too."""


class TextConditioner:
    """Turns texts into embeddings. Belongs to the prepare lane: tokenizers and encoders are not used elsewhere."""

    def __init__(
        self,
        tokenizers: Sequence[Any],
        encoders: Sequence[Any],
        *,
        device: torch.device,
        dtype: torch.dtype,
        zeros_for_no_text: bool,
        cache_bytes_max: int,
    ) -> None:
        self._tokenizers = tokenizers
        self._encoders = encoders
        self._adapters = [AdapterBank(name, encoder) for name, encoder in zip(ENCODERS, encoders, strict=True)]
        self._device = device
        self._dtype = dtype
        self._zeros_for_no_text = zeros_for_no_text
        self._cache: ByteCache[_TextKey, TextEmbedding] = ByteCache(cache_bytes_max, _bytes_of)
        self._zeros: TextEmbedding | None = None

    def embed(self, text: str, adapter: AppliedAdapter | None = None) -> TextEmbedding:
        """The text's embedding, from the cache where it can be. Text beyond 77 tokens is cut and counted."""
        if adapter is None or not adapter.lora.changes_text:
            return self._cache.get_or_make(_TextKey(text, None), lambda: self._encode(text, None))
        key = _TextKey(text, (adapter.name, adapter.digest, adapter.weight))
        return self._cache.get_or_make(key, lambda: self._encode(text, adapter))

    def embed_negative(
        self, text: str | None, positive: TextEmbedding, adapter: AppliedAdapter | None = None
    ) -> TextEmbedding:
        """The embedding that guidance leads away from.

        No text gives zeros where the model is configured so (`force_zeros_for_empty_prompt`), as in diffusers'
        pipelines; the empty text is encoded like any other, and the two give different pictures. The pipelines encode
        it with the request's adapter, as they do the prompt.
        """
        if text is not None or not self._zeros_for_no_text:
            return self.embed(text or "", adapter)
        if self._zeros is None:
            self._zeros = TextEmbedding(torch.zeros_like(positive.tokens), torch.zeros_like(positive.pooled))
        return self._zeros

    def counts(self) -> CacheCounts:
        """Of the prompt cache."""
        return self._cache.counts()

    def reset(self) -> None:
        """Empty the cache and start counting anew."""
        self._cache.reset()

    def _encode(self, text: str, adapter: AppliedAdapter | None) -> TextEmbedding:
        with ExitStack() as applied:
            for bank, encoder in zip(self._adapters, self._encoders, strict=True):
                applied.enter_context(bank.applied(shares_of([adapter], encoder.device)))
            return self._encode_as_is(text)

    def _encode_as_is(self, text: str) -> TextEmbedding:
        layers = []
        tokens_cut = 0
        for tokenizer, encoder in zip(self._tokenizers, self._encoders, strict=True):
            length = tokenizer.model_max_length
            # `verbose=False`: the tokenizer would log a warning about the length that the requester gets from us.
            tokens_cut = max(tokens_cut, len(tokenizer(text, verbose=False).input_ids) - length)
            padded = tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
            # Its encoder may be on another device than the rows.
            output = encoder(padded.input_ids.to(encoder.device), output_hidden_states=True)
            layers.append(output.hidden_states[-2])
        # Only the last encoder has a projection, and its projected output is the pooled embedding.
        return TextEmbedding(
            tokens=torch.cat(layers, dim=-1).to(self._device, self._dtype),
            pooled=output.text_embeds.to(self._device, self._dtype),
            tokens_cut=max(0, tokens_cut),
        )


def cut_warning(which: str, embedding: TextEmbedding) -> str | None:
    """The sentence for the requester where the text did not fit, else None. `which` names the text."""
    if not embedding.tokens_cut:
        return None
    kept = embedding.tokens.shape[1]
    return f"The {which} was cut at {kept} tokens: its last {embedding.tokens_cut} tokens were not used."


def time_ids(*, width: int, height: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """(1, 6): original size, crop corner and target size, each height first.

    Nothing is cropped, so both sizes are the output's. In the embeddings' dtype, as diffusers has it, where sizes
    above 2,048 are rounded in fp16.
    """
    return torch.tensor([[height, width, 0, 0, height, width]], device=device, dtype=dtype)


def _bytes_of(embedding: TextEmbedding) -> int:
    return embedding.tokens.nbytes + embedding.pooled.nbytes
