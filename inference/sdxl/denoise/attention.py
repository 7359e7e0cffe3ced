"""Which attention runs on a device, how fast, and putting it into the networks.

That a library can be imported says nothing: xformers is built for one version of torch and of CUDA, and beside another
its kernels raise at their first use. So one attention of SDXL's shape is run with each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import torch
from diffusers.models import attention_processor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from darkroom.inference.planning.memory_plan import Attention, AttentionProbe
from darkroom.inference.sdxl.denoise.xformers_import import xformers_ops

# Its functions have no types.
_PROCESSORS: Final[Any] = attention_processor
_Run = Callable[[], torch.Tensor]

_LINEAR: Final = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
"""torch's kernels that never hold all scores; the other one writes them out."""
_TIMED_RUNS: Final = 5
_HEADS: Final = 10
_TOKENS: Final = {"cuda": 4096, "cpu": 256}
"""SDXL's second level at 1024 x 1024, where most of a step's attention is; on a CPU only that it runs is asked."""


def probe_attention(device: torch.device, dtype: torch.dtype) -> AttentionProbe:
    """Run one attention with SDPA and one with xformers on the device. Takes milliseconds; raises nothing."""
    # The tensors are made by a generator of their own: torch's random state is nobody's business here.
    generator = torch.Generator("cpu").manual_seed(0)
    shape = (2, _HEADS, _TOKENS.get(device.type, 256), 64)
    query = torch.randn(shape, generator=generator).to(device, dtype)
    says: list[str] = []
    sdpa_ms = _time("torch's SDPA in linear memory", lambda: _sdpa(query), device, says)
    xformers_ms = None
    ops, why_not = xformers_ops()
    if why_not is not None:
        says.append(why_not)
    if ops is not None:
        # As diffusers' processor calls it: heads beside the batch.
        flat = query.flatten(0, 1)
        xformers_ms = _time("xformers", lambda: ops.memory_efficient_attention(flat, flat, flat), device, says)
    return AttentionProbe(sdpa_ms, xformers_ms, tuple(says))


def use_attention(network: Any, attention: Attention) -> None:
    """Make a diffusers network compute attention so. SDPA is what diffusers begins with."""
    if attention is Attention.XFORMERS:
        network.set_attn_processor(_PROCESSORS.XFormersAttnProcessor())
    elif attention is Attention.SLICED:
        network.set_attention_slice("max")


def fuse_projections(network: Any) -> None:
    """Compute queries, keys and values by one product (keys and values, where the text is attended to).

    The single projections are removed, so that it takes no more memory; there is no way back, and LoRA, which changes
    them, would be lost. Only SDPA's processor has a fused form.
    """
    with torch.no_grad():
        for layer in network.modules():
            if not isinstance(layer, _PROCESSORS.Attention):
                continue
            layer.fuse_projections()
            for name in ("to_k", "to_v") if layer.is_cross_attention else ("to_q", "to_k", "to_v"):
                delattr(layer, name)
    network.set_attn_processor(_PROCESSORS.FusedAttnProcessor2_0())
    network.requires_grad_(False)


def _sdpa(query: torch.Tensor) -> torch.Tensor:
    with sdpa_kernel(_LINEAR):
        return functional.scaled_dot_product_attention(query, query, query)


def _time(what: str, run: _Run, device: torch.device, says: list[str]) -> float | None:
    """Milliseconds of one run, the best of a few; None where it raises or gives nonsense."""
    best = float("inf")
    try:
        with torch.inference_mode():
            finite = bool(torch.isfinite(run()).all())
            for _ in range(_TIMED_RUNS):
                _wait(device)
                began = time.perf_counter()
                run()
                _wait(device)
                best = min(best, time.perf_counter() - began)
    except Exception as error:
        says.append(f"{what} does not run here: {_said_by(error)}.")
        return None
    if not finite:
        says.append(f"{what} gives values that are not finite here.")
        return None
    return best * 1000


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _said_by(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {line}".rstrip(".: ")
