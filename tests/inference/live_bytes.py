"""The bytes of tensors that live at once during a forward, exact and without a GPU: on the meta device nothing is run.

Weights are left out, and so is what a GPU's libraries and allocator add. Attention is counted as a kernel of linear
memory has it: torch's meta device would write all scores out.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Counting(TorchDispatchMode):
    def __init__(self, ignored: set[int]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = set(ignored)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


class _LinearAttention(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.nn.functional.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return function(*args, **(kwargs or {}))


def peak_bytes(run: Callable[[], object], networks: Iterable[Any]) -> int:
    """The most that lived at once during `run`, the networks' own weights left out."""
    weights = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    counting = _Counting({tensor.untyped_storage()._cdata for tensor in weights})
    with torch.no_grad(), counting, _LinearAttention():
        run()
    return counting.peak
