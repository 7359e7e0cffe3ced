"""Writes a trained model as diffusers folders in fp16 safetensors."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from darkroom.inference.sdxl.loading.quiet import no_progress_bars
from darkroom.inference.tiny.weights import pipeline_index
from darkroom.tools.tiny.training.blueprint import make_scheduler, make_tokenizers


def export(folder: Path, networks: Mapping[str, Any], vae: Any) -> None:
    """Write `folder/model` and `folder/controlnet`, in place of what was there. The networks stay as they are.

    Raises `OSError` where the folder cannot be written.
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
