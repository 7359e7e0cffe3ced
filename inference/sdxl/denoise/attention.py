"""Tests which attention runs on a device and how fast, and installs it in the networks.

Importing a library proves nothing: xformers is built for one version of torch and of CUDA, and with another one its
kernels raise at their first use. So one attention of SDXL's shape is run with each implementation.
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

# The module's functions have no types.
_PROCESSORS: Final[Any] = attention_processor
_Run = Callable[[], torch.Tensor]

_LINEAR: Final = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
"""torch's kernels that never hold all scores at once; its remaining kernel materialises them."""
_TIMED_RUNS: Final = 5
_HEADS: Final = 10
_TOKENS: Final = {"cuda": 4096, "cpu": 256}
"""SDXL's second level at 1024 x 1024, where most of a step's attention is. On a CPU the probe only tests that it
runs."""


def probe_attention(device: torch.device, dtype: torch.dtype) -> AttentionProbe:
    """Run one attention with SDPA and one with xformers on the device. Takes milliseconds and raises nothing."""
    # The tensors come from a generator of their own, so that torch's global random state is left alone.
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
        # As diffusers' processor calls it: heads are part of the batch dimension.
        flat = query.flatten(0, 1)
        xformers_ms = _time("xformers", lambda: ops.memory_efficient_attention(flat, flat, flat), device, says)
    return AttentionProbe(sdpa_ms, xformers_ms, tuple(says))


def use_attention(network: Any, attention: Attention) -> None:
    """Install an attention in a diffusers network. SDPA is diffusers' default."""
    if attention is Attention.XFORMERS:
        network.set_attn_processor(_PROCESSORS.XFormersAttnProcessor())
    elif attention is Attention.SLICED:
        network.set_attention_slice("max")


def fuse_projections(network: Any) -> None:
    """Compute queries, keys and values with one product (only keys and values in cross-attention).

    The single projections are removed, so that fusing takes no extra memory. It cannot be undone, and LoRA, which
    changes the single projections, would be lost. Only SDPA's processor has a fused form.
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
    """Return the milliseconds of one run, the best of a few; None if it raises or its result is not finite."""
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
