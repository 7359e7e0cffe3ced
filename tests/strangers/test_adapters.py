"""LoRA files as trainers and editors write them: layouts that are read, and what is refused by its tensor's name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from darkroom.inference.sdxl.loading.full_size import FULL_SIZE, full_size_components
from darkroom.inference.sdxl.loading.lora_names import LayerNames, TensorPlace
from darkroom.inference.sdxl.prepare.adapter_store import AdapterStore
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import AdapterUse, RenderFault
from tests.strangers.lora_files import (
    CONVOLUTION,
    FIRST,
    FLAT,
    LAYER,
    ON_CPU,
    RANK,
    TEXT,
    Networks,
    Tensors,
    drawn,
    parsed,
)
from tests.strangers.table import Stranger, rows

pytestmark = pytest.mark.render


# --- Layouts --------------------------------------------------------------------------------------------

UNET_LAYOUTS: list[Stranger[tuple[str, str], None]] = [
    Stranger(name, writer, given, None)
    for name, writer, given in (
        ("diffusers", "diffusers 0.42.1", (f"unet.{LAYER}.lora_A.weight", f"unet.{LAYER}.lora_B.weight")),
        (
            "adapter_model.safetensors",
            "peft 0.21.2 save_pretrained",
            (f"base_model.model.{LAYER}.lora_A.weight", f"base_model.model.{LAYER}.lora_B.weight"),
        ),
        (
            "an adapter's name in the middle",
            "peft 0.21.2 state_dict",
            (f"unet.{LAYER}.lora_A.default.weight", f"unet.{LAYER}.lora_B.default.weight"),
        ),
        (
            "diffusion_model",
            "ComfyUI 0.3 LoraSave",
            (f"diffusion_model.{FIRST}.lora_down.weight", f"diffusion_model.{FIRST}.lora_up.weight"),
        ),
        (
            "the first release's names behind unet",
            "OneTrainer 1.0",
            (f"unet.{FIRST}.lora_down.weight", f"unet.{FIRST}.lora_up.weight"),
        ),
        (
            "diffusers' names with kohya's ends",
            "OneTrainer 1.0",
            (f"unet.{LAYER}.lora_down.weight", f"unet.{LAYER}.lora_up.weight"),
        ),
        (
            "kohya",
            "sd-scripts 0.9.1",
            tuple(f"lora_unet_{FIRST.replace('.', '_')}.lora_{end}.weight" for end in ("down", "up")),
        ),
        (
            "kohya's prefix and diffusers' names",
            "OneTrainer 1.0",
            tuple(f"lora_unet_{LAYER.replace('.', '_')}.lora_{end}.weight" for end in ("down", "up")),
        ),
        (
            "LyCORIS's wrapper",
            "lycoris-lora 4.1.3",
            tuple(f"lycoris_{LAYER.replace('.', '_')}.lora_{end}.weight" for end in ("down", "up")),
        ),
        (
            "attention processors",
            "diffusers 0.17.0",
            tuple(f"{LAYER.replace('.to_q', '.processor.to_q')}_lora.{end}.weight" for end in ("down", "up")),
        ),
        (
            "between processors and PEFT",
            "diffusers 0.22.0",
            (f"unet.{LAYER}.lora.down.weight", f"unet.{LAYER}.lora.up.weight"),
        ),
    )
]


@pytest.mark.parametrize("row", rows(UNET_LAYOUTS))
def test_a_layer_has_the_same_tensors_in_every_layout(
    networks: Networks, tmp_path: Path, row: Stranger[tuple[str, str], None]
) -> None:
    down, up = drawn(networks, "unet", LAYER)
    file = tmp_path / "one.safetensors"
    save_file(dict(zip(row.given, (down, up), strict=True)), file)
    lora = parsed(file, networks)
    assert lora.layers.keys() == {"unet"}
    assert lora.layers["unet"].keys() == {LAYER}
    layer = lora.layers["unet"][LAYER]
    assert torch.equal(layer.down, down)
    assert torch.equal(layer.up, up)
    assert layer.scale == 1.0


TEXT_LAYOUTS: list[Stranger[str, str]] = [
    Stranger(
        "diffusers, first", "diffusers 0.42.1", f"text_encoder.text_model.{TEXT}.lora_{{}}.weight", "text_encoder"
    ),
    Stranger(
        "diffusers, second", "diffusers 0.42.1", f"text_encoder_2.text_model.{TEXT}.lora_{{}}.weight", "text_encoder_2"
    ),
    Stranger(
        "kohya, first",
        "sd-scripts 0.9.1",
        f"lora_te1_text_model_{TEXT.replace('.', '_')}.lora_{{}}.weight",
        "text_encoder",
    ),
    Stranger(
        "kohya, second",
        "sd-scripts 0.9.1",
        f"lora_te2_text_model_{TEXT.replace('.', '_')}.lora_{{}}.weight",
        "text_encoder_2",
    ),
    Stranger(
        "ComfyUI, second",
        "ComfyUI 0.3 LoraSave",
        f"text_encoders.clip_g.transformer.text_model.{TEXT}.lora_{{}}.weight",
        "text_encoder_2",
    ),
    Stranger(
        "first diffusers",
        "diffusers 0.17.0",
        f"text_encoder.text_model.{TEXT}.lora_linear_layer.{{}}.weight",
        "text_encoder",
    ),
]


@pytest.mark.parametrize("row", rows(TEXT_LAYOUTS))
def test_text_encoders_are_changed_too(networks: Networks, tmp_path: Path, row: Stranger[str, str]) -> None:
    name = TEXT if row.right == "text_encoder" else f"text_model.{TEXT}"
    down, up = drawn(networks, row.right, name)
    ends = ("A", "B") if row.given.endswith("lora_{}.weight") and "lora_te" not in row.given else ("down", "up")
    file = tmp_path / "words.safetensors"
    save_file({row.given.format(end): one for end, one in zip(ends, (down, up), strict=True)}, file)
    lora = parsed(file, networks)
    assert lora.changes_text
    assert {network: list(layers) for network, layers in lora.layers.items()} == {row.right: [name]}


def test_a_file_that_mixes_names_is_read_whole(networks: Networks, tmp_path: Path) -> None:
    """As a merge of two trainers' files; diffusers 0.42.1 drops the layers with the first release's names."""
    down, up = drawn(networks, "unet", LAYER)
    other = LAYER.replace("to_q", "to_k")
    file = tmp_path / "mixed.safetensors"
    tensors = {f"unet.{FIRST}.lora_down.weight": down, f"unet.{FIRST}.lora_up.weight": up}
    tensors |= {f"unet.{other}.lora_A.weight": down.clone(), f"unet.{other}.lora_B.weight": up.clone()}
    save_file(tensors, file)
    assert parsed(file, networks).layers["unet"].keys() == {LAYER, other}


def peft_config(kind: str) -> tuple[Any, float]:
    """A configuration of PEFT's, and the scale that its settings mean."""
    import peft

    common: dict[str, Any] = {"r": 4, "target_modules": ["to_q", "conv1"]}
    if kind == "LoHa":
        return peft.LoHaConfig(alpha=2, use_effective_conv2d=True, **common), 0.5
    if kind == "LoKr":
        return peft.LoKrConfig(alpha=6, **common), 1.5
    if kind == "LoRA, rank-stabilised":
        return peft.LoraConfig(lora_alpha=8, use_rslora=True, **common), 4.0
    return peft.LoraConfig(lora_alpha=8, use_dora=kind == "DoRA", **common), 2.0


