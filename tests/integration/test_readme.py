"""Proves that the commands of README and docs work as written: their marked blocks are run, as a user would."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel

from darkroom.consumer.stack import Stack
from darkroom.inference.tiny import ensure_tiny_model
from tests.inference import checkpoints, loras

ROOT = Path(__file__).resolve().parents[2]

SECONDS_MAX = 540
"""For one block on a busy machine. It takes a minute on an idle one."""

pytestmark = [pytest.mark.stack, pytest.mark.render, pytest.mark.timeout(SECONDS_MAX + 60)]


def block(page: str, mark: str) -> str:
    """Return the commands of the one block of a page that has this mark before it."""
    [found] = re.findall(rf"<!-- {mark} -->\n```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    return found


def run(script: str, folder: Path) -> str:
    """What the commands print, in a shell that ends at the first one that fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    whole = "set -e\ntrap 'darkroom down > /dev/null' EXIT\n" + script
    with subprocess.Popen(
        ["bash", "-c", whole],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            printed, said = shell.communicate(timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGKILL)
            raise
        finally:
            Stack(folder / ".darkroom").down()
    assert shell.returncode == 0, f"{printed}\n{said}"
    return printed


def test_the_walk_through_runs_as_written(tmp_path: Path) -> None:
    printed = run(block("README.md", "run"), tmp_path)
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    completions = [line for line in lines if "request_id" in line]
    assert [one["status"] for one in completions] == ["succeeded"] * 4
    assert sorted(len(one["images"]) for one in completions) == [1, 1, 1, 2]
    [report] = [line for line in lines if "records" in line]
    assert report["records"] == report["succeeded"] == 4
    assert report["missing"] == report["duplicated"] == report["objects_missing"] == report["objects_corrupt"] == []
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 5
    assert "ok   kafka" in printed


def test_a_checkpoint_with_controlnet_vae_and_lora_is_run_as_written(tmp_path: Path) -> None:
    """On the tiny model, written in the layouts that the page names; its native size in place of SDXL's."""
    models = tmp_path / "models"
    write_models(models)
    (tmp_path / "dancer.json").write_text(json.dumps({"people": [[[0.1 + 0.04 * n, 0.05 * n] for n in range(18)]]}))
    commands = block("docs/tutorial/your-sdxl.md", "run: sdxl")
    commands = commands.replace("/models/", f"{models}/").replace("1024x1024", "64x64")
    printed = run(f"darkroom up\n{commands}", tmp_path)
    [completion] = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert completion["status"] == "succeeded"
    assert completion["model"]["name"] == "sd_xl_base_1.0"
    assert "1 adapters" in printed
    assert list((tmp_path / "calibration").glob("*.png")), "no plot was written"


def write_models(folder: Path) -> None:
    tiny = ensure_tiny_model()
    for target, source in {
        "sdxl-config": tiny.path,
        "controlnet-openpose-sdxl": tiny.controlnet_path,
        "sdxl-vae-fp16-fix": tiny.path / "vae",
    }.items():
        shutil.copytree(source, folder / target)
    for weights in (folder / "sdxl-config").rglob("*.safetensors"):
        weights.unlink()
    checkpoints.write_checkpoint(tiny.path, folder / "sd_xl_base_1.0.safetensors")
    (folder / "loras").mkdir()
    unet = UNet2DConditionModel.from_pretrained(tiny.path / "unet")
    layers = loras.Layers({"unet": unet}, seed=1)
    names = {"unet": loras.transformer_layers(unet, loras.ATTENTION)}
    loras.peft_file(folder / "loras" / "ink.safetensors", layers, names)
