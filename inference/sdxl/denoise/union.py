"""A union ControlNet's own part: it joins several control pictures of a row into one, and embeds their kinds.

diffusers' `ControlNetUnionModel` is a plain ControlNet behind this part. It is run as one here, so that its rows share
forwards, compiled blocks and placement with those of every other ControlNet: the joined picture takes the place of the
control picture's embedding, and the embedding of the kinds that of a class.

The model's transformer takes (slots, tokens, width) where `torch.nn.MultiheadAttention` takes the sequence first: it
attends from slot to slot and never from token to token. diffusers' pipelines run it on equal slots of one picture, over
which attention does nothing. Here each token is therefore its own sequence, so that a picture cannot depend on the
rows that share its step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import torch

TASKS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "openpose": 0,
        "depth": 1,
        "softedge": 2,
        "scribble": 2,
        "canny": 3,
        "lineart": 3,
        "normal": 4,
        "segment": 5,
        "tile": 6,
    }
)
"""A kind's place among the control types that union ControlNets were trained with (the model card of xinsir's
controlnet-union-sdxl-1.0; its promax has tile and repaint, 6 and 7, besides)."""


class Joined(NamedTuple):
    """A row's control pictures as one."""

    embedding: torch.Tensor
    """(1, channels, latent height, latent width)."""
    weight: float
    """By which the ControlNet's residuals are multiplied."""
    kinds: torch.Tensor
    """(1, width of the time embedding): the embedding of the pictures' kinds."""


class UnionPart(torch.nn.Module):
    """The layers of a `ControlNetUnionModel` that a `ControlNetModel` does not have."""

    def __init__(self, union: Any) -> None:
        """Take the layers out of a loaded network."""
        super().__init__()
        self.task_embedding = union.task_embedding
        self.transformer = union.transformer_layes
        self.projection = union.spatial_ch_projs
        self.kind_proj = union.control_type_proj
        self.kind_embedding = union.control_add_embedding

    @property
    def count(self) -> int:
        """The number of control types."""
        return len(self.task_embedding)

    def join(self, embeddings: Sequence[torch.Tensor], tasks: Sequence[int], weights: Sequence[float]) -> Joined:
        """Join a row's control pictures, as `ControlNetUnionModel.forward` does.

        `embeddings` are (1, channels, latent height, latent width) each, `tasks` their control types. The weight of a
        single picture is applied to the residuals; those of several are applied to the pictures.
        """
        is_alone = len(embeddings) == 1
        scales = [1.0] if is_alone else weights
        joined = torch.zeros_like(embeddings[0])
        for embedding, task, scale in zip(embeddings, tasks, scales, strict=True):
            token = (embedding.mean(dim=(2, 3)) + self.task_embedding[task])[None] * scale
            for layer in self.transformer:
                token = layer(token)
            shift = self.projection(token[0])[:, :, None, None]
            joined = joined + (embedding * scale + shift * scale)
        return Joined(joined, weights[0] if is_alone else 1.0, self._kinds(tasks, joined))

    def _kinds(self, tasks: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        flags = torch.zeros(self.count)
        flags[list(tasks)] = 1
        embedded = self.kind_proj(flags.to(like.device)).reshape(1, -1).to(like.dtype)
        kinds: torch.Tensor = self.kind_embedding(embedded)
        return kinds


def union_part(controlnet: Any) -> UnionPart | None:
    """Return the part of a ControlNet that was made from a union one; None for a plain one."""
    part = getattr(controlnet, "union", None)
    return part if isinstance(part, UnionPart) else None
