"""Proves that a row with textual inversions is the picture that diffusers' pipeline paints with them.

The oracle is diffusers' own `load_textual_inversion`, which adds a word to the tokenizers and a row for each vector to
the encoders. Here nothing is added: rows with and without, and with another one, share the encoders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from darkroom.inference.resolve import resolve
from darkroom.inference.sdxl import ModelFiles, SdxlDevice
from darkroom.inference.sdxl.prepare.adapter_store import AdapterStore
from darkroom.inference.sdxl.prepare.chunks import split_chunks
from darkroom.inference.sdxl.prepare.conditions import TextStyle
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import AdapterUse, RenderFault, RenderRequest
from darkroom.schemas.errors import RequestRejected
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import LimitSettings
from tests.inference import loras
from tests.inference.painting import PLAIN, POSED, TOLERANCE, Oracle, distance, load, paint, paint_together, prepare

pytestmark = pytest.mark.render

VISIBLE = 8
"""Of 255: more than any rounding."""
VECTORS = {"mood": 1, "hero": 3, "bad-hands_5": 8}
WEIGHTED = TextStyle(is_weighted=True)


def write(file: Path, count: int, seed: int, width: int, **more: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = {key: torch.randn(count, width, generator=generator) for key in ("clip_l", "clip_g")}
    save_file(vectors | more, file)


@pytest.fixture(scope="module")
def width(shared_device: SdxlDevice) -> int:
    encoder: Any = shared_device._loaded().components.text_encoders[0]
    return int(encoder.get_input_embeddings().weight.shape[1])


@pytest.fixture(scope="module")
def folder(shared_device: SdxlDevice, width: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embeddings")
    for seed, (name, count) in enumerate(VECTORS.items()):
        write(folder / f"{name}.safetensors", count, seed, width)
    networks: dict[str, torch.nn.Module] = {"unet": shared_device._loaded().components.unet}
    names = {"unet": loras.transformer_layers(networks["unet"], loras.ATTENTION)}
    loras.peft_file(folder / "ink.safetensors", loras.Layers(networks, 1), names)
    return folder


@pytest.fixture(scope="module")
def device(tiny: TinyModel, folder: Path) -> Iterator[SdxlDevice]:
    files = ModelFiles(tiny.path, tiny.controlnet_path, adapters_path=folder)
    device = SdxlDevice(lambda: files, device="cpu", cpu_threads=1)
    device.load()
    yield device
    device.close()


@pytest.fixture(scope="module")
def oracle(tiny: TinyModel, folder: Path) -> Oracle:
    oracle = Oracle(tiny.path, tiny.controlnet_path, adapters_path=folder)
    pipeline = oracle.plain
    for name in VECTORS:
        tensors = load_file(folder / f"{name}.safetensors")
        for key, encoder, tokenizer in (
            ("clip_l", pipeline.text_encoder, pipeline.tokenizer),
            ("clip_g", pipeline.text_encoder_2, pipeline.tokenizer_2),
        ):
            pipeline.load_textual_inversion(
                {f"<{name}>": tensors[key]}, token=f"<{name}>", text_encoder=encoder, tokenizer=tokenizer
            )
    return oracle


def asked(prompt: str, request: RenderRequest = PLAIN, **fields: Any) -> RenderRequest:
    return replace(request, prompt=prompt, prompt_syntax="weighted", **fields)


def in_diffusers(request: RenderRequest) -> RenderRequest:
    """The same request as the oracle takes it."""

    def words(text: str | None) -> str | None:
        for name in VECTORS:
            text = None if text is None else text.replace(f"embedding:{name}", f"<{name}>")
        return text

    return replace(request, prompt=words(request.prompt) or "", negative_prompt=words(request.negative_prompt))


REQUESTS = [
    asked("a photo of embedding:mood, a lake"),
    asked("embedding:hero"),
    asked("a lake", negative_prompt="embedding:bad-hands_5, blurry"),
    asked("embedding:hero in the style of embedding:mood", negative_prompt="embedding:mood", clip_skip=1),
    asked("two of embedding:hero and embedding:hero.", POSED),
    asked("embedding:mood, a lake", adapters=(AdapterUse("ink", 0.8),)),
]


@pytest.mark.parametrize("request_", REQUESTS[:4], ids=lambda request: request.prompt)
def test_a_row_alone_is_the_pipelines(device: SdxlDevice, oracle: Oracle, request_: RenderRequest) -> None:
    if request_.clip_skip:
        request_ = replace(request_, clip_skip=0)
    painted = paint(device, request_)
    assert distance(painted, oracle.paint(in_diffusers(request_))) <= TOLERANCE
    bare = asked(request_.prompt.replace("embedding:", ""), negative_prompt=request_.negative_prompt)
    if request_.negative_prompt is not None:
        bare = replace(bare, negative_prompt=request_.negative_prompt.replace("embedding:", ""))
    assert distance(painted, paint(device, bare)) > VISIBLE, "the vectors do nothing"


def test_rows_with_different_embeddings_and_none_share_encoders_and_steps(device: SdxlDevice, oracle: Oracle) -> None:
    requests = [PLAIN, *(request for request in REQUESTS if not request.clip_skip), asked("mood, a lake")]
    plain = paint(device, PLAIN)
    joining = [(number % 3, request) for number, request in enumerate(requests)]
    for request, painted in zip(requests, paint_together(device, joining), strict=True):
        assert distance(painted, oracle.paint(in_diffusers(request))) <= TOLERANCE, request.prompt
    assert distance(paint(device, PLAIN), plain) == 0
    for encoder in device._loaded().components.text_encoders:
        assert not encoder.get_input_embeddings()._forward_hooks


def test_weights_and_chunks_hold_for_vectors(device: SdxlDevice, oracle: Oracle) -> None:
    """Each chunk is a prompt of diffusers'; the vector of each token moves away from the empty prompt's."""
    model = device._loaded()
    embeddings = {name: model.adapters.get_embedding(name) for name in VECTORS}

    def encoded(text: str) -> torch.Tensor:
        with torch.no_grad():
            tokens: torch.Tensor = oracle.plain.encode_prompt(text, do_classifier_free_guidance=False)[0]
        return tokens

    empty = encoded("")
    weights = torch.ones(77)
    weights[2:5] = 1.3
    plain = encoded("lake <hero> sky")
    first = len(oracle.plain.tokenizer("lake").input_ids) - 2
    weights = torch.ones(77)
    weights[1 + first : 1 + first + 3] = 1.3
    wanted = empty + (plain - empty) * weights[None, :, None]
    with torch.no_grad():
        made = model.texts.embed("lake (embedding:hero:1.3) sky", (), WEIGHTED, embeddings)
        both = model.texts.embed("lake embedding:hero BREAK embedding:bad-hands_5", (), WEIGHTED, embeddings)
    torch.testing.assert_close(made.tokens, wanted, rtol=1e-4, atol=1e-4)
    apart = torch.cat([encoded("lake <hero>"), encoded("<bad-hands_5>")], dim=1)
    torch.testing.assert_close(both.tokens, apart, rtol=1e-4, atol=1e-4)


def test_an_embedding_stays_within_a_chunk() -> None:
    embedding = [-1, -2, -3, -4, -5]

    def chunks(*ids: Sequence[int]) -> list[int]:
        made = split_chunks([[(one, 1.0) for one in ids]], comma=7, glued={-2, -3, -4, -5})
        return [len(chunk.ids) for chunk in made.chunks]

    assert chunks([1] * 70, embedding) == [75]
    assert chunks([1] * 72, embedding, [1] * 4) == [72, 9]
    assert chunks([1] * 75, embedding) == [75, 5]
    assert chunks([*[1] * 60, 7, *[1] * 12], embedding) == [61, 17], "a comma near the edge comes first"


def test_texts_are_pooled_at_their_first_end_token(tiny: TinyModel) -> None:
    """SDXL's configurations say 2 for `eos_token_id`, and transformers then pools at the largest id."""
    device = load(tiny)
    components = device._loaded().components
    for tokenizer, encoder in zip(components.tokenizers, components.text_encoders, strict=True):
        tokenizer.add_tokens(["qwertz"])
        encoder.resize_token_embeddings(len(tokenizer))
    encoder = components.text_encoders[1]
    stated = next(module for module in encoder.modules() if hasattr(module, "eos_token_id"))
    pooled = []
    for eos_token_id in (components.tokenizers[1].eos_token_id, 2):
        stated.eos_token_id = eos_token_id
        device._loaded().texts.reset()
        for style in (TextStyle(), WEIGHTED):
            with torch.no_grad():
                pooled.append(device._loaded().texts.embed("a qwertz lake", (), style).pooled)
    assert all(torch.equal(one, pooled[0]) for one in pooled)
    device.close()


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"emb_params": (2, 768)}, "for Stable Diffusion 1 that has emb_params with 768 numbers a vector"),
        ({"emb_params": (1, 1024)}, "for Stable Diffusion 2"),
        ({"<mood>": (768,)}, "for Stable Diffusion 1 that has <mood>"),
        ({"clip_l": (1, 32)}, "that has clip_l with 32 numbers"),
        ({"clip_l": (1, 32), "clip_g": (1, 1280)}, "clip_g is (1, 1280), and the encoder's vectors have 32 numbers"),
        ({"clip_l": (2, 32), "clip_g": (3, 32)}, "2 vectors in clip_l and 3 in clip_g"),
        ({"clip_l": (76, 32), "clip_g": (76, 32)}, "1 to 75"),
        ({"clip_l": (0, 32), "clip_g": (0, 32)}, "1 to 75"),
        ({"clip_l": (1, 1, 32), "clip_g": (1, 32)}, "does not fit this model"),
    ],
)
def test_a_file_of_another_model_is_refused_by_name(
    device: SdxlDevice, tmp_path: Path, tensors: dict[str, tuple[int, ...]], says: str
) -> None:
    save_file({key: torch.ones(shape) for key, shape in tensors.items()}, tmp_path / "mood.safetensors")
    refused = examined(device, tmp_path).refused["mood"]
    assert says in refused
    assert "mood.safetensors is a textual inversion" in refused
    assert refused.endswith(".")


