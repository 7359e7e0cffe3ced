"""Proves that models from the store are fetched once, whole, within a bound, and never taken from who uses them."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from darkroom.consumer.weights import ModelStore
from darkroom.consumer.weights.cache import ModelCache
from darkroom.inference.types import ModelError
from darkroom.schemas.settings import ModelSettings
from darkroom.schemas.settings.model_source import StorePrefix
from tests.consumer.model_server import BreakingServer, breaking

XL = StorePrefix("models", "xl.safetensors")
CONTENT = os.urandom(300_000)


def filler(size_bytes: int) -> Callable[[Path], None]:
    return lambda folder: (folder / "weights").write_bytes(b"x" * size_bytes) and None  # type: ignore[func-returns-value]


def no_fill(_folder: Path) -> None:
    raise AssertionError("what is there is not fetched again")


# --- The folder -----------------------------------------------------------------------------------------


def test_a_model_is_fetched_once(tmp_path: Path) -> None:
    first = ModelCache(tmp_path, 1000)
    folder = first.hold("a", 100, filler(100))
    assert (folder / "weights").stat().st_size == 100
    second = ModelCache(tmp_path, 1000)
    assert second.hold("a", 100, no_fill) == folder
    for cache in (first, second):
        cache.release()


def test_the_one_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, 250)
    for name in "ab":
        cache.hold(name, 100, filler(100))
    cache.release()
    os.utime(tmp_path / "a.lock", (1, 1))
    os.utime(tmp_path / "b.lock", (2, 2))
    cache.hold("a", 100, no_fill)
    cache.release()
    cache.hold("c", 100, filler(100))
    assert sorted(folder.name for folder in tmp_path.iterdir() if folder.is_dir()) == ["a", "c"]


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    using, other = ModelCache(tmp_path, 250), ModelCache(tmp_path, 250)
    using.hold("a", 100, filler(100))
    using.hold("b", 100, filler(100))
    with pytest.raises(ModelError, match="DARKROOM_MODEL__CACHE_BYTES_MAX"):
        other.hold("c", 100, filler(100))
    using.release()
    other.hold("c", 100, filler(100))
    with pytest.raises(ModelError, match="does not fit"):
        other.hold("d", 251, filler(251))


def test_what_an_earlier_try_left_is_there_for_the_next(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, 1000)

    def dies(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        cache.hold("a", 100, dies)
    seen: list[list[str]] = []
    cache.hold("a", 100, lambda folder: seen.append([file.name for file in folder.iterdir()]))
    assert seen == [["half"]]


def test_a_half_of_another_model_can_be_removed(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, 150)
    with pytest.raises(ZeroDivisionError):
        cache.hold("a", 100, lambda _folder: 1 / 0)  # type: ignore[arg-type, return-value]
    cache.hold("b", 100, filler(100))
    assert not (tmp_path / "a.partial").exists()


def test_a_full_disk_is_told_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9, 50))  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=r"There is no room .* 50 are free"):
        ModelCache(tmp_path, 1000).hold("a", 100, no_fill)


def test_workers_that_start_together_fetch_once(tmp_path: Path) -> None:
    """Threads stand for processes: a lock belongs to an opened file, and each cache opens its own."""
    together = threading.Barrier(4)
    fills: list[Path] = []

    def fill(partial: Path) -> None:
        fills.append(partial)
        filler(100)(partial)

    def hold(_number: int) -> int:
        together.wait(10)
        return (ModelCache(tmp_path, 1000).hold("a", 100, fill) / "weights").stat().st_size

    with ThreadPoolExecutor(4) as workers:
        assert list(workers.map(hold, range(4), timeout=60)) == [100] * 4
    assert len(fills) == 1


def test_who_waits_goes_on_when_the_fetching_one_dies(tmp_path: Path) -> None:
    fetching, died = threading.Event(), threading.Event()

    def dies(_partial: Path) -> None:
        fetching.set()
        assert died.wait(10)
        raise OSError("killed")

    def first() -> None:
        with pytest.raises(OSError, match="killed"):
            ModelCache(tmp_path, 1000).hold("a", 100, dies)

    with ThreadPoolExecutor(2) as workers:
        dying = workers.submit(first)
        assert fetching.wait(10)
        waiting = workers.submit(ModelCache(tmp_path, 1000).hold, "a", 100, filler(100))
        assert not waiting.done()
        died.set()
        dying.result(10)
        assert (waiting.result(10) / "weights").exists()


# --- A transfer -----------------------------------------------------------------------------------------


def store(server: BreakingServer, folder: Path) -> ModelStore:
    return ModelStore(server.settings(), ModelSettings(cache_path=folder))


def test_a_transfer_that_breaks_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with breaking(CONTENT, bytes_at_once=140_000) as server:
        file = store(server, tmp_path).fetch(XL)
        assert file.read_bytes() == CONTENT
        assert file.name == "xl.safetensors"
        assert server.offsets == [0, 140_000, 280_000]
        assert store(server, tmp_path).fetch(XL) == file
        assert len(server.offsets) == 3, "nothing was fetched again"


def test_a_process_that_died_is_gone_on_from(tmp_path: Path) -> None:
    with breaking(CONTENT, bytes_at_once=0) as server:
        with pytest.raises(ModelError, match=r"s3://models/xl\.safetensors could not be fetched"):
            store(server, tmp_path).fetch(XL)
        (part,) = tmp_path.glob("*.partial/xl.safetensors.part")
        part.write_bytes(CONTENT[:1000])
        server.bytes_at_once = len(CONTENT)
        assert store(server, tmp_path).fetch(XL).read_bytes() == CONTENT
        assert server.offsets[-1] == 1000


def test_a_server_that_takes_no_ranges_is_asked_for_the_whole(tmp_path: Path) -> None:
    with breaking(CONTENT, bytes_at_once=1000) as server:
        server.takes_ranges = False
        answer = server.answer

        def answering(request: Any) -> None:
            server.bytes_at_once = 1000 if not server.offsets else len(CONTENT)
            answer(request)

        server.answer = answering  # type: ignore[method-assign]
        assert store(server, tmp_path).fetch(XL).read_bytes() == CONTENT
        assert server.offsets == [0, 0]


@pytest.mark.parametrize("how", ["torn", "gone on from other bytes"])
def test_bytes_that_are_not_the_objects_are_not_used(tmp_path: Path, how: str) -> None:
    wrong = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with breaking(wrong, bytes_at_once=len(wrong), etag=BreakingServer(CONTENT, bytes_at_once=1).etag) as server:
        if how != "torn":
            server.bytes_at_once = 0
            with pytest.raises(ModelError):
                store(server, tmp_path).fetch(XL)
            (part,) = tmp_path.glob("*.partial/xl.safetensors.part")
            part.write_bytes(bytes(1000))
            server.content, server.bytes_at_once = CONTENT, len(CONTENT)
        with pytest.raises(ModelError, match="came torn: it has not the MD5") as caught:
            store(server, tmp_path).fetch(XL)
        assert "\n" not in str(caught.value)
        server.content = CONTENT
        assert store(server, tmp_path).fetch(XL).read_bytes() == CONTENT, "the next try begins anew"


@pytest.mark.parametrize("encryption", ["aws:kms", "aws:kms:dsse"])
def test_an_etag_of_what_kms_encrypts_is_not_taken_for_an_md5(tmp_path: Path, encryption: str) -> None:
    with breaking(CONTENT, bytes_at_once=len(CONTENT), etag="5d41402abc4b2a76b9719d911017c592") as server:
        server.headers = {"x-amz-server-side-encryption": encryption}
        assert store(server, tmp_path).fetch(XL).read_bytes() == CONTENT


def test_an_object_that_changes_under_the_transfer_is_told(tmp_path: Path) -> None:
    with breaking(CONTENT, bytes_at_once=1000) as server:
        promised = server.etag
        server.answer = _changing(server, promised)  # type: ignore[method-assign]
        with pytest.raises(ModelError, match="changed while it was fetched"):
            store(server, tmp_path).fetch(XL)


def _changing(server: BreakingServer, promised: str) -> Callable[[Any], None]:
    """The object becomes another one after the first piece of it."""
    answer = server.answer

    def answering(request: Any) -> None:
        server.etag = promised if len(server.offsets) < 1 else "0" * 32
        answer(request)

    return answering


def test_a_store_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with breaking(CONTENT, bytes_at_once=1) as server:
        gone = store(server, tmp_path)
    with pytest.raises(ModelError, match="could not be fetched") as caught:
        gone.fetch(XL)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    whole = breaking(CONTENT, bytes_at_once=len(CONTENT))
    with whole as server, pytest.raises(ModelError, match="DARKROOM_MODEL__CACHE_PATH"):
        store(server, tmp_path / "file" / "models").fetch(XL)
