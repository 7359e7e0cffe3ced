"""The adapters that a worker offers: the files of one folder or prefix, which may change while the worker runs.

Every file is read once when the model is loaded, and again when it was replaced. A file that is torn, of another kind
or for another model is refused with a sentence that appears in the log, in `darkroom doctor`, in a metric and in the
answers to requests for it; the worker serves all other adapters. The tensors are then discarded, and loaded again into
a cache bounded in bytes when a request is prepared.

`refresh` looks for changes on a thread of its own, because examining a file takes seconds; it replaces the whole
catalogue at once. The prepare lane reads the catalogue as it is when a job is prepared, so the digest that it names
belongs to the tensors that it applies. Rows that are prepared keep their tensors, whatever becomes of the files.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
import torch

from darkroom.inference.resolve import adapter_as_embedding, embedding_as_adapter
from darkroom.inference.sdxl.denoise.adapters import AppliedAdapter
from darkroom.inference.sdxl.loading.adapter_files import (
    PEFT_CONFIG,
    PEFT_FILE,
    PICKLES,
    SUFFIX,
    AdapterEntry,
    AdapterFolder,
    ListAdapters,
)
from darkroom.inference.sdxl.loading.embedding_file import Embedding, parse_embedding
from darkroom.inference.sdxl.loading.lora_file import Lora, LoraUnusable, parse_lora
from darkroom.inference.sdxl.loading.lora_names import LayerNames, Networks
from darkroom.inference.sdxl.prepare.cache import ByteCache
from darkroom.inference.sdxl.prepare.conditions import AppliedEmbedding
from darkroom.inference.types import AdapterUse, CacheCounts, FaultKind, RenderFault
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.names import ADAPTER_NAME_CHARACTERS_MAX, is_adapter_name

_log = structlog.get_logger(__name__)

ADAPTER_CACHE_BYTES_MAX: Final = 1024**3
"""Room for some six of SDXL's LoRAs of rank 32 in fp16, on the device."""
_FILE_SHRINKS_MAX: Final = 4
"""A file of fp64 tensors is four times as large as the same tensors in fp16 on the device."""
_BRINGING: Final = "Put it right, or take it out of the folder; a running worker sees it."


@dataclass(frozen=True, slots=True)
class _Known:
    """One adapter as it was examined."""

    file: Path
    version: Hashable
    """Of its entries in the listing."""
    digest: str | None
    """`sha256:` and 64 hexadecimal digits; None if the file is refused."""
    refusal: str | None = None
    inode: int | None = None
    is_embedding: bool = False


@dataclass(frozen=True, slots=True)
class _Content:
    """The bytes of an adapter file, and of PEFT's settings beside it if there are any."""

    weights: bytes
    config: bytes | None
    inode: int


