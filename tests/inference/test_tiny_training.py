"""Training darkroom-tiny: what is drawn and said, and that every stage trains, can be killed and goes on."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops

from darkroom.inference.pose.skeleton import draw_people
from darkroom.tools.tiny.training.bodies import RIGHT_ARM, random_people
from darkroom.tools.tiny.training.figures import (
    BEHIND,
    FIGURE,
    TROUSERS,
    Scene,
    labels,
    picture,
    random_scene,
    skeleton,
    tint,
)
from darkroom.tools.tiny.training.grammar import SETTINGS, STYLES, Look, caption, random_look, words

pytestmark = pytest.mark.render


def scenes(count: int, *, simple: bool = False) -> list[Scene]:
    dice = random.Random(7)
    return [random_scene(dice, simple=simple) for _ in range(count)]


def test_captions_name_what_is_in_the_picture() -> None:
    dice = random.Random(1)
    known = set(words())
    for _ in range(300):
        look = random_look(dice)
        people = dice.randint(1, 3)
        said = caption(look, people, dice)
        spoken = said.replace(",", " ,").split()
        assert set(spoken) <= known
        assert {look.figure, look.trousers, look.background} <= set(spoken)
        assert (look.second in spoken) or look.setting == "plain"
        assert spoken[0] in {1: ("a", "an"), 2: ("two",), 3: ("three",)}[people]
        assert look.figure not in {look.background, None if look.setting == "plain" else look.second}
        assert all(article != "a" or word[0] not in "aeiou" for article, word in itertools.pairwise(spoken))


def test_every_style_and_setting_is_drawn_differently() -> None:
    person = tuple(random_people(random.Random(3), 1, width=128, height=128, whole=True))
    drawn = [
        picture(Scene(Look("red", "blue", "green", style, setting, "yellow"), person, "", 128, 128, 5)).tobytes()
        for style in STYLES
        for setting in SETTINGS
    ]
    assert len(set(drawn)) == len(drawn)


def test_pixels_have_their_labels_colours() -> None:
    for scene in scenes(20, simple=True):
        if scene.look.style != "flat":
            continue
        pixels, whose = np.asarray(picture(scene)), labels(scene)
        for label, colour in zip((BEHIND, FIGURE, TROUSERS), tint(scene.look), strict=True):
            assert np.median(pixels[whose == label], axis=0).tolist() == list(colour)


def test_limbs_lie_under_the_skeleton() -> None:
    """The skeleton that trains the ControlNet is the one a request would get, and it lies on the figure."""
    for scene in scenes(20, simple=True):
        drawn = skeleton(scene)
        assert not ImageChops.difference(
            drawn, draw_people(scene.keypoints(), width=scene.width, height=scene.height)
        ).getbbox()
        lit = np.asarray(drawn).max(axis=2) > 60
        assert (labels(scene)[lit] != BEHIND).mean() > 0.97


def test_joints_go_missing_and_people_are_cut_off() -> None:
    everybody = [person for scene in scenes(200) for person in scene.people]
    assert any(person.points[RIGHT_ARM[2]] is None for person in everybody)
    cut = [person for person in everybody if sum(point is None for point in person.keypoints(128, 128)) > 6]
    assert cut
    assert {len(scene.people) for scene in scenes(60)} == {1, 2, 3}


def test_the_same_lots_draw_the_same_scene() -> None:
    one, other = scenes(3), scenes(3)
    assert one == other
    assert isinstance(picture(one[2]), Image.Image)
    assert picture(one[2]).tobytes() == picture(other[2]).tobytes()


def test_every_word_is_one_token_and_any_text_is_taken() -> None:
    from darkroom.tools.tiny.training.blueprint import make_tokenizers

    for tokenizer in make_tokenizers():
        assert all(len(tokenizer.tokenize(word)) == 1 for word in words())
        text = "Zwei Füchse, 雪 <|x|>"
        back = tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)
        assert back.replace(" ", "") == text.lower().replace(" ", "")


def test_every_stage_trains_and_goes_on_after_it_was_killed(tmp_path: Path) -> None:
    """Two calls of a few steps: the second draws nothing, keeps the VAE and continues the denoiser's count."""
    import torch

    from darkroom.inference.sdxl import SdxlDevice
    from darkroom.tools.tiny.training.run import TrainingPlan, train

    plan = TrainingPlan(
        shards=2, pairs_per_shard=4, vae_minutes=0.5, denoiser_minutes=5, threads=1, vae_steps_max=2,
        denoiser_steps_max=1, denoiser_batch=4,
    )  # fmt: skip
    said: list[str] = []
    train(tmp_path, plan, said.append)
    vae = (tmp_path / "vae-trained.pt").read_bytes()
    unet = (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert sum(line.startswith("drawing") for line in said) == 2
    said.clear()
    train(tmp_path, plan, said.append)
    assert not any(line.startswith("drawing") for line in said)
    assert any("from step 1" in line for line in said)
    assert (tmp_path / "vae-trained.pt").read_bytes() == vae
    assert (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() != unet
    state = torch.load(tmp_path / "denoiser.pt", weights_only=True)
    assert state["steps"] == 2
    assert torch.load(tmp_path / "decoder.pt", weights_only=True)["steps"] == 4
    device = SdxlDevice(tmp_path / "model", tmp_path / "controlnet", cpu_threads=1)
    device.load()
    assert (device.info.native_width, device.info.latent_factor) == (128, 8)
    device.close()
    assert sum(file.stat().st_size for file in tmp_path.glob("[mc]o*/**/*.safetensors")) < 25_000_000


def test_the_finished_vae_gives_white_latents() -> None:
    """The statistics that training kept are folded into the weights, in both directions."""
    import torch

    from darkroom.tools.tiny.training.autoencoding import encode, finished_vae, vae_stage, whitening
    from darkroom.tools.tiny.training.blueprint import LATENT_CHANNELS, SCALING_FACTOR
    from darkroom.tools.tiny.training.drawn import to_levels

    torch.manual_seed(0)
    stage = vae_stage(Path("no-such-checkpoint.pt"), 60.0)
    average: Any = stage.average
    levels = to_levels(np.stack([np.asarray(picture(scene)) for scene in scenes(6)]))
    with torch.no_grad():
        raw = average.quant_conv(average.encoder(levels))[:, :LATENT_CHANNELS]
        flat = raw.transpose(0, 1).flatten(1)
        stage.extra = {"mean": flat.mean(1), "covariance": torch.cov(flat)}
        vae = finished_vae(stage)
        latents = encode(vae, levels)
        matrix = whitening(stage.extra["covariance"])
        white = torch.einsum("ij,bjhw->bihw", matrix, raw - stage.extra["mean"][:, None, None])
        decoded = average.decoder(average.post_quant_conv(white))
        painted = vae.decode(latents / SCALING_FACTOR).sample
    covariance = torch.cov(latents.transpose(0, 1).flatten(1))
    assert (covariance - torch.eye(LATENT_CHANNELS)).abs().max() < 0.1
    assert (painted - decoded).abs().max() < 1e-2