PEFT_KINDS: list[Stranger[str, None]] = [
    Stranger(kind, "peft 0.21.2 save_pretrained", kind, None)
    for kind in ("LoRA", "LoRA, rank-stabilised", "DoRA", "LoHa", "LoKr")
]


@pytest.mark.parametrize("row", rows(PEFT_KINDS))
def test_a_folder_that_peft_saved_is_an_adapter_of_the_same_strength(
    networks: Networks, tiny: TinyModel, tmp_path: Path, row: Stranger[str, None]
) -> None:
    """PEFT writes alpha into adapter_config.json alone. The oracle is its own forward."""
    import peft
    from diffusers import UNet2DConditionModel

    unet: Any = UNet2DConditionModel.from_pretrained(tiny.path / "unet")  # type: ignore[attr-defined]
    config, scale = peft_config(row.given)
    model: Any = peft.get_peft_model(unet, config)
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "magnitude" not in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
        elif parameter.requires_grad:
            parameter.data *= 1.5
    model.save_pretrained(tmp_path / "ink")
    store = AdapterStore(tmp_path, networks, ON_CPU)
    assert (list(store.digests), dict(store.refused)) == (["ink"], {})
    layers = store.get(AdapterUse("ink", 1.0)).lora.layers["unet"]
    assert {name.rpartition(".")[2] for name in layers} == {"to_q", "conv1"}
    with torch.no_grad():
        for name, layer in layers.items():
            ours: Any = networks["unet"].get_submodule(name)
            shape = (2, ours.in_channels, 8, 8) if name.endswith("conv1") else (2, 5, ours.in_features)
            x = torch.randn(shape, generator=generator)
            y = ours(x)
            wanted = model.get_submodule(f"base_model.model.{name}")(x)
            assert not torch.allclose(y, wanted, atol=1e-2), "the adapter does nothing"
            torch.testing.assert_close(y + layer.scale * layer.change(ours, x, y), wanted, rtol=1e-4, atol=1e-4)
            assert row.given == "DoRA" or layer.scale == scale


