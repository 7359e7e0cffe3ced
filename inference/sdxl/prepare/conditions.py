"""Makes the UNet's text conditioning: prompt embeddings and time ids.

SDXL reads a prompt with two encoders. It uses the penultimate layers of both, side by side, and a pooled embedding from
the second. The same text with the same adapters always gives the same embeddings, so both are the cache key.

A weighted prompt is split into chunks of 75 tokens, each encoded by itself; a token's vector z becomes e + (z - e) w,
with its weight w and the vector e of the empty prompt at its place (ComfyUI's rule: 1 changes nothing, 0 has a meaning,
no token depends on another's weight). The pooled embedding is that of the first chunk, unweighted.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch

from darkroom.inference.sdxl.denoise.adapters import AdapterBank, AppliedAdapter, shares_of
from darkroom.inference.sdxl.prepare.cache import ByteCache
from darkroom.inference.sdxl.prepare.chunks import CHUNK_TOKENS, Chunk, Chunks, split_chunks
from darkroom.inference.types import CacheCounts, FaultKind, RenderFault
from darkroom.schemas.prompts.weighted import WeightedPrompt, clamped, parse_weighted

CHUNK_VECTORS: Final = 77
"""What a text encoder takes at once: a begin token, 75 of the text, an end token."""
_MARKS: Final = 2
"""The begin and the end token."""
_LAYER: Final = -2
"""The penultimate layer, counted from the end."""
ENCODERS: Final = ("text_encoder", "text_encoder_2")
"""The names of the two encoders in diffusers' folders and in LoRA files, in order."""


@dataclass(frozen=True, slots=True)
class TextEmbedding:
    """One text, or the absence of one, in the form that the UNet takes."""

    tokens: torch.Tensor
    """(1, 77 x chunks, cross-attention width) in the model's dtype, on its device."""
    pooled: torch.Tensor
    """(1, projection width), as above."""
    tokens_read: int = 0
    """The number of the text's tokens in `tokens`, without the marks at a chunk's ends and its padding."""
    tokens_cut: int = 0
    """The number of tokens that did not fit."""
    warnings: tuple[str, ...] = ()
    """Sentences about how the text was read."""

    @property
    def chunks(self) -> int:
        """The number of chunks of 77 vectors."""
        return self.tokens.shape[1] // CHUNK_VECTORS


class TextStyle(NamedTuple):
    """Options by which a request has its texts read."""

    is_weighted: bool = False
    clip_skip: int = 0
    """Layers left out beyond the last, as diffusers counts: 0 is SDXL's penultimate layer."""


_PLAIN: Final = TextStyle()


