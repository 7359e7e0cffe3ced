"""The relatives of LoRA that LyCORIS and PEFT write: what they are trained to be, and which are refused by name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from darkroom.inference.sdxl.prepare.adapter_store import AdapterStore
from tests.strangers.lora_files import (
    CONVOLUTION,
    FLAT,
    LAYER,
    ON_CPU,
    Networks,
    Tensors,
    drawn,
    parsed,
)
from tests.strangers.table import Stranger, rows

pytestmark = pytest.mark.render


def relatives(module: Any, draw: Any) -> dict[str, tuple[Tensors, torch.Tensor]]:
    """Tensors as lycoris-lora 4.1.3 writes them, alpha 2 at rank 4, and the trained weight by the published formula."""
    weight = module.weight.detach().double()
    out, width, *kernel = weight.shape
    area = 9 if kernel else 1
    half = {"alpha": torch.tensor(2.0)}
    a, b, c, d = draw(out, 4), draw(4, width * area), draw(out, 4), draw(4, width * area)
    loha = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d}
    product = ((a @ b) * (c @ d)).reshape(weight.shape) / 2
    one, two_a, two_b = draw(8, 8), draw(out // 8, 4), draw(4, width // 8 * area)
    lokr = {"lokr_w1": one, "lokr_w2_a": two_a, "lokr_w2_b": two_b}
    right = (two_a @ two_b).reshape(out // 8, width // 8, *kernel)
    spread = one.reshape(8, 8, *(1 for _ in kernel))
    whole = {"lokr_w1": one, "lokr_w2": right, "alpha": torch.tensor(float("inf"))}
    down, up = draw(4, width, *kernel), draw(out, 4, *(1 for _ in kernel))
    lora = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape) / 2
    size = draw(out, 1, *(1 for _ in kernel)).abs() + 1

    def scaled(trained: torch.Tensor) -> torch.Tensor:
        return trained * size / trained.flatten(1).norm(dim=1).reshape(size.shape)

    found = {
        "LoHa": (loha | half, weight + product),
        "LoHa, DoRA": (loha | half | {"dora_scale": size}, scaled(weight + product)),
        "LoKr": (lokr | half, weight + torch.kron(spread, right) / 2),
        "LoKr, whole": (whole, weight + torch.kron(spread, right)),
        "LoKr, DoRA": (lokr | half | {"dora_scale": size}, scaled(weight + torch.kron(spread, right) / 2)),
        "DoRA": (
            {"lora_down.weight": down, "lora_up.weight": up, "dora_scale": size} | half,
            scaled(weight + lora),
        ),
        "full": ({"diff": (full := draw(*weight.shape))}, weight + full),
    }
    if kernel:
        # Tucker forms: a core with the kernel's sides, and both of its matrices with the rank first.
        core, other, p, q = draw(4, 4, 3, 3), draw(4, 4, 3, 3), draw(4, out), draw(4, width)
        r, s, small = draw(4, out), draw(4, width), draw(4, out // 8)
        folded = torch.einsum("rskl,ro,si->oikl", core, p, q) * torch.einsum("rskl,ro,si->oikl", other, r, s)
        tucker = {"hada_t1": core, "hada_w1_a": p, "hada_w1_b": q, "hada_t2": other, "hada_w2_a": r, "hada_w2_b": s}
        found["LoHa, Tucker"] = (tucker | half, weight + folded / 2)
        right = torch.einsum("rskl,ro,si->oikl", core, small, narrow := draw(4, width // 8))
        kron = {"lokr_w1": one, "lokr_t2": core, "lokr_w2_a": small, "lokr_w2_b": narrow}
        found["LoKr, Tucker"] = (kron | half, weight + torch.kron(spread, right.contiguous()) / 2)
    return found


@pytest.mark.parametrize("layer", [LAYER, CONVOLUTION])
def test_relatives_of_lora_are_what_they_were_trained_to_be(networks: Networks, tmp_path: Path, layer: str) -> None:
    """Written in fp32, computed in fp64 by the formulas of the papers."""
    module: Any = networks["unet"].get_submodule(layer)
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> torch.Tensor:
        # Doubles that fp32 holds, so that the file loses nothing.
        return (torch.randn(*shape, generator=generator) * 0.3).double()

    kinds = relatives(module, draw)
    for name, (tensors, trained) in kinds.items():
        flat = f"lycoris_{layer.replace('.', '_')}"
        file = tmp_path / "one.safetensors"
        save_file({f"{flat}.{end}": tensor.float().contiguous() for end, tensor in tensors.items()}, file)
        form = parsed(file, networks).layers["unet"][layer]
        shape = (2, module.in_channels, 8, 8) if trained.dim() == 4 else (2, 5, module.in_features)
        x = draw(*shape)
        bias = None if module.bias is None else module.bias.double()
        if trained.dim() == 4:
            wanted = functional.conv2d(x, trained, bias, module.stride, module.padding)
        else:
            wanted = functional.linear(x, trained, bias)
        with torch.no_grad():
            y = module(x.float())
            got = y + form.scale * form.change(module, x.float(), y)
        error = float((got - wanted).abs().max() / (wanted - y).abs().max())
        assert error < 1e-5, (name, error)
    assert len(kinds) == (9 if layer == CONVOLUTION else 7)


def test_trained_norms_and_biases(networks: Networks, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(6)
    unet = networks["unet"]
    norms = ("conv_norm_out", "down_blocks.1.attentions.0.transformer_blocks.0.norm1")
    tensors: Tensors = {}
    for name in norms:
        weight: Any = unet.get_submodule(name).weight
        for end in ("w_norm", "b_norm"):
            tensors[f"lycoris_{name.replace('.', '_')}.{end}"] = torch.randn(weight.shape, generator=generator)
    bias = torch.randn(unet.get_submodule("conv_out").weight.shape[:1], generator=generator)  # type: ignore[index]
    tensors["diffusion_model.out.2.diff_b"] = bias
    file = tmp_path / "norms.safetensors"
    save_file(tensors, file)
    layers = parsed(file, networks).layers["unet"]
    assert layers.keys() == {*norms, "conv_out"}
    for name, form in layers.items():
        module: Any = unet.get_submodule(name)
        trained = copy.deepcopy(module)
        if name == "conv_out":
            x = torch.randn(2, module.in_channels, 8, 8, generator=generator)
            trained.bias.data += bias
        else:
            width = module.weight.shape[0]
            x = torch.randn(*((2, width, 8, 8) if name == "conv_norm_out" else (2, 5, width)), generator=generator)
            trained.weight.data += tensors[f"lycoris_{name.replace('.', '_')}.w_norm"]
            trained.bias.data += tensors[f"lycoris_{name.replace('.', '_')}.b_norm"]
        with torch.no_grad():
            y = module(x)
            torch.testing.assert_close(y + form.scale * form.change(module, x, y), trained(x))


MISSHAPEN: list[Stranger[Tensors, str]] = [
    Stranger(
        "half a LoHa",
        "lycoris-lora 4.1.3, cut",
        {"hada_w1_a": torch.ones(64, 4), "hada_w1_b": torch.ones(4, 64)},
        "half of",
    ),
    Stranger(
        "a LoKr of another layer",
        "lycoris-lora 4.1.3, cut",
        {"lokr_w1": torch.ones(4, 4), "lokr_w2": torch.ones(4, 4)},
        "fit",
    ),
    Stranger(
        "a LoKr of numbers",
        "lycoris-lora 4.1.3, cut",
        {"lokr_w1": torch.tensor(1.0), "lokr_w2": torch.ones(4, 4)},
        "fit",
    ),
    Stranger("a magnitude alone", "lycoris-lora 4.1.3, cut", {"dora_scale": torch.ones(64, 1)}, "half of"),
    Stranger("a difference of another layer", "lycoris-lora 4.1.3, cut", {"diff": torch.ones(4, 4)}, "fit"),
    Stranger(
        "a DoRA of inputs",
        "lycoris-lora 4.1.3 wd_on_output=False",
        {
            "lora_down.weight": torch.ones(4, 64),
            "lora_up.weight": torch.ones(64, 4),
            "dora_scale": torch.ones(1, 64),
        },
        "scales the inputs",
    ),
    Stranger(
        "two kinds",
        "a merge of 2 files",
        {"lora_down.weight": torch.ones(4, 64), "lora_up.weight": torch.ones(64, 4), "diff": torch.ones(64, 64)},
        "two kinds",
    ),
    Stranger("not finite", "lycoris-lora 4.1.3, diverged", {"diff": torch.full((64, 64), float("nan"))}, "not finite"),
]


@pytest.mark.parametrize("row", rows(MISSHAPEN))
def test_a_relative_that_cannot_be_used_is_refused(
    networks: Networks, tmp_path: Path, row: Stranger[Tensors, str]
) -> None:
    save_file({f"{FLAT}.{end}": tensor for end, tensor in row.given.items()}, tmp_path / "bad.safetensors")
    message = AdapterStore(tmp_path, networks, ON_CPU).refused["bad"]
    assert row.right in message
    assert message.endswith(".")
    assert ": " in message or "; use" in message, "the remedy"


def test_values_are_finite_in_the_dtype_that_the_model_runs_in(networks: Networks, tmp_path: Path) -> None:
    """100,000 is finite in the file and infinite in fp16."""
    half = {name: copy.deepcopy(network).half() for name, network in networks.items()}
    down, up = drawn(networks, "unet", LAYER)
    save_file({f"{FLAT}.lora_down.weight": down * 1e5, f"{FLAT}.lora_up.weight": up}, tmp_path / "big.safetensors")
    assert "torch.float16" in AdapterStore(tmp_path, half, ON_CPU).refused["big"]
    assert "big" in AdapterStore(tmp_path, networks, ON_CPU).digests