def test_peft_settings_belong_to_the_adapter(networks: Networks, tmp_path: Path) -> None:
    down, up = drawn(networks, "unet", LAYER)
    tensors = {f"base_model.model.{LAYER}.lora_A.weight": down, f"base_model.model.{LAYER}.lora_B.weight": up}
    folder = tmp_path / "ink"
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    save_file(tensors, tmp_path / "bare.safetensors")
    digests = []
    for alpha in (8, 16):
        (folder / "adapter_config.json").write_text(f'{{"r": 4, "lora_alpha": {alpha}}}')
        store = AdapterStore(tmp_path, networks, ON_CPU)
        digests.append(store.digests["ink"])
        assert store.get(AdapterUse("ink", 1.0)).lora.layers["unet"][LAYER].scale == alpha / 4
    assert len({*digests, store.digests["bare"]}) == 3
    (folder / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 12}')
    with pytest.raises(RenderFault, match="is being overwritten"):
        AdapterStore.get(_emptied(store), AdapterUse("ink", 1.0))
    for torn in ("{", "[]", '{"lora_alpha": "much"}'):
        (folder / "adapter_config.json").write_text(torn)
        assert "adapter_config.json" in AdapterStore(tmp_path, networks, ON_CPU).refused["ink"]
    remark = parsed(tmp_path / "bare.safetensors", networks).remark
    assert remark is not None, "alpha stands in another file"
    assert "adapter_config.json" in remark


def _emptied(store: AdapterStore) -> AdapterStore:
    store._cache.reset()
    return store


def test_every_name_of_the_first_release_is_the_one_that_diffusers_converts() -> None:
    """At SDXL's full size, where blocks have more than one layer. Without memory for weights."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    unet = full_size_components("meta", torch.float32, controlnet=False).unet
    names = LayerNames({"unet": unet})
    wanted = {f"{name}.weight": one.weight for name, one in unet.named_modules() if hasattr(one, "weight")}
    first_release = _first_release_names(wanted, names)
    converted: Any = convert_ldm_unet_checkpoint(first_release, FULL_SIZE["unet"] | {"class_embed_type": None})
    layers = {name for name, one in wanted.items() if one is not None and one.dim() in (2, 4)}
    assert len(layers) > 700
    assert {name for name in layers if converted.get(name) is wanted[name]} == layers


def _first_release_names(wanted: Mapping[str, Any], names: LayerNames) -> Tensors:
    """By our names, turned round: what the file's layer is called in the original checkpoint, and its tensor."""
    found: Tensors = {}
    start = "model.diffusion_model."
    for written, (_, layer) in names._layers.items():
        inside = written.removeprefix(start)
        if written.startswith(start) and inside.startswith(
            ("input_", "middle_", "output_", "time_embed.", "label", "out.")
        ):
            found[f"{written}.weight"] = wanted[f"{layer}.weight"]
    # The converter looks biases up where it converts by hand.
    return found | {key.replace(".weight", ".bias"): tensor for key, tensor in found.items()}


# --- Alphas, ranks, kinds of layer ----------------------------------------------------------------------


