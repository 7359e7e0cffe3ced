"""Runs the training from the first drawn picture to the model's folders, in stages that can be killed and continued.

Everything is in one folder: `pairs/` (the drawn shards), `vae.pt`, `decoder.pt` and `denoiser.pt` (checkpoints),
`vae-trained.pt` (the VAE that made the latents) and, after every checkpoint of the denoiser, the model itself in
`model/` and `controlnet/`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from darkroom.inference.quiet import no_progress_bars
from darkroom.inference.tiny.weights import pipeline_index
from darkroom.tools.tiny.training.autoencoding import (
    decoder_loss,
    decoder_stage,
    encode,
    finished_vae,
    reconstruction_db,
    vae_loss,
    vae_stage,
    with_decoder,
)
from darkroom.tools.tiny.training.blueprint import make_scheduler, make_tokenizers, make_vae
from darkroom.tools.tiny.training.checkpoint import TrainingStage
from darkroom.tools.tiny.training.denoising import denoiser_loss, denoiser_stage
from darkroom.tools.tiny.training.drawn import Pairs, Shards

Report = Callable[[str], None]

_SAVE_EVERY_S: Final = 150.0


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """The budget of a training run. The defaults take some three hours on two CPU cores."""

    shards: int = 80
    pairs_per_shard: int = 500
    vae_minutes: float = 20.0
    decoder_minutes: float = 15.0
    denoiser_minutes: float = 125.0
    threads: int = 2
    vae_steps_max: int | None = None
    """Limit of steps in one call, for a trial run; the same below."""
    denoiser_steps_max: int | None = None
    denoiser_batch: int = 24
    save_every_s: float = _SAVE_EVERY_S


def train(folder: Path, plan: TrainingPlan, report: Report) -> Path:
    """Train darkroom-tiny in `folder`, continue from its checkpoints, and return the folder with the model.

    Raises `OSError` if `folder` cannot be written.
    """
    torch.set_num_threads(plan.threads)
    shards = Shards(folder / "pairs", plan.shards, plan.pairs_per_shard)
    shards.folder.mkdir(parents=True, exist_ok=True)
    _draw(shards, report)
    vae = _trained_vae(folder, shards, plan, report)
    _encode(shards, vae, report)
    decoder = decoder_stage(folder / "decoder.pt", vae, plan.decoder_minutes * 60)
    decoder.train(
        decoder_loss(decoder, vae, shards, _fresh_lots(decoder)),
        report=lambda line: report(f"decoder: {line}"),
        save_every_s=plan.save_every_s,
        steps_max=plan.vae_steps_max,
    )
    vae = with_decoder(vae, decoder)
    report(f"decoder: {reconstruction_db(vae, shards.pictures(0)[:50]):.1f} dB")
    stage = denoiser_stage(folder / "denoiser.pt", plan.denoiser_minutes * 60)
    dice = _fresh_lots(stage)
    report(f"denoiser: {_parameters(stage.networks) / 1e6:.1f} M parameters, from step {stage.steps}")
    stage.train(
        denoiser_loss(stage, Pairs(shards), dice, plan.denoiser_batch),
        report=lambda line: report(f"denoiser: {line}"),
        save_every_s=plan.save_every_s,
        steps_max=plan.denoiser_steps_max,
        when_saved=lambda: export(folder, _parts(stage.average), vae),
    )
    report(f"The model is in {folder / 'model'} and {folder / 'controlnet'}.")
    return folder


def export(folder: Path, networks: Mapping[str, Any], vae: Any) -> None:
    """Write `folder/model` and `folder/controlnet` in fp16, replacing earlier ones. The networks stay unchanged.

    Raises `OSError` if the folder cannot be written.
    """
    tokenizer, tokenizer_2 = make_tokenizers()
    parts: dict[str, Any] = {**networks, "vae": vae}
    parts = {name: deepcopy(part).half() for name, part in parts.items()}
    controlnet = parts.pop("controlnet")
    parts |= {"tokenizer": tokenizer, "tokenizer_2": tokenizer_2, "scheduler": make_scheduler()}
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as workplace:
        half = Path(workplace)
        with no_progress_bars():
            for name, part in parts.items():
                part.save_pretrained(half / "model" / name)
            controlnet.save_pretrained(half / "controlnet")
        (half / "model" / "model_index.json").write_text(json.dumps(pipeline_index(parts), indent=2) + "\n")
        for name in ("model", "controlnet"):
            shutil.rmtree(folder / name, ignore_errors=True)
            os.replace(half / name, folder / name)


def _draw(shards: Shards, report: Report) -> None:
    missing = shards.missing()
    for done, number in enumerate(missing):
        shards.draw(number)
        report(f"drawing: {done + 1} of {len(missing)} shards")


def _trained_vae(folder: Path, shards: Shards, plan: TrainingPlan, report: Report) -> Any:
    """Return the finished VAE. Its latents are on disk, so once finished it is not trained further."""
    finished = folder / "vae-trained.pt"
    vae = make_vae().eval()
    if not finished.is_file():
        stage = vae_stage(folder / "vae.pt", plan.vae_minutes * 60)
        report(f"VAE: {_parameters(stage.networks) / 1e6:.1f} M parameters, from step {stage.steps}")
        stage.train(
            vae_loss(stage, shards, _fresh_lots(stage)),
            report=lambda line: report(f"VAE: {line}"),
            save_every_s=plan.save_every_s,
            steps_max=plan.vae_steps_max,
        )
        shards.forget_latents()
        half = finished.with_suffix(".part")
        torch.save(finished_vae(stage).state_dict(), half)
        os.replace(half, finished)
    vae.load_state_dict(torch.load(finished, weights_only=True))
    report(f"VAE: {reconstruction_db(vae, shards.pictures(0)[:50]):.1f} dB")
    return vae.requires_grad_(False)


def _encode(shards: Shards, vae: Any, report: Report) -> None:
    missing = shards.not_encoded()
    for done, number in enumerate(missing):
        shards.encode(number, lambda levels: encode(vae, levels))
        report(f"encoding: {done + 1} of {len(missing)} shards")


def _fresh_lots(stage: TrainingStage) -> np.random.Generator:
    """Return random numbers that do not repeat those before the last checkpoint. Seeds torch's global state, too."""
    torch.manual_seed(stage.steps)
    return np.random.default_rng(stage.steps)


def _parameters(networks: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in networks.parameters())


def _parts(networks: Any) -> dict[str, Any]:
    return dict(networks.items())
