"""The adapters that a worker offers: the files of one folder, known by name and digest from the start.

Every file is read once when the model is loaded. A file that is torn, of another kind or for another model is refused
with a sentence that appears in the log, in `darkroom doctor`, in a metric and in the answers to requests for it; the
worker serves all other adapters. The tensors are then discarded, and loaded again into a cache bounded in bytes when a
request is prepared. A file that was changed since the start is not applied, because completions and digests would name
its old content.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog
import torch

from darkroom.inference.sdxl.denoise.adapters import AppliedAdapter
from darkroom.inference.sdxl.loading.lora_file import Lora, LoraUnusable, parse_lora
from darkroom.inference.sdxl.loading.lora_names import LayerNames, Networks
from darkroom.inference.sdxl.prepare.cache import ByteCache
from darkroom.inference.types import AdapterUse, CacheCounts, FaultKind, ModelError, RenderFault
from darkroom.schemas.names import ADAPTER_NAME_CHARACTERS_MAX, is_adapter_name

_log = structlog.get_logger(__name__)

ADAPTER_CACHE_BYTES_MAX: Final = 1024**3
"""Room for some six of SDXL's LoRAs of rank 32 in fp16, on the device."""
_FILE_SHRINKS_MAX: Final = 4
"""A file of fp64 tensors is four times as large as the same tensors in fp16 on the device."""
_SUFFIX: Final = ".safetensors"
_PEFT_FILE: Final = "adapter_model.safetensors"
_PEFT_CONFIG: Final = "adapter_config.json"
"""PEFT saves an adapter as a folder of these two."""
_PICKLES: Final = frozenset({".pt", ".pth", ".bin", ".ckpt"})
_BRINGING: Final = "Put it right, or take it out of the folder; workers look at it at their start."


class AdapterStore:
    """The usable and the refused LoRA files. Belongs to the prepare lane; `digests` and `refused` never change."""

    def __init__(
        self,
        folder: Path | None,
        networks: Networks,
        devices: Mapping[str, torch.device],
        cache_bytes_max: int = ADAPTER_CACHE_BYTES_MAX,
    ) -> None:
        """Examine every `NAME.safetensors` in `folder`, and every folder `NAME` in it that PEFT saved.

        `devices` are the devices on which the networks run; between turns their weights may be elsewhere. Raises
        `ModelError` for a folder that cannot be read.
        """
        self._networks = networks
        self._devices = devices
        self._names = LayerNames({} if folder is None else networks)
        self._cache: ByteCache[str, Lora] = ByteCache(cache_bytes_max, lambda lora: lora.size_bytes)
        self._cache_bytes_max = cache_bytes_max
        self._files: dict[str, Path] = {}
        self._unusable: dict[str, str] = {}
        digests: dict[str, str] = {}
        for name, files in ({} if folder is None else _files(folder)).items():
            try:
                digests[name] = self._examine(name, files)
                self._files[name] = files[0]
            except LoraUnusable as error:
                self._unusable[name] = str(error)
                _log.error("adapter_refused", adapter=name, folder=str(folder), why=str(error), remedy=_BRINGING)
        self.digests: Mapping[str, str] = digests
        """`sha256:` and 64 hexadecimal digits over the file, by adapter."""
        self.refused: Mapping[str, str] = self._unusable
        """Files that cannot be used: a sentence with the remedy, by the name that requests would give."""

    def get(self, use: AdapterUse) -> AppliedAdapter:
        """Return the adapter that a request names, from the cache if possible.

        Raises `RenderFault` of the request: `unknown_adapter` for a name that is not here or whose file was refused,
        `model_mismatch` if the file was changed since the worker started.
        """
        digest = self.digests.get(use.name)
        if digest is None:
            why = self.refused.get(use.name, f"This worker has no adapter {use.name!r}.")
            raise RenderFault(FaultKind.REQUEST, "unknown_adapter", why)
        lora = self._cache.get_or_make(use.name, lambda: self._load(use.name, digest))
        return AppliedAdapter(
            use.name, digest, lora, use.weight, use.weight if use.text_weight is None else use.text_weight
        )

    def counts(self) -> CacheCounts:
        """Return the counts of the cache of tensors."""
        return self._cache.counts()

    def _examine(self, name: str, files: list[Path]) -> str:
        """Return the file's digest. Raises `LoraUnusable`."""
        file = files[0]
        if len(files) > 1:
            raise LoraUnusable(
                f"Two adapter files are called {name!r} ({files[0].name!r}, {files[1].name!r}): keep one."
            )
        if not is_adapter_name(name):
            raise LoraUnusable(
                f"The adapter file {file.name!r} has a name that no request can have: use 1 to "
                f"{ADAPTER_NAME_CHARACTERS_MAX} characters before {_SUFFIX}, none of them a control character, / or \\."
            )
        if file.suffix.lower() in _PICKLES:
            raise LoraUnusable(
                f"The adapter file {file.name} is a pickle, and reading it can run code: convert it to safetensors."
            )
        try:
            if not file.is_file():
                raise LoraUnusable(
                    f"The adapter {file.name} does not exist or is not a file: put the {_SUFFIX} file itself there."
                )
            if file.stat().st_size > _FILE_SHRINKS_MAX * self._cache_bytes_max:
                raise LoraUnusable(self._too_large(file, file.stat().st_size))
            content, config = _read(file)
        except OSError as error:
            raise LoraUnusable(
                f"The adapter file {file.name} cannot be read ({error.strerror}): check its permissions."
            ) from error
        lora = parse_lora(file, content, self._names, self._networks, config)
        if lora.size_bytes > self._cache_bytes_max:
            raise LoraUnusable(self._too_large(file, lora.size_bytes))
        if lora.remark is not None:
            _log.warning("adapter_remark", adapter=name, remark=lora.remark)
        return _digest(content, config if lora.reads_config else None)

    def _too_large(self, file: Path, size_bytes: int) -> str:
        return (
            f"The adapter file {file.name} takes {size_bytes} bytes, and {self._cache_bytes_max} are kept "
            "on the device for all adapters: raise DARKROOM_LIMITS__ADAPTER_CACHE_BYTES."
        )

    def _load(self, name: str, digest: str) -> Lora:
        file = self._files[name]
        try:
            content, config = _read(file)
            lora = parse_lora(file, content, self._names, self._networks, config)
        except OSError as error:
            gone = f"The adapter file {file.name} can no longer be read ({error.strerror}): put it back."
            raise RenderFault(FaultKind.REQUEST, "model_mismatch", gone) from error
        except LoraUnusable as error:
            raise RenderFault(FaultKind.REQUEST, "model_mismatch", str(error)) from error
        if _digest(content, config if lora.reads_config else None) != digest:
            changed = f"The adapter file {file.name} was changed after the worker started: restart the worker."
            raise RenderFault(FaultKind.REQUEST, "model_mismatch", changed)
        return _placed(lora, self._devices)