def test_a_tucker_decomposition_is_folded_into_a_plain_lora(networks: Networks, tmp_path: Path) -> None:
    module: Any = networks["unet"].get_submodule(CONVOLUTION)
    out, width = module.weight.shape[:2]
    generator = torch.Generator().manual_seed(2)
    down, mid, up = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((RANK, width, 1, 1), (RANK, RANK, 3, 3), (out, RANK, 1, 1))
    )
    name = f"lora_unet_{CONVOLUTION.replace('.', '_')}"
    tensors = {f"{name}.lora_{end}.weight": one for end, one in (("down", down), ("mid", mid), ("up", up))}
    file = tmp_path / "tucker.safetensors"
    save_file(tensors | {f"{name}.alpha": torch.tensor(2.0)}, file)
    layer = parsed(file, networks).layers["unet"][CONVOLUTION]
    x = torch.randn(1, width, 8, 8, generator=generator, dtype=torch.float64)
    chained = functional.conv2d(functional.conv2d(functional.conv2d(x, down), mid, padding=1), up)
    folded = functional.conv2d(functional.conv2d(x, layer.down.double(), padding=1), layer.up.double())
    torch.testing.assert_close(folded, chained, rtol=1e-4, atol=1e-3)
    assert layer.scale == 2.0 / RANK


def test_each_layer_has_its_own_rank_alpha_and_dtype(networks: Networks, tmp_path: Path) -> None:
    tensors: Tensors = {}
    for rank, alpha, name, dtype in (
        (2, 1.0, LAYER, torch.bfloat16),
        (8, 16.0, LAYER.replace("to_q", "to_k"), torch.float16),
        (3, None, LAYER.replace("to_q", "to_v"), torch.float8_e4m3fn),
    ):
        weight: Any = networks["unet"].get_submodule(name).weight
        tensors |= {
            f"unet.{name}.lora_A.weight": torch.ones(rank, weight.shape[1]).to(dtype),
            f"unet.{name}.lora_B.weight": torch.ones(weight.shape[0], rank).to(dtype),
        }
        if alpha is not None:
            tensors[f"unet.{name}.alpha"] = torch.tensor([alpha])
    file = tmp_path / "mixed.safetensors"
    save_file(tensors, file, metadata={"ss_network_dim": "8", "ss_network_alpha": "4"})
    scales = [layer.scale for layer in parsed(file, networks).layers["unet"].values()]
    assert sorted(scales) == [0.5, 1.0, 2.0]


def test_a_linear_layer_written_as_a_convolution_of_one_point(networks: Networks, tmp_path: Path) -> None:
    down, up = drawn(networks, "unet", LAYER)
    file = tmp_path / "points.safetensors"
    tensors = {
        f"unet.{LAYER}.lora_down.weight": down[..., None, None],
        f"unet.{LAYER}.lora_up.weight": up[..., None, None],
    }
    save_file(tensors, file)
    assert torch.equal(parsed(file, networks).layers["unet"][LAYER].down, down)


# --- What is foreign ------------------------------------------------------------------------------------

ONES = torch.ones(4)
FOREIGN: list[Stranger[str, str]] = [
    Stranger("OFT", "lycoris-lora 4.1.3", f"{FLAT}.oft_blocks", "an OFT"),
    Stranger("PEFT's OFT", "peft 0.21.2", f"base_model.model.{LAYER}.oft_R.weight", "an OFT"),
    Stranger("IA3", "lycoris-lora 4.1.3", f"{FLAT}.on_input", "an IA3"),
    Stranger("PEFT's IA3", "peft 0.21.2", f"base_model.model.{LAYER}.ia3_l", "an IA3"),
    Stranger("GLoRA", "lycoris-lora 4.1.3", f"{FLAT}.a1.weight", "a GLoRA"),
    Stranger("a bias of the LoRA", "peft 0.21.2 lora_bias", f"unet.{LAYER}.lora_B.bias", "a bias"),
    Stranger("a third encoder", "sd-scripts 0.9.1 sd3", "lora_te3_x.lora_down.weight", "third text encoder"),
    Stranger("Flux", "sd-scripts 0.9.1 flux", "lora_unet_double_blocks_0_img_attn_proj.lora_up.weight", "of Flux"),
    Stranger(
        "Flux of diffusers",
        "diffusers 0.42.1",
        "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight",
        "Flux",
    ),
    Stranger("Wan", "musubi-tuner 0.2", "diffusion_model.blocks.0.cross_attn.k.lora_A.weight", "Wan"),
    Stranger(
        "Stable Diffusion 1",
        "sd-scripts 0.9.1",
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight",
        "Stable Diffusion 1 or 2",
    ),
    Stranger("a counter", "a trainer 1.0", "step", "is not known"),
    Stranger("an embedding's own tensors", "stable-diffusion-webui 1.10", "clip_g", "an embedding"),
]


