"""Where the tiny model lies, and how several processes can ask for it at once.

The folder's name carries a digest of everything the weights depend on, so that a newer Darkroom never finds
an older one's model. It is built under a name of its own beside the target and then renamed: whoever finds the
target finds a whole model. torch is imported only when there is something to build.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from inference.contract import ModelError
from inference.tiny.spec import SPEC


@dataclass(frozen=True, slots=True)
class TinyModel:
    """The tiny model on disk, as two diffusers folders."""

    name: str
    path: Path
    """A `StableDiffusionXLPipeline` folder."""
    controlnet_path: Path
    """A `ControlNetModel` folder."""


def default_root() -> Path:
    """The per-user cache folder, by the XDG base directory rules."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "darkroom"


def ensure_tiny_model(root: Path | None = None) -> TinyModel:
    """Find the tiny model under `root`, or build it there (a few seconds, about 15 MB).

    `root` is the per-user cache folder when not given. Safe against other processes and threads that do the same: one
    of the builders wins, the others use its folder. Raises `ModelError` where the folder cannot be written.
    """
    parent = default_root() if root is None else root
    target = parent / f"tiny-{spec_digest()}"
    if not target.is_dir():
        try:
            _build(parent, target)
        except OSError as error:
            raise ModelError(
                f"The tiny model could not be written to {target} ({error}): "
                "free some space there, or name another cache folder in XDG_CACHE_HOME."
            ) from error
    return TinyModel(name="tiny", path=target / "model", controlnet_path=target / "controlnet")


def spec_digest() -> str:
    """12 hexadecimal digits over the architecture, the seed and the libraries that draw and write the weights."""
    libraries = {name: version(name) for name in ("torch", "diffusers", "transformers")}
    text = json.dumps({"spec": SPEC, "libraries": libraries}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _build(parent: Path, target: Path) -> None:
    from inference.tiny.weights import write_model

    parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=".tiny-", dir=parent))
    try:
        write_model(workplace)
        # mkdtemp makes a folder only its owner can enter; a cache given by the caller may be shared.
        workplace.chmod(0o755)
        try:
            workplace.rename(target)
        except OSError:
            # A folder cannot be renamed onto one that is not empty: somebody else was faster, and theirs is as good.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