def _files(folder: Path) -> dict[str, list[Path]]:
    """Return the files that may be adapters, by adapter name: the file's name without ending, in Unicode's composed
    form."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise ModelError(
            f"The adapters' folder {folder} cannot be read ({error.strerror}): correct DARKROOM_MODEL__ADAPTERS_PATH."
        ) from error
    named: dict[str, list[Path]] = {}
    for entry in entries:
        suffix = entry.suffix.lower()
        if suffix == _SUFFIX or suffix in _PICKLES:
            # macOS stores a letter and its accent separately; a request has them composed.
            named.setdefault(unicodedata.normalize("NFC", entry.stem), []).append(entry)
        elif (entry / _PEFT_FILE).is_file():
            named.setdefault(unicodedata.normalize("NFC", entry.name), []).append(entry / _PEFT_FILE)
        elif any(entry.glob(f"*{_SUFFIX}")):
            _log.warning("adapters_in_a_subfolder", folder=str(entry), remedy="Move its files up: it is not read.")
    # A pickle beside its safetensors conversion does not count as a second adapter.
    return {
        name: [file for file in files if file.suffix.lower() == _SUFFIX] or files[:1] for name, files in named.items()
    }


def _placed(lora: Lora, devices: Mapping[str, torch.device]) -> Lora:
    """Return the LoRA with each tensor on the device of its network."""

    return Lora(
        {
            network: {name: layer.to(devices[network]) for name, layer in layers.items()}
            for network, layers in lora.layers.items()
        }
    )


def _read(file: Path) -> tuple[bytes, bytes | None]:
    """Return the content of an adapter file, and of PEFT's settings beside it where there are any."""
    config = file.with_name(_PEFT_CONFIG)
    return file.read_bytes(), config.read_bytes() if config.is_file() else None


def _digest(content: bytes, config: bytes | None) -> str:
    """Return the digest of an adapter: of its file, and of the settings beside it that decided its strength."""
    digest = hashlib.sha256(content)
    if config is not None:
        digest.update(config)
    return f"sha256:{digest.hexdigest()}"