@pytest.mark.parametrize("row", rows(FOREIGN))
def test_a_foreign_tensor_is_named(networks: Networks, tmp_path: Path, row: Stranger[str, str]) -> None:
    down, up = drawn(networks, "unet", LAYER)
    good = {f"{FLAT}.lora_down.weight": down, f"{FLAT}.lora_up.weight": up}
    save_file(good, tmp_path / "good.safetensors")
    save_file(good | {row.given: ONES}, tmp_path / "foreign.safetensors")
    store = AdapterStore(tmp_path, networks, ON_CPU)
    assert list(store.digests) == ["good"]
    message = store.refused["foreign"]
    assert row.given in message
    assert row.right in message
    assert message.count(":") >= 1, "the remedy"
    assert message.endswith(".")


def test_the_text_width_of_another_base_is_named(networks: Networks, tmp_path: Path) -> None:
    layer = LAYER.replace("attn1.to_q", "attn2.to_k")
    save_file(
        {f"unet.{layer}.lora_A.weight": torch.ones(4, 768), f"unet.{layer}.lora_B.weight": torch.ones(64, 4)},
        tmp_path / "old.safetensors",
        metadata={"ss_base_model_version": "sd_v1"},
    )
    message = AdapterStore(tmp_path, networks, ON_CPU).refused["old"]
    assert "Stable Diffusion 1" in message
    assert layer in message


def test_an_embedding_bundled_with_a_lora_is_left_out_and_said(networks: Networks, tmp_path: Path) -> None:
    """As sd-scripts and OneTrainer bundle it; the LoRA beside it is whole."""
    down, up = drawn(networks, "unet", LAYER)
    good = {f"{FLAT}.lora_down.weight": down, f"{FLAT}.lora_up.weight": up}
    file = tmp_path / "bundled.safetensors"
    save_file(good | {"bundle_emb.token.clip_l": torch.zeros(2, 64)}, file)
    lora = parsed(file, networks)
    assert lora.layers["unet"].keys() == {LAYER}
    assert lora.remark is not None
    assert "bundle_emb.token.clip_l" in lora.remark
    save_file({"bundle_emb.token.clip_l": torch.zeros(2, 64)}, file)
    assert "no LoRA" in AdapterStore(tmp_path, networks, ON_CPU).refused["bundled"]


REFUSE = """
import sys
from pathlib import Path
import torch
from darkroom.inference.sdxl.prepare.adapter_store import AdapterStore
from tests.inference.painting import load
from darkroom.inference.tiny import TinyModel
path = Path(sys.argv[1])
components = load(TinyModel("tiny", path, path.parent / "controlnet"))._loaded().components
names = ("unet", "text_encoder", "text_encoder_2")
networks = dict(zip(names, (components.unet, *components.text_encoders)))
store = AdapterStore(Path(sys.argv[2]), networks, dict.fromkeys(names, torch.device("cpu")))
print(store.refused["many"], file=sys.stderr)
"""


def test_the_same_tensor_is_named_at_every_start(networks: Networks, tiny: TinyModel, tmp_path: Path) -> None:
    """Sets of texts are in another order in each process."""
    down, up = drawn(networks, "unet", LAYER)
    tensors = {f"{FLAT}.lora_down.weight": down, f"{FLAT}.lora_up.weight": up}
    tensors |= {
        f"{FLAT}_{number}.{end}": torch.ones(4)
        for number in range(20)
        for end in ("w_norm", "dora_scale", "lora_A.weight")
    }
    save_file(tensors, tmp_path / "many.safetensors")
    said = set()
    for seed in ("1", "2"):
        ended = subprocess.run(
            [sys.executable, "-c", REFUSE, str(tiny.path), str(tmp_path)],
            capture_output=True, text=True, check=True, timeout=300, env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
        )  # fmt: skip
        said.add(ended.stderr.strip().splitlines()[-1])
    assert len(said) == 1
    assert f"{FLAT}_0.dora_scale" in said.pop()


def test_names_say_which_tensor_of_a_layer_it_is(networks: Networks) -> None:
    names = LayerNames(networks)
    assert names.find(f"{FLAT}.alpha") == TensorPlace("unet", LAYER, "alpha")
    assert names.find(f"{FLAT}x.alpha") == f"{FLAT}x"
    assert names.find(FLAT) is None