def examined(device: SdxlDevice, folder: Path) -> AdapterStore:
    components = device._loaded().components
    names = ("unet", "text_encoder", "text_encoder_2")
    networks = dict(zip(names, (components.unet, *components.text_encoders), strict=True))
    return AdapterStore(folder, networks, dict.fromkeys(names, torch.device("cpu")))


def test_other_files_that_cannot_be_used(device: SdxlDevice, tmp_path: Path, width: int) -> None:
    for name in ("two words", "fine"):
        write(tmp_path / f"{name}.safetensors", 1, 1, width)
    save_file(
        {"clip_l": torch.full((1, width), torch.nan), "clip_g": torch.ones(1, width)}, tmp_path / "nan.safetensors"
    )
    (tmp_path / "old.pt").write_bytes(b"PK")
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "fine.safetensors").read_bytes()[:-9])
    save_file({"clip_l": torch.ones(width), "clip_g": torch.ones(width)}, tmp_path / "flat.safetensors")
    store = examined(device, tmp_path)
    assert set(store.embeddings) == {"fine", "flat"}
    assert store.digests == {}
    for name, says in {"two words": "no prompt can have", "nan": "not finite", "old": "pickle", "torn": "torn"}.items():
        assert says in store.refused[name]


def test_a_name_that_nobody_has_is_refused(device: SdxlDevice) -> None:
    info = replace(device.info, adapters_refused={"tar": "The adapter file tar.safetensors is torn: copy it again."})

    def refusal(prompt: str, syntax: str = "weighted", **fields: Any) -> str:
        request = GenerationRequest(request_id="r", prompt=prompt, prompt_syntax=syntax, **fields)  # type: ignore[arg-type]
        with pytest.raises(RequestRejected) as caught:
            resolve(request, info, LimitSettings())
        assert caught.value.code == "unknown_adapter"
        return caught.value.message

    assert refusal("a embedding:oil lake") == ("embedding 'oil' is not known: this worker has bad-hands_5, hero, mood")
    assert "'oil'" in refusal("a lake", negative_prompt="(embedding:oil:1.2)")
    assert refusal("embedding:ink") == "embedding 'ink' is a LoRA: name it in adapter"
    assert "is torn" in refusal("embedding:tar")
    assert "write embedding:mood into a prompt" in refusal("a lake", "plain", adapter={"name": "mood"})
    limits = LimitSettings()
    plain = GenerationRequest(request_id="r", prompt="a embedding:oil lake")
    assert resolve(plain, info, limits).prompt == plain.prompt, "a plain prompt is text"
    for request, says in (
        (asked("embedding:oil"), "no adapter 'oil'"),
        (asked("embedding:ink"), "is a LoRA"),
        (replace(PLAIN, adapters=(AdapterUse("mood", 1.0),)), "is a textual inversion"),
    ):
        with pytest.raises(RenderFault, match=says):
            prepare(device, request)


def test_embeddings_come_change_and_go_while_a_device_runs(tiny: TinyModel, tmp_path: Path, width: int) -> None:
    device = SdxlDevice(lambda: ModelFiles(tiny.path, adapters_path=tmp_path), device="cpu", cpu_threads=1)
    device.load()
    file, request = tmp_path / "mood.safetensors", asked("embedding:mood, a lake")
    painted, digests = [], []
    for seed in (1, 2):
        write(file, 2, seed, width)
        assert [device.refresh_adapters(), device.refresh_adapters()] == [False, True]
        painted.append(paint(device, request))
        digests.append(device.info.embeddings["mood"])
        assert device.info.adapters == {}
    assert distance(*painted) > VISIBLE
    assert len(set(digests)) == 2
    file.unlink()
    device.refresh_adapters()
    device.refresh_adapters()
    with pytest.raises(RenderFault, match="no adapter 'mood'"):
        prepare(device, request)
    device.close()
