"""Proves that a profile comes back as it was kept, and that a file that does not fit is one clear sentence."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from darkroom.inference.planning.profile_store import (
    FILE_BYTES_MAX,
    ProfileError,
    ProfileStore,
    decode_profile,
    encode_profile,
)
from darkroom.inference.planning.step_curve import StepCurve
from tests.inference.profiles import KEY, flat, gaining, profile, shape

KEPT = profile(
    replace(shape(gaining, posed=True), buckets=(2, 4)), replace(shape(flat, side=16), rest=StepCurve({1: 0.25}))
)


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path / "profiles")
    assert store.load(KEY) is None
    store.save(KEPT)
    assert store.load(KEY) == KEPT
    assert [path.name for path in store.folder.iterdir()] == [f"profile-{KEY.digest}.json"], "nothing is left beside it"


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, revision="sha256:1"),
        replace(KEY, dtype="float16"),
        replace(KEY, sampler_version="2"),
        replace(KEY, measured_on=(("hardware", "another"),)),
    ],
)
def test_another_key_finds_nothing(tmp_path: Path, other: Any) -> None:
    store = ProfileStore(tmp_path)
    store.save(KEPT)
    assert store.load(other) is None
    store.path(KEY).rename(store.path(other))
    assert store.load(other) is None, "not even under its name"


def changed(**values: Any) -> bytes:
    return json.dumps(json.loads(encode_profile(KEPT)) | values).encode()


def changed_shape(**values: Any) -> bytes:
    document = json.loads(encode_profile(KEPT))
    document["shapes"][0] |= values
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not JSON"),
        (encode_profile(KEPT)[:-40], "is not JSON"),
        (b"[]", "the document"),
        (changed(format=2), "format"),
        (changed(more=1), "more"),
        (changed(shapes=[]), "shapes"),
        (changed(shapes=json.loads(encode_profile(KEPT))["shapes"] * 2), "once"),
        (changed_shape(unet_ms_by_slots={"2": 1.0}), "no point for 1"),
        (changed_shape(unet_ms_by_slots={"1": -1.0}), "positive"),
        (changed_shape(unet_ms_by_slots={"01": 1.0}), "01"),
        (changed_shape(decode_ms="3"), "decode_ms"),
        (changed_shape(latent_width=0), "latent_width"),
        (changed_shape(ended="tired"), "ended"),
        (b" " * (FILE_BYTES_MAX + 1), "more than"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(ProfileError, match=said):
        decode_profile(content)
    store = ProfileStore(tmp_path)
    store.path(KEY).write_bytes(content)
    with pytest.raises(ProfileError, match="Remove it") as caught:
        store.load(KEY)
    assert str(store.path(KEY)) in str(caught.value)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProfileError, match="DARKROOM_MODEL__PROFILE_DIR"):
        ProfileStore(tmp_path / "file").save(KEPT)


def test_whoever_reads_while_others_write_sees_a_whole_profile(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path)
    others = [KEPT, replace(KEPT, shapes=KEPT.shapes[:1])]
    store.save(KEPT)
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            for one in others:
                store.save(one)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        assert all(store.load(KEY) in others for _ in range(100))
    finally:
        done.set()
        for writer in writers:
            writer.join()
