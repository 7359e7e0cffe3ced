"""Makes the UNet's text conditioning: prompt embeddings and time ids.

SDXL reads a prompt with two encoders. It uses the penultimate layers of both, side by side, and a pooled embedding from
the second. The same text with the same adapters always gives the same embeddings, so both are the cache key.

A weighted prompt is split into chunks of 75 tokens, each encoded by itself; a token's vector z becomes e + (z - e) w,
with its weight w and the vector e of the empty prompt at its place (ComfyUI's rule: 1 changes nothing, 0 has a meaning,
no token depends on another's weight). The pooled embedding is that of the first chunk, unweighted.

A textual inversion's vectors take the places of tokens at the encoders' input for the length of one call; vocabulary
and weights are never touched, so texts with and without it, and with another one of its name, share the encoders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch

from darkroom.inference.sdxl.denoise.adapters import AdapterBank, AppliedAdapter, shares_of
from darkroom.inference.sdxl.loading.embedding_file import Embedding
from darkroom.inference.sdxl.prepare.cache import ByteCache
from darkroom.inference.sdxl.prepare.chunks import CHUNK_TOKENS, Chunk, Chunks, split_chunks
from darkroom.inference.types import CacheCounts, FaultKind, RenderFault
from darkroom.schemas.prompts.embeddings import WEIGHTED, EmbeddingName, embeddings_in, split_embeddings
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


class AppliedEmbedding(NamedTuple):
    """A textual inversion that a prompt names."""

    digest: str
    embedding: Embedding


Embeddings = Mapping[str, AppliedEmbedding]
"""Textual inversions by name."""


class TextStyle(NamedTuple):
    """Options by which a request has its texts read."""

    is_weighted: bool = False
    clip_skip: int = 0
    """Layers left out beyond the last, as diffusers counts: 0 is SDXL's penultimate layer."""


_PLAIN: Final = TextStyle()
_NO_EMBEDDINGS: Final[Embeddings] = {}


class _TextKey(NamedTuple):
    text: str
    style: TextStyle
    adapters: tuple[tuple[str, str, float], ...]
    """Name, digest and text weight of each adapter that changes the text encoders."""
    embeddings: tuple[tuple[str, str], ...] = ()
    """Name and digest of each textual inversion in the text."""


class _Vector(NamedTuple):
    """The place of one of an embedding's vectors in a text."""

    embedding: Embedding
    row: int


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

    def embed(
        self,
        text: str,
        adapters: Sequence[AppliedAdapter] = (),
        style: TextStyle = _PLAIN,
        embeddings: Embeddings = _NO_EMBEDDINGS,
    ) -> TextEmbedding:
        """Return the text's embedding, from the cache if possible.

        Tokens that do not fit are cut and counted: those beyond the 77th, or beyond four chunks of a weighted text.
        `embeddings` has every textual inversion that a weighted text names. Raises `PromptSyntaxError` for a weighted
        text that cannot be read.
        """
        changing = [adapter for adapter in adapters if adapter.lora.changes_text]
        named = tuple((adapter.name, adapter.digest, adapter.text_weight) for adapter in changing)
        used = embeddings_in(text, None, WEIGHTED) if style.is_weighted and embeddings else ()
        key = _TextKey(text, style, named, tuple((name, embeddings[name].digest) for name in used))
        return self._cache.get_or_make(key, lambda: self._encode(text, changing, style, embeddings))

    def embed_negative(
        self,
        text: str | None,
        positive: TextEmbedding,
        adapters: Sequence[AppliedAdapter] = (),
        style: TextStyle = _PLAIN,
        embeddings: Embeddings = _NO_EMBEDDINGS,
    ) -> TextEmbedding:
        """Return the embedding that guidance moves away from.

        No text gives zeros if the model is configured so (`force_zeros_for_empty_prompt`), as in diffusers' pipelines.
        The empty text is encoded like any other, and gives a different picture. As in the pipelines, the text is
        encoded with the request's adapters, like the prompt.
        """
        if text is not None or not self._zeros_for_no_text:
            return self.embed(text or "", adapters, style, embeddings)
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

    def _encode(
        self, text: str, adapters: Sequence[AppliedAdapter], style: TextStyle, embeddings: Embeddings
    ) -> TextEmbedding:
        with ExitStack() as applied:
            for bank, encoder in zip(self._adapters, self._encoders, strict=True):
                applied.enter_context(bank.applied(shares_of([adapters], encoder.device, of_text=True)))
            if style.is_weighted:
                return self._encode_weighted(text, style, embeddings)
            return self._encode_plain(text, style)

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
        return TextEmbedding(
            tokens=torch.cat(layers, dim=-1).to(self._device, self._dtype),
            pooled=_pooled(encoder, output, padded.input_ids, tokenizer).to(self._device, self._dtype),
            tokens_read=tokens_read,
            tokens_cut=tokens_cut,
        )

    def _encode_weighted(self, text: str, style: TextStyle, embeddings: Embeddings) -> TextEmbedding:
        prompt = clamped(parse_weighted(text))
        made = [_chunked(prompt, tokenizer, embeddings) for tokenizer in self._tokenizers]
        if len({len(one.chunks) for one, _ in made}) > 1:
            raise RenderFault(
                FaultKind.REQUEST,
                "model_mismatch",
                "This model's two tokenizers split the prompt differently: send it with prompt_syntax plain.",
            )
        layers = []
        for number, (tokenizer, encoder, (chunked, vectors)) in enumerate(
            zip(self._tokenizers, self._encoders, made, strict=True)
        ):
            ids = _ids_of(chunked.chunks, tokenizer)
            with _filled(encoder, ids, [one.embedding.vectors[number][one.row] for one in vectors]):
                output = encoder(ids.clamp(min=0).to(encoder.device), output_hidden_states=True)
            layer = output.hidden_states[_LAYER - style.clip_skip]
            if any(weight != 1 for chunk in chunked.chunks for weight in chunk.weights):
                nothing = _ids_of([Chunk((), ())], tokenizer).to(encoder.device)
                empty = encoder(nothing, output_hidden_states=True).hidden_states[_LAYER - style.clip_skip]
                layer = _weighted(layer, empty, chunked.chunks)
            layers.append(layer.reshape(1, -1, layer.shape[-1]))
        return TextEmbedding(
            tokens=torch.cat(layers, dim=-1).to(self._device, self._dtype),
            pooled=_pooled(encoder, output, ids, tokenizer)[:1].to(self._device, self._dtype),
            tokens_read=made[0][0].tokens,
            tokens_cut=made[0][0].tokens_cut,
            warnings=prompt.warnings,
        )