class _TextKey(NamedTuple):
    text: str
    style: TextStyle
    adapters: tuple[tuple[str, str, float], ...]
    """Name, digest and text weight of each adapter that changes the text encoders."""


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

    def embed(self, text: str, adapters: Sequence[AppliedAdapter] = (), style: TextStyle = _PLAIN) -> TextEmbedding:
        """Return the text's embedding, from the cache if possible.

        Tokens that do not fit are cut and counted: those beyond the 77th, or beyond four chunks of a weighted text.
        Raises `PromptSyntaxError` for a weighted text that cannot be read.
        """
        changing = [adapter for adapter in adapters if adapter.lora.changes_text]
        named = tuple((adapter.name, adapter.digest, adapter.text_weight) for adapter in changing)
        return self._cache.get_or_make(_TextKey(text, style, named), lambda: self._encode(text, changing, style))

    def embed_negative(
        self,
        text: str | None,
        positive: TextEmbedding,
        adapters: Sequence[AppliedAdapter] = (),
        style: TextStyle = _PLAIN,
    ) -> TextEmbedding:
        """Return the embedding that guidance moves away from.

        No text gives zeros if the model is configured so (`force_zeros_for_empty_prompt`), as in diffusers' pipelines.
        The empty text is encoded like any other, and gives a different picture. As in the pipelines, the text is
        encoded with the request's adapters, like the prompt.
        """
        if text is not None or not self._zeros_for_no_text:
            return self.embed(text or "", adapters, style)
        if self._zeros is None:
            nothing = torch.zeros_like(positive.tokens[:, :CHUNK_VECTORS])
            self._zeros = TextEmbedding(nothing, torch.zeros_like(positive.pooled))
        return self._zeros

    def counts(self) -> CacheCounts:
        """Return the counts of the prompt cache."""
        return self._cache.counts()

    def reset(self) -> None:
        """Empty the cache and restart its counts."""
        self._cache.reset()

    def _encode(self, text: str, adapters: Sequence[AppliedAdapter], style: TextStyle) -> TextEmbedding:
        with ExitStack() as applied:
            for bank, encoder in zip(self._adapters, self._encoders, strict=True):
                applied.enter_context(bank.applied(shares_of([adapters], encoder.device, of_text=True)))
            return self._encode_weighted(text, style) if style.is_weighted else self._encode_plain(text, style)

    def _encode_plain(self, text: str, style: TextStyle) -> TextEmbedding:
        layers = []
        tokens_read = tokens_cut = 0
        for tokenizer, encoder in zip(self._tokenizers, self._encoders, strict=True):
            length = tokenizer.model_max_length
            # `verbose=False`: the tokenizer would log its own warning about the length; ours goes to the requester.
            # `split_special_tokens`: "<|endoftext|>" in a prompt is text, and does not end it.
            whole = tokenizer(text, verbose=False, split_special_tokens=True).input_ids
            tokens_cut = max(tokens_cut, len(whole) - length)
            tokens_read = min(len(whole), length) - _MARKS
            padded = tokenizer(
                text,
                padding="max_length",
                max_length=length,
                truncation=True,
                return_tensors="pt",
                split_special_tokens=True,
            )
            # The encoder may be on another device than the rows.
            output = encoder(padded.input_ids.to(encoder.device), output_hidden_states=True)
            layers.append(output.hidden_states[_LAYER - style.clip_skip])
        # Only the last encoder has a projection, and its projected output is the pooled embedding.
        return TextEmbedding(
            tokens=torch.cat(layers, dim=-1).to(self._device, self._dtype),
            pooled=output.text_embeds.to(self._device, self._dtype),
            tokens_read=tokens_read,
            tokens_cut=tokens_cut,
        )

    def _encode_weighted(self, text: str, style: TextStyle) -> TextEmbedding:
        prompt = clamped(parse_weighted(text))
        made = [_chunked(prompt, tokenizer) for tokenizer in self._tokenizers]
        if len({len(one.chunks) for one in made}) > 1:
            raise RenderFault(
                FaultKind.REQUEST,
                "model_mismatch",
                "This model's two tokenizers split the prompt differently: send it with prompt_syntax plain.",
            )
        layers = []
        for tokenizer, encoder, chunked in zip(self._tokenizers, self._encoders, made, strict=True):
            output = _encoded(chunked.chunks, tokenizer, encoder)
            layer = output.hidden_states[_LAYER - style.clip_skip]
            if any(weight != 1 for chunk in chunked.chunks for weight in chunk.weights):
                empty = _encoded([Chunk((), ())], tokenizer, encoder).hidden_states[_LAYER - style.clip_skip]
                layer = _weighted(layer, empty, chunked.chunks)
            layers.append(layer.reshape(1, -1, layer.shape[-1]))
        return TextEmbedding(
            tokens=torch.cat(layers, dim=-1).to(self._device, self._dtype),
            pooled=output.text_embeds[:1].to(self._device, self._dtype),
            tokens_read=made[0].tokens,
            tokens_cut=made[0].tokens_cut,
            warnings=prompt.warnings,
        )


def _chunked(prompt: WeightedPrompt, tokenizer: Any) -> Chunks:
    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
        return found

    sections = [[(ids(run.text), run.weight) for run in section] for section in prompt.sections]
    return split_chunks(sections, comma=ids(",")[-1])


def _encoded(chunks: Sequence[Chunk], tokenizer: Any, encoder: Any) -> Any:
    """Encode the chunks, each between a begin and an end token and padded as its tokenizer pads."""
    begin, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    ids = [[begin, *chunk.ids, end, *[pad] * (CHUNK_TOKENS - len(chunk.ids))] for chunk in chunks]
    return encoder(torch.tensor(ids).to(encoder.device), output_hidden_states=True)


def _weighted(layer: torch.Tensor, empty: torch.Tensor, chunks: Sequence[Chunk]) -> torch.Tensor:
    """Apply the tokens' weights to `layer` (chunks, 77, width); `empty` (1, 77, width) is the empty prompt's."""
    weights = torch.ones(layer.shape[:2])
    for number, chunk in enumerate(chunks):
        weights[number, 1 : 1 + len(chunk.weights)] = torch.tensor(chunk.weights)
    return empty + (layer - empty) * weights.to(layer.device, layer.dtype).unsqueeze(-1)


def text_warnings(which: str, embedding: TextEmbedding) -> list[str]:
    """Return the sentences for the requester about a text that did not fit or read oddly. `which` names the text."""
    if not embedding.tokens_cut:
        return list(embedding.warnings)
    kept = CHUNK_VECTORS if embedding.chunks == 1 else embedding.tokens_read
    cut = f"The {which} was cut at {kept} tokens: its last {embedding.tokens_cut} tokens were not used."
    return [*embedding.warnings, cut]


def time_ids(*, width: int, height: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return (1, 6) time ids: original size, crop corner and target size, each height first.

    Nothing is cropped, so both sizes are the output's. They have the embeddings' dtype, as in diffusers, so fp16 rounds
    sizes above 2,048.
    """
    return torch.tensor([[height, width, 0, 0, height, width]], device=device, dtype=dtype)


def _bytes_of(embedding: TextEmbedding) -> int:
    return embedding.tokens.nbytes + embedding.pooled.nbytes
