"""Makes the UNet's text conditioning: prompt embeddings and time ids.

SDXL reads a prompt with two encoders. It uses the penultimate layers of both, side by side, and a pooled embedding from
the second. The same text with the same adapter always gives the same embeddings, so text and adapter are the cache key.
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
"""The names of the two encoders in diffusers' folders and in LoRA files, in order."""


@dataclass(frozen=True, slots=True)
class TextEmbedding:
    """One text, or the absence of one, in the form that the UNet takes."""

    tokens: torch.Tensor
    """(1, 77, cross-attention width) in the model's dtype, on its device."""
    pooled: torch.Tensor
    """(1, projection width), as above."""
    tokens_cut: int = 0
    """The number of tokens that did not fit."""


class _TextKey(NamedTuple):
    text: str
    adapter: tuple[str, str, float] | None
    """Name, digest and weight of an adapter that changes the text encoders; None without one."""


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
        """Return the text's embedding, from the cache if possible. Tokens beyond the 77th are cut and counted."""
        if adapter is None or not adapter.lora.changes_text:
            return self._cache.get_or_make(_TextKey(text, None), lambda: self._encode(text, None))
        key = _TextKey(text, (adapter.name, adapter.digest, adapter.weight))
        return self._cache.get_or_make(key, lambda: self._encode(text, adapter))

    def embed_negative(
        self, text: str | None, positive: TextEmbedding, adapter: AppliedAdapter | None = None
    ) -> TextEmbedding:
        """Return the embedding that guidance moves away from.

        No text gives zeros if the model is configured so (`force_zeros_for_empty_prompt`), as in diffusers' pipelines.
        The empty text is encoded like any other, and gives a different picture. As in the pipelines, the text is
        encoded with the request's adapter, like the prompt.
        """
        if text is not None or not self._zeros_for_no_text:
            return self.embed(text or "", adapter)
        if self._zeros is None:
            self._zeros = TextEmbedding(torch.zeros_like(positive.tokens), torch.zeros_like(positive.pooled))
        return self._zeros

    def counts(self) -> CacheCounts:
        """Return the counts of the prompt cache."""
        return self._cache.counts()

    def reset(self) -> None:
        """Empty the cache and restart its counts."""
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
            # `verbose=False`: the tokenizer would log its own warning about the length; ours goes to the requester.
            tokens_cut = max(tokens_cut, len(tokenizer(text, verbose=False).input_ids) - length)
            padded = tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
            # The encoder may be on another device than the rows.
            output = encoder(padded.input_ids.to(encoder.device), output_hidden_states=True)
            layers.append(output.hidden_states[-2])
        # Only the last encoder has a projection, and its projected output is the pooled embedding.
        return TextEmbedding(
            tokens=torch.cat(layers, dim=-1).to(self._device, self._dtype),
            pooled=output.text_embeds.to(self._device, self._dtype),
            tokens_cut=max(0, tokens_cut),
        )


def cut_warning(which: str, embedding: TextEmbedding) -> str | None:
    """Return the sentence for the requester if the text did not fit, otherwise None. `which` names the text."""
    if not embedding.tokens_cut:
        return None
    kept = embedding.tokens.shape[1]
    return f"The {which} was cut at {kept} tokens: its last {embedding.tokens_cut} tokens were not used."


def time_ids(*, width: int, height: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return (1, 6) time ids: original size, crop corner and target size, each height first.

    Nothing is cropped, so both sizes are the output's. They have the embeddings' dtype, as in diffusers, so fp16 rounds
    sizes above 2,048.
    """
    return torch.tensor([[height, width, 0, 0, height, width]], device=device, dtype=dtype)


def _bytes_of(embedding: TextEmbedding) -> int:
    return embedding.tokens.nbytes + embedding.pooled.nbytes
