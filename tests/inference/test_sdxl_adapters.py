"""Proves that a row with a LoRA is the picture that diffusers' pipeline paints with it, whatever its neighbours have.

The oracle is diffusers' own: `load_lora_weights` and `set_adapters`, on PEFT.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from darkroom.inference.sdxl import ModelFiles, SdxlDevice
from darkroom.inference.sdxl.denoise.adapters import AdapterBank, AppliedAdapter, shares_of
from darkroom.inference.sdxl.loading.lora_file import Lora
from darkroom.inference.sdxl.loading.lora_layers import LoraLayer, dora
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import AdapterUse, ModelError, RenderRequest
from tests.inference import loras
from tests.inference.painting import (
    PLAIN,
    POSED,
    TOLERANCE,
    Oracle,
    distance,
    paint,
    paint_together,
    prepare,
)

pytestmark = pytest.mark.render

BOUND = 400_000
"""Bytes: enough for each of the adapters, and not for two."""
VISIBLE = 8
"""Of 255: more than any rounding."""

TEXT_LAYERS = [f"encoder.layers.{layer}.{name}" for layer in range(3) for name in loras.TEXT]
IN_SECOND = [f"text_model.{name}" for name in TEXT_LAYERS] + ["text_projection"]


def networks_of(device: SdxlDevice) -> dict[str, torch.nn.Module]:
    model = device._loaded()
    first, second = model.components.text_encoders
    return {"unet": model.components.unet, "text_encoder": first, "text_encoder_2": second}


@pytest.fixture(scope="module")
def folder(shared_device: SdxlDevice, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    networks = networks_of(shared_device)
    attention = loras.transformer_layers(networks["unet"], loras.ATTENTION)
    all_linear = attention + loras.transformer_layers(networks["unet"], loras.FEED_FORWARD)

    def layers(seed: int, strength: float = 1.0) -> loras.Layers:
        return loras.Layers(networks, seed, strength)

    loras.peft_file(folder / "ink.safetensors", layers(1), {"unet": attention})
    loras.peft_file(folder / "oil.safetensors", layers(2), {"unet": all_linear}, rank=2, lora_alpha=3.0)
    texts = {"unet": attention, "text_encoder": TEXT_LAYERS, "text_encoder_2": IN_SECOND}
    loras.peft_file(folder / "words.safetensors", layers(3, 0.5), texts)
    loras.peft_file(folder / "only-words.safetensors", layers(4), {"text_encoder": TEXT_LAYERS})
    loras.kohya_file(folder / "kohya.safetensors", layers(5), all_linear, TEXT_LAYERS)
    loras.peft_file(folder / "grain.safetensors", layers(6), {"unet": [*loras.CONVOLUTIONS, *attention]})
    return folder


@pytest.fixture(scope="module")
def device(tiny: TinyModel, folder: Path) -> Iterator[SdxlDevice]:
    files = ModelFiles(tiny.path, tiny.controlnet_path, adapters_path=folder)
    device = SdxlDevice(lambda: files, device="cpu", cpu_threads=1)
    device.load()
    yield device
    device.close()


@pytest.fixture(scope="module")
def adapted(tiny: TinyModel, folder: Path) -> Oracle:
    return Oracle(tiny.path, tiny.controlnet_path, adapters_path=folder)


def with_adapter(name: str, weight: float = 1.0, request: RenderRequest = PLAIN) -> RenderRequest:
    return replace(request, adapters=(AdapterUse(name, weight),))


@pytest.mark.parametrize("name", ["ink", "oil", "words", "only-words", "kohya", "grain"])
def test_a_row_alone_is_the_pipelines(device: SdxlDevice, adapted: Oracle, name: str) -> None:
    request = with_adapter(name, 0.8, replace(PLAIN, negative_prompt="a dog"))
    painted = paint(device, request)
    assert distance(painted, adapted.paint(request)) <= TOLERANCE
    assert distance(painted, paint(device, replace(request, adapters=()))) > VISIBLE, "the adapter does nothing"
    assert distance(painted, paint(device, with_adapter(name, -0.8, request))) > VISIBLE, "the weight does nothing"


def test_rows_with_different_adapters_weights_and_none_share_steps(device: SdxlDevice, adapted: Oracle) -> None:
    requests = [
        PLAIN,
        with_adapter("ink"),
        with_adapter("ink", 0.5, replace(PLAIN, steps=6, seed=3)),
        with_adapter("oil", 0.8, replace(PLAIN, guidance_scale=1.0)),
        with_adapter("words", 1.0, POSED),
        with_adapter("grain", -0.7, replace(POSED, sampler="euler")),
        with_adapter("kohya", 1.2, replace(PLAIN, negative_prompt="")),
    ]
    joining = [(number % 3, request) for number, request in enumerate(requests)]
    for request, painted in zip(requests, paint_together(device, joining), strict=True):
        assert distance(painted, adapted.paint(request)) <= TOLERANCE, request.adapters
    pictures = [adapted.paint(request) for request in requests]
    assert all(distance(pictures[0], other) > VISIBLE for other in pictures[1:])


def with_adapters(*uses: tuple[float | str | None, ...], request: RenderRequest = PLAIN) -> RenderRequest:
    return replace(request, adapters=tuple(AdapterUse(*use) for use in uses))  # type: ignore[arg-type]


def test_rows_with_several_adapters_share_steps_with_other_sets(device: SdxlDevice, adapted: Oracle) -> None:
    """The oracle is `set_adapters` with several names; PEFT adds the changes up."""
    requests = [
        with_adapters(("ink", 0.7), ("oil", 0.5)),
        with_adapters(("grain", 0.6), ("ink", -0.4), ("kohya", 0.5), ("words", 0.8), request=POSED),
        with_adapters(("kohya", 0.4, -0.9), ("words", 0.5, 1.0), request=replace(PLAIN, negative_prompt="a dog")),
        with_adapters(("words", 0.0, 1.0)),
        with_adapters(("oil", 0.5), request=replace(PLAIN, guidance_scale=1.0)),
        PLAIN,
    ]
    joining = [(number % 2, request) for number, request in enumerate(requests)]
    together = paint_together(device, joining)
    for request, painted in zip(requests, together, strict=True):
        assert distance(painted, adapted.paint(request)) <= TOLERANCE, request.adapters
        assert distance(painted, paint(device, request)) <= TOLERANCE, request.adapters
    one_alone = [adapted.paint(with_adapter("ink", 0.7)), adapted.paint(with_adapter("oil", 0.5))]
    assert all(distance(together[0], alone) > VISIBLE for alone in one_alone)
    assert distance(together[3], together[5]) > VISIBLE, "the text encoders' weight is one of its own"


def test_forms_in_one_slot_do_not_see_each_others_changes() -> None:
    """A DoRA scales the layer's own output, whatever other adapters of the slot, or of other slots, add to it."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    network = torch.nn.Sequential(torch.nn.Linear(6, 8))
    linear: Any = network[0]
    lora = LoraLayer(down=draw(2, 6), up=draw(8, 2), scale=0.5)
    scaled = dora(LoraLayer(down=draw(2, 6), up=draw(8, 2), scale=2.0), draw(8).abs() + 1, linear.weight.detach())
    first = AppliedAdapter("a", "", Lora({"unet": {"0": lora}}), 0.7, 0.7)
    second = AppliedAdapter("b", "", Lora({"unet": {"0": scaled}}), 0.4, 0.4)
    bank = AdapterBank("unet", network)
    slots = [(second, first), (first,), (), (second,)]
    x = draw(4, 3, 6)
    with torch.no_grad():
        y = network(x)
        with bank.applied(shares_of(slots, torch.device("cpu"))):
            painted = network(x)
        merged = scaled.ratio[:, None] * (linear.weight + 2.0 * scaled.inner.delta()) - linear.weight
        changes = {"a": 0.7 * 0.5 * lora.delta(), "b": 0.4 * merged}
        for slot, used in enumerate(slots):
            wanted = y[slot] + x[slot] @ sum((changes[one.name] for one in used), torch.zeros(8, 6)).T
            torch.testing.assert_close(painted[slot], wanted)
        assert torch.equal(painted[2], y[2])


