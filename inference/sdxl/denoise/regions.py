"""Compiled regions: the transformer blocks of UNet and ControlNet, compiled once and used where shapes are static.

Compiling only the block that repeats takes a tenth of the time that the whole network takes, and gains nearly as much
(PyTorch, "Regional compilation"). Two things must never happen. Nothing is compiled under load: after `seal` a shape
that has no compiled form runs eagerly. And no compiled block passes over hooks that were put on its layers later:
whoever has such hooks enters as not static. A compiler that does not work is the caller's to notice, and `give_up`
leaves the networks as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock

Backend = str | Callable[..., Any]


class CompiledRegions:
    """The blocks of some networks that are compiled together, and when their compiled form is used."""

    def __init__(self, networks: Sequence[Any], *, shapes_max: int, backend: Backend = "inductor") -> None:
        """Mark the networks' transformer blocks. Nothing is compiled before their first call.

        `shapes_max` bounds how many forms one block may take. All blocks run the same code, for which torch counts
        the forms together, and stops compiling at its limit.
        """
        # By their type: diffusers' UNet names its repeated blocks (`_repeated_blocks`), its ControlNet names none.
        blocks = [
            block for network in networks for block in network.modules() if isinstance(block, BasicTransformerBlock)
        ]
        for block in blocks:
            block.compile(
                backend=backend,
                fullgraph=True,
                dynamic=False,
                recompile_limit=shapes_max * len(blocks),
            )
        self._blocks = blocks
        self._sealed = False

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return len(self._blocks)

    def seal(self) -> None:
        """From now on nothing is compiled any more: what has no compiled form runs eagerly."""
        self._sealed = True

    def entered(self, *, is_static: bool) -> AbstractContextManager[None]:
        """Inside, forwards of static shape use the compiled blocks, and all others the plain ones."""
        if not is_static:
            return _stance("force_eager")
        return _stance("eager_on_recompile") if self._sealed else nullcontext()

    def give_up(self) -> None:
        """Put the plain blocks back, for good."""
        for block in self._blocks:
            block._compiled_call_impl = None
        self._blocks = []


@contextmanager
def _stance(stance: str) -> Iterator[None]:
    set_stance: Any = torch.compiler.set_stance
    with set_stance(stance):
        yield