class AdapterStore:
    """The usable and the refused files of LoRAs and textual inversions.

    Belongs to the prepare lane, except for `refresh`, `digests`, `embeddings` and `refused`: one other thread at a time
    may call `refresh`, and any thread may read the others.
    """

    def __init__(
        self,
        source: Path | ListAdapters | None,
        networks: Networks,
        devices: Mapping[str, torch.device],
        cache_bytes_max: int = ADAPTER_CACHE_BYTES_MAX,
    ) -> None:
        """Examine every file that `source` lists, which is a folder or what lists one; None has no adapters.

        `devices` are the devices on which the networks run; between turns their weights may be elsewhere. Raises
        `ModelError` for a folder that cannot be read.
        """
        self._list = AdapterFolder(source) if isinstance(source, Path) else source
        self._networks = networks
        self._devices = devices
        self._names = LayerNames({} if source is None else networks)
        self._cache: ByteCache[tuple[str, str], Lora | Embedding] = ByteCache(
            cache_bytes_max, lambda adapter: adapter.size_bytes
        )
        self._cache_bytes_max = cache_bytes_max
        self._catalogue: Mapping[str, _Known] = {}
        """Never changed, only replaced."""
        self._cached_for: Mapping[str, _Known] = self._catalogue
        """The catalogue of which the cache holds nothing else."""
        self._passed_over: frozenset[str] = frozenset()
        """Folders that the log has named."""
        self._is_started = False
        self.refresh()
        self._is_started = True
        if self._list is not None and not self._catalogue:
            _log.warning("no_adapters", remedy="Put files where DARKROOM_MODEL__ADAPTERS_PATH says, or correct it.")

    @property
    def digests(self) -> dict[str, str]:
        """`sha256:` and 64 hexadecimal digits over the file, by LoRA that can be used."""
        return self._digests(of_embeddings=False)

    @property
    def embeddings(self) -> dict[str, str]:
        """The same of textual inversions."""
        return self._digests(of_embeddings=True)

    @property
    def refused(self) -> dict[str, str]:
        """Files that cannot be used: a sentence with the remedy, by the name that requests would give."""
        return {name: known.refusal for name, known in self._catalogue.items() if known.refusal is not None}

    def refresh(self) -> bool:
        """Examine the files that appeared or changed, and forget those that disappeared.

        Return True if anything changed. Raises `ModelError` if they cannot be listed; everything is then as before.
        """
        if self._list is None:
            return False
        before = self._catalogue
        named = _named(self._list())
        self._warn_of_subfolders(folder for folder, files in named.items() if isinstance(folder, Path) and not files)
        after = {
            name: self._looked_at(name, entries, before.get(name))
            for name, entries in named.items()
            if isinstance(name, str)
        }
        if after == before:
            return False
        self._catalogue = after
        _tell_refused(before, after)
        if self._is_started:
            _tell_changes(before, after)
        return True

    def get(self, use: AdapterUse) -> AppliedAdapter:
        """Return the adapter that a request names, from the cache if possible.

        Raises `RenderFault` of the request, `unknown_adapter`, for a name that is not here and for a file that was
        refused, was taken away, or is being overwritten.
        """
        digest, lora = self._loaded(use.name)
        if not isinstance(lora, Lora):
            raise _unknown(embedding_as_adapter(use.name))
        return AppliedAdapter(
            use.name, digest, lora, use.weight, use.weight if use.text_weight is None else use.text_weight
        )

    def get_embedding(self, name: str) -> AppliedEmbedding:
        """Return the textual inversion that a prompt names, from the cache if possible. Raises as `get`."""
        digest, embedding = self._loaded(name)
        if not isinstance(embedding, Embedding):
            raise _unknown(adapter_as_embedding(name))
        return AppliedEmbedding(digest, embedding)

    def unload_gone(self) -> None:
        """Free the tensors of adapters that were replaced or disappeared. Rows in flight keep theirs."""
        catalogue = self._catalogue
        if self._cached_for is not catalogue:
            self._cached_for = catalogue
            current = {(name, known.digest) for name, known in catalogue.items()}
            self._cache.keep(lambda key: key in current)

    def counts(self) -> CacheCounts:
        """Return the counts of the cache of tensors."""
        return self._cache.counts()

    def _digests(self, *, of_embeddings: bool) -> dict[str, str]:
        return {
            name: known.digest
            for name, known in self._catalogue.items()
            if known.digest is not None and known.is_embedding is of_embeddings
        }

    def _loaded(self, name: str) -> tuple[str, Lora | Embedding]:
        self.unload_gone()
        known = self._current(name)
        if known is None or known.digest is None:
            why = f"This worker has no adapter {name!r}." if known is None else known.refusal or ""
            raise _unknown(why)
        return known.digest, self._cache.get_or_make((name, known.digest), lambda: self._load(name, known))

    def _current(self, name: str) -> _Known | None:
        """Return what is known of an adapter, looked at again if another file took its place since."""
        known = self._catalogue.get(name)
        if known is None or known.digest is None or (name, known.digest) in self._cache:
            return known
        try:
            inode = known.file.stat().st_ino
        except OSError:
            return known
        if inode == known.inode:
            return known
        # `refresh` has not seen it yet. It will examine the file again, because no listing has this version.
        known = self._examined(name, [known.file], version=None)
        self._catalogue = {**self._catalogue, name: known}
        return known

    def _looked_at(self, name: str, entries: Sequence[AdapterEntry], before: _Known | None) -> _Known:
        version = tuple((entry.path, entry.version) for entry in entries)
        if before is not None and before.version == version:
            return before
        if entries[0].trouble is not None:
            return _Known(entries[0].path, version, None, entries[0].trouble)
        return self._examined(name, [entry.path for entry in entries], version)

    def _examined(self, name: str, files: list[Path], version: Hashable) -> _Known:
        try:
            return self._examine(name, files, version)
        except LoraUnusable as error:
            return _Known(files[0], version, None, str(error))

    def _examine(self, name: str, files: list[Path], version: Hashable) -> _Known:
        """Read a file whole and return what is known of it. Raises `LoraUnusable`."""
        file = files[0]
        if len(files) > 1:
            raise LoraUnusable(
                f"Two adapter files are called {name!r} ({files[0].name!r}, {files[1].name!r}): keep one."
            )
        if not is_adapter_name(name):
            raise LoraUnusable(
                f"The adapter file {file.name!r} has a name that no request can have: use 1 to "
                f"{ADAPTER_NAME_CHARACTERS_MAX} characters before {SUFFIX}, none of them a control character, / or \\."
            )
        if file.suffix.lower() in PICKLES:
            raise LoraUnusable(
                f"The adapter file {file.name} is a pickle, and reading it can run code: convert it to safetensors."
            )
        try:
            if not file.is_file():
                raise LoraUnusable(
                    f"The adapter {file.name} does not exist or is not a file: put the {SUFFIX} file itself there."
                )
            if file.stat().st_size > _FILE_SHRINKS_MAX * self._cache_bytes_max:
                raise LoraUnusable(self._too_large(file, file.stat().st_size))
            content = _read(file)
        except OSError as error:
            raise LoraUnusable(
                f"The adapter file {file.name} cannot be read ({error.strerror}): check its permissions."
            ) from error
        adapter = self._parse(file, name, content)
        if adapter.size_bytes > self._cache_bytes_max:
            raise LoraUnusable(self._too_large(file, adapter.size_bytes))
        if isinstance(adapter, Lora) and adapter.remark is not None:
            _log.warning("adapter_remark", adapter=name, remark=adapter.remark)
        digest = _digest(content, adapter)
        return _Known(file, version, digest, inode=content.inode, is_embedding=isinstance(adapter, Embedding))

    def _parse(self, file: Path, name: str, content: _Content) -> Lora | Embedding:
        """Return the content of a file on the host. Raises `LoraUnusable`."""
        embedding = parse_embedding(file, name, content.weights, self._networks)
        if embedding is not None:
            return embedding
        return parse_lora(file, content.weights, self._names, self._networks, content.config)

    def _too_large(self, file: Path, size_bytes: int) -> str:
        return (
            f"The adapter file {file.name} takes {size_bytes} bytes, and {self._cache_bytes_max} are kept "
            "on the device for all adapters: raise DARKROOM_LIMITS__ADAPTER_CACHE_BYTES."
        )

    def _load(self, name: str, known: _Known) -> Lora | Embedding:
        file = known.file
        try:
            content = _read(file)
            adapter = self._parse(file, name, content)
        except FileNotFoundError as error:
            raise _unknown(f"The adapter {name!r} was taken away: its file {file.name} is gone.") from error
        except OSError as error:
            raise _unknown(
                f"The adapter file {file.name} can no longer be read ({error.strerror}): check its permissions."
            ) from error
        except LoraUnusable as error:
            raise _unknown(str(error)) from error
        if _digest(content, adapter) != known.digest:
            raise _unknown(
                f"The adapter file {file.name} is being overwritten: send the request again in a minute. A file that "
                "is moved into its place, rather than copied over it, is used at once."
            )
        return _placed(adapter, self._devices) if isinstance(adapter, Lora) else adapter

    def _warn_of_subfolders(self, folders: Iterable[Path]) -> None:
        found = frozenset(str(folder) for folder in folders)
        for folder in sorted(found - self._passed_over):
            _log.warning("adapters_in_a_subfolder", folder=folder, remedy="Move its files up: it is not read.")
        self._passed_over = found