def _chunked(prompt: WeightedPrompt, tokenizer: Any, embeddings: Embeddings) -> tuple[Chunks, list[_Vector]]:
    """Return the prompt's chunks, in which the id -1 - n stands for the n-th of the vectors."""
    vectors: list[_Vector] = []
    glued: set[int] = set()

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
        return found

    def ids_of(piece: str | EmbeddingName) -> list[int]:
        if isinstance(piece, str):
            return ids(piece)
        embedding = embeddings[piece.name].embedding
        first = -1 - len(vectors)
        vectors.extend(_Vector(embedding, row) for row in range(embedding.count))
        its = list(range(first, first - embedding.count, -1))
        glued.update(its[1:])
        return its

    def run_ids(text: str) -> list[int]:
        return [one for piece in split_embeddings(text) for one in ids_of(piece)]

    sections = [[(run_ids(run.text), run.weight) for run in section] for section in prompt.sections]
    return split_chunks(sections, comma=ids(",")[-1], glued=glued), vectors


def _ids_of(chunks: Sequence[Chunk], tokenizer: Any) -> torch.Tensor:
    """Return (chunks, 77) token ids: each chunk between a begin and an end token, padded as its tokenizer pads."""
    begin, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    return torch.tensor([[begin, *chunk.ids, end, *[pad] * (CHUNK_TOKENS - len(chunk.ids))] for chunk in chunks])


@contextmanager
def _filled(encoder: Any, ids: torch.Tensor, vectors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Put the vectors into the encoder's input embeddings inside the block, where `ids` has -1 - n for the n-th."""
    places = (ids < 0).nonzero(as_tuple=True)
    if not len(places[0]):
        yield
        return
    wanted = torch.stack([vectors[-1 - int(one)] for one in ids[places]])

    def fill(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        filled = output.clone()
        filled[places] = wanted.to(output)
        return filled

    hook = encoder.get_input_embeddings().register_forward_hook(fill)
    try:
        yield
    finally:
        hook.remove()


def _pooled(encoder: Any, output: Any, ids: torch.Tensor, tokenizer: Any) -> torch.Tensor:
    """Return (texts, projection width): the projected vector at each text's first end token.

    `text_embeds` is the same, except where a configuration's `eos_token_id` is 2, as in SDXL's: transformers then takes
    the largest id, which a tokenizer with words of its own may give to one of them. Only the last encoder projects.
    """
    states = output.last_hidden_state
    ends = (ids == tokenizer.eos_token_id).int().argmax(dim=-1).to(states.device)
    pooled: torch.Tensor = encoder.text_projection(states[torch.arange(len(states), device=states.device), ends])
    return pooled


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
