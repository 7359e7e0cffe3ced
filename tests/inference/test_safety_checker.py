"""Proves that the safety checker decides as diffusers' own does on the same weights, and refuses other weights."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor

from darkroom.inference.safety_checker import SafetyChecker
from darkroom.inference.types import RenderedImage

PICTURES = 24


def checker(seed: int = 0) -> StableDiffusionSafetyChecker:
    """Small random weights whose thresholds are near what pictures reach, so that each rule decides some of them."""
    torch.manual_seed(seed)
    vision = {
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 30,
        "patch_size": 6,
        "projection_dim": 16,
        "initializer_range": 0.4,
    }
    text = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 4}
    made = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, text_config=text, projection_dim=16))
    with torch.no_grad():
        for parameter in made.vision_model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
        made.visual_projection.weight.copy_(torch.randn_like(made.visual_projection.weight))
        made.concept_embeds.copy_(torch.randn_like(made.concept_embeds))
        made.special_care_embeds.copy_(torch.randn_like(made.special_care_embeds))
    return made.eval()


def processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30})


def pictures() -> list[RenderedImage]:
    """Of several sizes and formats."""
    random = np.random.default_rng(7)
    made = []
    for number in range(PICTURES):
        small = random.integers(0, 256, (4 + number % 3, 5, 3), np.uint8)
        picture = Image.fromarray(small).resize((64, 48 + 16 * (number % 2)), Image.Resampling.BICUBIC)
        buffer, name = io.BytesIO(), ("png", "jpeg", "webp")[number % 3]
        picture.save(buffer, name)
        made.append(RenderedImage(buffer.getvalue(), *picture.size, number, f"image/{name}", name))
    return made


def oracle(model: StableDiffusionSafetyChecker, picture: RenderedImage) -> bool:
    """Return diffusers' verdict, as its pipeline asks for it."""
    rgb = Image.open(io.BytesIO(picture.content)).convert("RGB")
    pixels = processor()(rgb, return_tensors="pt").pixel_values
    _, verdicts = model(clip_input=pixels, images=[np.asarray(rgb)])
    return bool(verdicts[0])


def scores(model: StableDiffusionSafetyChecker, embeddings: Any) -> torch.Tensor:
    """Return the cosines of all pictures."""
    found = []
    for picture in pictures():
        rgb = Image.open(io.BytesIO(picture.content)).convert("RGB")
        pixels = processor()(rgb, return_tensors="pt").pixel_values
        with torch.no_grad():
            embedding = model.visual_projection(model.vision_model(pixels)[1])
        normal = torch.nn.functional.normalize
        found.append(normal(embedding) @ normal(embeddings).T)
    return torch.cat(found)


@pytest.fixture(params=["no special care", "special care decides"])
def weights(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, StableDiffusionSafetyChecker]:
    model = checker()
    concepts, special = scores(model, model.concept_embeds), scores(model, model.special_care_embeds)
    with torch.no_grad():
        model.concept_embeds_weights.copy_(concepts.quantile(0.96, dim=0))
        model.special_care_embeds_weights.fill_(2.0)
        if request.param == "special care decides":
            # Just above what half of the pictures reach: only the stricter threshold finds them.
            model.concept_embeds_weights.copy_(concepts.max(dim=0).values + 0.004)
            model.special_care_embeds_weights.copy_(special.median(dim=0).values)
    model.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    return tmp_path, model


def test_it_flags_what_diffusers_flags(weights: tuple[Path, StableDiffusionSafetyChecker]) -> None:
    folder, model = weights
    ours = SafetyChecker(str(folder))
    theirs = [oracle(model, picture) for picture in pictures()]
    assert [bool(ours(picture)) for picture in pictures()] == theirs
    assert 0 < sum(theirs) < PICTURES, "both verdicts are seen"
    flagged = [seen for picture in pictures() if (seen := ours(picture))]
    assert all(seen.keys() == {"nsfw"} and 0 < seen["nsfw"] < 2 for seen in flagged)


def test_the_folder_of_a_pipeline_is_read_too(tmp_path: Path) -> None:
    checker().save_pretrained(tmp_path / "safety_checker")
    processor().save_pretrained(tmp_path / "feature_extractor")
    assert isinstance(SafetyChecker(str(tmp_path))(pictures()[0]), dict)


@pytest.mark.parametrize("flaw", ["nothing", "no weights", "a weight is missing", "another size", "torn"])
def test_weights_that_cannot_be_used_are_refused_in_a_sentence(tmp_path: Path, flaw: str) -> None:
    from safetensors.torch import load_file, save_file

    folder, said = tmp_path / "checker", "cannot be loaded"
    if flaw == "nothing":
        said = "config.json is missing"
    else:
        checker().save_pretrained(folder)
        file = folder / "model.safetensors"
        tensors = load_file(file)
        if flaw == "no weights":
            file.unlink()
        elif flaw == "torn":
            file.write_bytes(file.read_bytes()[:1000])
        elif flaw == "a weight is missing":
            del tensors["concept_embeds"]
            save_file(tensors, file, {"format": "pt"})
            said = "no weights for concept_embeds"
        else:
            tensors["concept_embeds"] = torch.ones(16, 16)
            save_file(tensors, file, {"format": "pt"})
            said = "another size|cannot be loaded"
    with pytest.raises(ValueError, match=said):
        SafetyChecker(str(folder))