def _tell_refused(before: Mapping[str, _Known], after: Mapping[str, _Known]) -> None:
    """Log each refusal that is new."""
    for name, known in sorted(after.items()):
        if known.refusal is not None and (name not in before or before[name].refusal != known.refusal):
            folder = str(known.file.parent)
            _log.error("adapter_refused", adapter=name, folder=folder, why=known.refusal, remedy=_BRINGING)


def _tell_changes(before: Mapping[str, _Known], after: Mapping[str, _Known]) -> None:
    """Log the adapters that can be used since now, are another file since now, or disappeared."""
    for name in sorted(before.keys() - after.keys()):
        _log.info("adapter_gone", adapter=name)
    for name, known in sorted(after.items()):
        replaced = before[name].digest if name in before else None
        if known.digest is not None and known.digest != replaced:
            _log.info("adapter_found", adapter=name, digest=known.digest, replaces=replaced)


def _unknown(why: str) -> RenderFault:
    return RenderFault(FaultKind.REQUEST, ErrorCode.UNKNOWN_ADAPTER, why)


def _named(entries: Sequence[AdapterEntry]) -> dict[str | Path, list[AdapterEntry]]:
    """Return the entries that may be adapters, by adapter name: the file's name without ending, in Unicode's composed
    form. A folder of files that are not read is named by its path, with no entries."""
    named: dict[str | Path, list[AdapterEntry]] = {}
    for entry in entries:
        path, suffix = entry.path, entry.path.suffix.lower()
        if suffix == SUFFIX or suffix in PICKLES:
            # macOS stores a letter and its accent separately; a request has them composed.
            named.setdefault(unicodedata.normalize("NFC", path.stem), []).append(entry)
        elif (path / PEFT_FILE).is_file() or (entry.trouble is not None):
            file = entry._replace(path=path / PEFT_FILE)
            named.setdefault(unicodedata.normalize("NFC", path.name), []).append(file)
        elif any(path.glob(f"*{SUFFIX}")):
            named[path] = []
    # A pickle beside its safetensors conversion does not count as a second adapter.
    return {
        name: [file for file in files if file.path.suffix.lower() == SUFFIX] or files[:1]
        for name, files in named.items()
    }


def _placed(lora: Lora, devices: Mapping[str, torch.device]) -> Lora:
    """Return the LoRA with each tensor on the device of its network."""

    return Lora(
        {
            network: {name: layer.to(devices[network]) for name, layer in layers.items()}
            for network, layers in lora.layers.items()
        }
    )


def _read(file: Path) -> _Content:
    with file.open("rb") as opened:
        inode = os.fstat(opened.fileno()).st_ino
        weights = opened.read()
    config = file.with_name(PEFT_CONFIG)
    return _Content(weights, config.read_bytes() if config.is_file() else None, inode)


def _digest(content: _Content, adapter: Lora | Embedding) -> str:
    """Return the digest of an adapter: of its file, and of the settings beside it that decided its strength."""
    digest = hashlib.sha256(content.weights)
    if isinstance(adapter, Lora) and adapter.reads_config and content.config is not None:
        digest.update(content.config)
    return f"sha256:{digest.hexdigest()}"
