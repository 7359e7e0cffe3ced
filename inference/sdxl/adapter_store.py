"""The adapters that a worker offers: the LoRA files of one folder, known by name and digest from the start.

Every file is read once when the model is loaded, so that a torn or misfitting one ends the start with a sentence and
not a request hours later. Its tensors are then forgotten; a request's prepare brings them back, into a cache bounded in
bytes. A file that was changed since the start is not applied: completions and digests would name what it was.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from inference.contract import AdapterUse, CacheCounts, FaultKind, ModelError, RenderFault
from inference.sdxl.adapters import AppliedAdapter
from inference.sdxl.cache import ByteCache
from inference.sdxl.lora_file import Lora, LoraLayer, LoraUnusable, Networks, parse_lora
from schemas.names import IDENTITY_PATTERN

ADAPTER_CACHE_BYTES_MAX: Final = 1024**3
"""Some six of SDXL's LoRAs of rank 32 in fp16, on the device."""


class AdapterStore:
    """Belongs to the prepare lane; `digests` never changes."""

    def __init__(
        self,
        folder: Path | None,
        networks: Networks,
        devices: Mapping[str, torch.device],
        cache_bytes_max: int = ADAPTER_CACHE_BYTES_MAX,
    ) -> None:
        """Look at every `NAME.safetensors` in `folder`. Without a folder there are no adapters.

        `devices` are where the networks run, which may have their weights elsewhere between their turns. Raises
        `ModelError` for a file that cannot be used.
        """
        self._networks = networks
        self._devices = devices
        self._files = {} if folder is None else _files(folder)
        self._cache: ByteCache[str, Lora] = ByteCache(cache_bytes_max, lambda lora: lora.size_bytes)
        self._cache_bytes_max = cache_bytes_max
        self.digests: Mapping[str, str] = {name: self._examine(file) for name, file in self._files.items()}
        """`sha256:` and 64 hexadecimal digits over the file, by adapter."""

    def get(self, use: AdapterUse) -> AppliedAdapter:
        """The adapter that a request names, from the cache where it can be.

        Raises `RenderFault` of the request: `unknown_adapter` for a name that is not here, `model_mismatch` where
        the file is no longer what it was when the worker started.
        """
        digest = self.digests.get(use.name)
        if digest is None:
            raise RenderFault(FaultKind.REQUEST, "unknown_adapter", f"This worker has no adapter {use.name!r}.")
        lora = self._cache.get_or_make(use.name, lambda: self._load(use.name, digest))
        return AppliedAdapter(use.name, digest, lora, use.weight)

    def counts(self) -> CacheCounts:
        """Of the adapters' tensors."""
        return self._cache.counts()

    def _examine(self, file: Path) -> str:
        try:
            content = file.read_bytes()
            size = parse_lora(file, content, self._networks).size_bytes
        except OSError as error:
            raise ModelError(f"The adapter file {file} cannot be read ({error.strerror}): check its rights.") from error
        except LoraUnusable as error:
            raise ModelError(f"{error} Or take it out of the folder.") from error
        if size > self._cache_bytes_max:
            raise ModelError(
                f"The adapter file {file} takes {size} bytes on the device, and {self._cache_bytes_max} are kept for "
                "all adapters: raise DARKROOM_LIMITS__ADAPTER_CACHE_BYTES, or take it out of the folder."
            )
        return _digest(content)

    def _load(self, name: str, digest: str) -> Lora:
        file = self._files[name]
        try:
            content = file.read_bytes()
            lora = parse_lora(file, content, self._networks)
        except OSError as error:
            gone = f"The adapter file {file} can no longer be read ({error.strerror}): put it back."
            raise RenderFault(FaultKind.REQUEST, "model_mismatch", gone) from error
        except LoraUnusable as error:
            raise RenderFault(FaultKind.REQUEST, "model_mismatch", str(error)) from error
        if _digest(content) != digest:
            changed = f"The adapter file {file} was changed after the worker started: restart the worker."
            raise RenderFault(FaultKind.REQUEST, "model_mismatch", changed)
        return _placed(lora, self._devices)


def _files(folder: Path) -> dict[str, Path]:
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix == ".safetensors" and file.name[0] != ".")
    except OSError as error:
        raise ModelError(
            f"The adapters' folder {folder} cannot be read ({error.strerror}): correct DARKROOM_MODEL__ADAPTERS_PATH."
        ) from error
    for file in files:
        if re.fullmatch(IDENTITY_PATTERN, file.stem) is None:
            raise ModelError(
                f"The adapter file {file} has a name that no request can have: use 1-128 of A-Za-z0-9._- before "
                ".safetensors."
            )
    return {file.stem: file for file in files}


def _placed(lora: Lora, devices: Mapping[str, torch.device]) -> Lora:
    """With each tensor where its network runs."""

    def on(device: torch.device, layer: LoraLayer) -> LoraLayer:
        return LoraLayer(layer.down.to(device), layer.up.to(device), layer.scale)

    return Lora(
        {
            network: {name: on(devices[network], layer) for name, layer in layers.items()}
            for network, layers in lora.layers.items()
        }
    )


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
