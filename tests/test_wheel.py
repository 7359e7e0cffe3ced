"""Proves that an installed Darkroom lives beside a user's own modules: everything it has is `darkroom.*`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of what git knows, so that the checkout gets no build folder."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and not name.startswith(("tests/", "docs/")) and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    program = f"from setuptools.build_meta import build_wheel; print(build_wheel({str(out)!r}))"
    subprocess.run([sys.executable, "-c", program], cwd=copy, check=True, capture_output=True)
    [built] = out.glob("*.whl")
    return built


def test_the_wheel_holds_one_package_and_its_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"darkroom"}
    for needed in (
        "darkroom/py.typed",
        "darkroom/schemas/published/asyncapi.json",
        "darkroom/producer/gateway/page/index.html",
        "darkroom/consumer/planner/gpus.toml",
        "darkroom/consumer/demo/demo_photo.jpg",
        "darkroom/inference/tiny/trained/model/model_index.json",
        "darkroom/inference/pose/blazepose/pose_detection.tflite",
        "darkroom/tools/tiny/training/command.py",
    ):
        assert needed in names, needed


def test_it_works_beside_modules_of_the_same_names(wheel: Path, tmp_path: Path) -> None:
    site, user = tmp_path / "site", tmp_path / "user"
    zipfile.ZipFile(wheel).extractall(site)
    (site / "inference").mkdir()
    (site / "inference" / "__init__.py").write_text("RUNS = 'a model server of that name'\n")
    user.mkdir()
    for name in ("schemas", "producer", "consumer", "tools"):
        (user / f"{name}.py").write_text("MINE = True\n")
    (user / "app.py").write_text(
        "import consumer, inference, producer, schemas, tools\n"
        "from darkroom import Client, GenerationRequest, load_settings, main\n"
        "import darkroom.producer.gateway.app, darkroom.consumer.core.core\n"
        "assert all(one.MINE for one in (consumer, producer, schemas, tools)) and inference.RUNS\n"
        "assert GenerationRequest.model_fields['prompt'] and Client and load_settings\n"
        "print(darkroom.consumer.core.core.__file__)\n"
        "main(['schemas', '--help'])\n"
    )
    # The editable install's finder must not answer for the wheel: without `site`, no .pth file is read.
    libraries = next(path for path in sys.path if path.endswith("site-packages"))
    paths = os.pathsep.join([str(site), libraries])
    done = subprocess.run(
        [sys.executable, "-S", "app.py"],
        cwd=user,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(site / "darkroom/consumer/core/core.py")
    assert "JSON Schema" in done.stdout
