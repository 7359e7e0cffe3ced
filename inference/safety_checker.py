"""Looks for unwanted content by the weights of a StableDiffusionSafetyChecker, in the folder that diffusers saves.

A CLIP vision model embeds the picture, and the cosines between that and the embeddings of 17 unwanted concepts, which
the checkpoint has, are held against a threshold each. Three concepts "of special care" make all later thresholds 0.01
stricter once one of them is found (diffusers 0.42, pipelines/stable_diffusion/safety_checker.py; their order matters: a
later one of the three is judged by the stricter threshold already). The concepts have no names in the checkpoint, so
there is one category.
"""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any, Final

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPImageProcessor

from darkroom.inference.types import RenderedImage

CATEGORY: Final = "nsfw"
SPECIAL_CARE: Final = 0.01
"""By how much one concept of special care makes every later threshold stricter."""
ROUNDED_DIGITS: Final = 3
"""Digits to which a score is rounded before it is compared with 0: it decides, so it is a part of the rule."""
_FORMATS: Final = ("PNG", "JPEG", "WEBP")


class SafetyChecker:
    """The checker of one folder, on the processor: a GPU's memory is planned for painting. One picture at a time."""

    def __init__(self, folder: str) -> None:
        """Load the weights. Raises `ValueError`, worded to follow the name of a policy's file, where there are none."""
        path = Path(folder)
        own = path / "safety_checker" if (path / "safety_checker").is_dir() else path
        if not (own / "config.json").is_file():
            raise ValueError(
                f"its safety_checker {folder} is no folder with a checker that diffusers saved: config.json is missing"
            )
        try:
            loaded: Any = StableDiffusionSafetyChecker.from_pretrained(
                own, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            model, report = loaded
        except Exception as error:  # transformers names no exceptions of its own
            raise ValueError(
                f"its safety_checker {folder} cannot be loaded ({type(error).__name__}: {error}); weights have to be "
                "in model.safetensors"
            ) from error
        if missing := sorted(report["missing_keys"]):
            raise ValueError(f"its safety_checker {folder} has no weights for {missing[0]}")
        if mismatched := sorted(str(one[0]) for one in report["mismatched_keys"]):
            raise ValueError(f"its safety_checker {folder} has weights of another size for {mismatched[0]}")
        self._model = model.float().eval()
        self._processor = _processor_of(path, own)
        self._one_at_a_time = threading.Lock()

    def __call__(self, picture: RenderedImage) -> dict[str, float]:
        """Return `nsfw` with the score of the concept that is furthest above its threshold; nothing if none is."""
        with Image.open(io.BytesIO(picture.content), formats=_FORMATS) as opened:
            rgb = opened.convert("RGB")
        with self._one_at_a_time, torch.inference_mode():
            pixels = self._processor(images=[rgb], return_tensors="pt").pixel_values
            scores = self._scores(pixels)
        worst = max(scores)
        return {CATEGORY: worst} if worst > 0 else {}

    def _scores(self, pixels: torch.Tensor) -> list[float]:
        """Return by how much each concept is above its threshold."""
        model = self._model
        embedding = model.visual_projection(model.vision_model(pixels)[1])
        special = _cosines(embedding, model.special_care_embeds)
        stricter = 0.0
        for cosine, threshold in zip(special, model.special_care_embeds_weights.tolist(), strict=True):
            if round(cosine - threshold + stricter, ROUNDED_DIGITS) > 0:
                stricter = SPECIAL_CARE
        concepts = _cosines(embedding, model.concept_embeds)
        thresholds = model.concept_embeds_weights.tolist()
        return [
            round(cosine - threshold + stricter, ROUNDED_DIGITS)
            for cosine, threshold in zip(concepts, thresholds, strict=True)
        ]


def _cosines(embedding: torch.Tensor, concepts: torch.Tensor) -> list[float]:
    normal = torch.nn.functional.normalize
    cosines: list[float] = (normal(embedding) @ normal(concepts).T)[0].float().tolist()
    return cosines


def _processor_of(path: Path, own: Path) -> Any:
    """Return the processor beside the checker or in a pipeline's folder; CLIP's usual one where there is none."""
    for folder in (own, path / "feature_extractor"):
        if (folder / "preprocessor_config.json").is_file():
            return CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
    return CLIPImageProcessor()