def test_relatives_of_lora_share_steps_with_loras(device: SdxlDevice, tiny: TinyModel, folder: Path) -> None:
    kinds = folder.parent / f"{folder.name}-kinds"
    kinds.mkdir()
    shutil.copy(folder / "ink.safetensors", kinds)
    generator = torch.Generator().manual_seed(9)
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v"
    weight: Any = networks_of(device)["unet"].get_submodule(layer).weight
    flat = f"lycoris_{layer.replace('.', '_')}"
    out, width = weight.shape
    lokr = {"lokr_w1": torch.randn(4, 4, generator=generator)}
    lokr["lokr_w2"] = torch.randn(out // 4, width // 4, generator=generator)
    save_file({f"{flat}.{end}": one for end, one in lokr.items()}, kinds / "lokr.safetensors")
    save_file(
        {f"{flat}.{end}": one for end, one in lokr.items()} | {f"{flat}.dora_scale": torch.full((out, 1), 9.0)},
        kinds / "dora.safetensors",
    )
    save_file({"lycoris_conv_norm_out.w_norm": torch.full((32,), 0.7)}, kinds / "norms.safetensors")
    files = ModelFiles(tiny.path, tiny.controlnet_path, adapters_path=kinds)
    having = SdxlDevice(lambda: files, device="cpu", cpu_threads=1)
    having.load()
    assert set(having.info.adapters) == {"dora", "ink", "lokr", "norms"}, having.info.adapters_refused
    requests = [
        with_adapters(("dora", 0.5), ("ink", 0.5)),
        with_adapters(("lokr", 1.0)),
        with_adapters(("norms", 1.0), ("dora", 1.0), request=POSED),
        with_adapters(("ink", 1.0)),
        PLAIN,
    ]
    together = paint_together(having, [(number % 2, request) for number, request in enumerate(requests)])
    for request, painted in zip(requests, together, strict=True):
        assert distance(painted, paint(having, request)) <= TOLERANCE, request.adapters
    assert all(distance(together[-1], other) > VISIBLE for other in together[:-1])
    having.close()


def test_rows_without_adapters_are_untouched_to_the_last_bit(device: SdxlDevice, shared_device: SdxlDevice) -> None:
    def latents(of: SdxlDevice, neighbour: RenderRequest | None) -> torch.Tensor:
        rows = prepare(of, PLAIN)
        other = [] if neighbour is None else prepare(of, neighbour, "other")
        for _ in range(PLAIN.steps):
            of.step([*rows, *other])
        return rows[0].latents

    assert torch.equal(latents(device, None), latents(shared_device, None))
    # The neighbour takes the same places in the batch; only its adapter differs.
    assert torch.equal(latents(device, with_adapter("grain")), latents(shared_device, PLAIN))


def test_no_hook_stays_behind(device: SdxlDevice) -> None:
    def hooks() -> list[int]:
        # transformers has hooks of its own on the text encoders.
        return [len(module._forward_hooks) for network in networks_of(device).values() for module in network.modules()]

    prepare(device, replace(PLAIN, prompt="whatever is installed once is now"))
    before = hooks()
    device.step(prepare(device, with_adapter("words", 0.3)))
    assert hooks() == before


def test_a_failed_step_leaves_no_hook_and_no_change(device: SdxlDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = prepare(device, with_adapter("ink"))
    before = rows[0].latents.clone()
    unet: Any = networks_of(device)["unet"]
    with monkeypatch.context() as patched:
        patched.setattr(unet.conv_out, "forward", lambda _x: (_ for _ in ()).throw(RuntimeError("no kernel")))
        with pytest.raises(RuntimeError, match="no kernel"):
            device.step(rows)
    assert not any(module._forward_hooks for module in unet.modules())
    assert torch.equal(rows[0].latents, before)


def test_a_compiled_model_does_not_pass_over_an_adapter(device: SdxlDevice, tiny: TinyModel, folder: Path) -> None:
    """Compiled blocks ignore hooks that are registered later: a batch with adapters has to run eagerly."""
    files = ModelFiles(tiny.path, tiny.controlnet_path, adapters_path=folder)
    compiled = SdxlDevice(
        lambda: files, device="cpu", cpu_threads=1, compiles="on", compile_backend="eager", rows_max=2
    )
    compiled.load()
    assert compiled._loaded().networks.regions is not None, "the blocks are compiled"
    for requests in ([PLAIN], [with_adapter("ink")], [PLAIN, with_adapter("grain")], [PLAIN]):
        joining = [(0, request) for request in requests]
        for one, other in zip(paint_together(compiled, joining), paint_together(device, joining), strict=True):
            assert distance(one, other) <= TOLERANCE
    compiled.close()


def test_a_plan_with_fused_projections_is_refused(shared_device: SdxlDevice, folder: Path) -> None:
    """Fused, a part of the layers that LoRAs change is no longer run."""
    plan = shared_device.plan
    files = ModelFiles(Path(shared_device.info.path or ""), adapters_path=folder)
    fused = SdxlDevice(lambda: files, device="cpu", cpu_threads=1, plan=replace(plan, fuse_qkv=True))
    with pytest.raises(ModelError, match="fused projections"):
        fused.load()


def test_prompts_are_cached_by_adapter_and_weight(device: SdxlDevice) -> None:
    def misses() -> int:
        return device.cache_counts()["prompt"].misses

    fresh = replace(PLAIN, prompt="a prompt that no other test has", guidance_scale=1.0)
    counted = []
    for request in (
        fresh,
        with_adapter("ink", 1.0, fresh),
        with_adapter("words", 1.0, fresh),
        with_adapter("words", 0.5, fresh),
        with_adapter("kohya", 0.5, fresh),
        with_adapter("words", 0.5, fresh),
    ):
        before = misses()
        prepare(device, request)
        counted.append(misses() - before)
    # `ink` changes no text encoder: its prompts are those without one.
    assert counted == [1, 0, 1, 1, 1, 0]


def test_adapters_are_loaded_when_asked_for_and_kept_within_a_bound(tiny: TinyModel, folder: Path) -> None:
    files = ModelFiles(tiny.path, adapters_path=folder)
    device = SdxlDevice(lambda: files, device="cpu", cpu_threads=1, adapter_cache_bytes_max=BOUND)
    device.load()
    assert set(device.info.adapters) == {"ink", "oil", "words", "only-words", "kohya", "grain"}
    assert device.cache_counts()["adapter"] == (0, 0, 0)
    for name in ("ink", "ink", "grain", "words", "ink"):
        prepare(device, with_adapter(name))
    hits, misses, held = device.cache_counts()["adapter"]
    assert (hits, misses) == (1, 4)
    assert 0 < held <= BOUND
    device.close()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_takes_adapters(tiny: TinyModel, folder: Path, dtype: Any) -> None:
    files = ModelFiles(tiny.path, tiny.controlnet_path, adapters_path=folder)
    device = SdxlDevice(lambda: files, device="cpu", dtype=dtype, cpu_threads=1)
    device.load()
    its_oracle = Oracle(tiny.path, tiny.controlnet_path, getattr(torch, dtype), adapters_path=folder)
    request = with_adapter("grain", 0.7)
    painted = paint_together(device, [(0, PLAIN), (0, request)])[1]
    mean = abs(painted - its_oracle.paint(request)).mean()
    assert float(mean) <= {"float16": 0.6, "bfloat16": 2.5}[dtype]
    device.close()


def test_every_chunk_of_a_long_prompt_is_encoded_with_the_adapter(device: SdxlDevice) -> None:
    weighted = replace(PLAIN, prompt_syntax="weighted", adapters=(AdapterUse("only-words", 1.0, 1.0),))
    first, second, both = (
        prepare(device, replace(weighted, prompt=prompt))[0].text
        for prompt in ("a red fox", "deep snow", "a red fox BREAK deep snow")
    )
    without = prepare(device, replace(weighted, prompt="deep snow", adapters=()))[0].text
    torch.testing.assert_close(both.tokens, torch.cat([first.tokens, second.tokens], dim=1))
    assert not torch.allclose(second.tokens, without.tokens)
