"""Proves that the bench compares like with like: both contenders paint the same pictures of the same requests, and the
pipeline's requests are grouped by the rule that the report tells.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.bench.offline import BATCH, STEPS, WINDOW, by_steps, in_batches, in_windows, mixed_steps, requests

pytestmark = pytest.mark.render


def test_no_two_requests_have_anything_in_common_that_a_cache_could_keep() -> None:
    load = [*requests([2] * 5, 64), *requests([2] * 5, 64)]
    for name in ("prompt", "seed", "pose"):
        assert len({repr(getattr(request, name)) for request in load}) == 10, name


def test_mixed_steps_fill_whole_batches_once_sorted() -> None:
    load = requests(mixed_steps(2 * BATCH * len(STEPS), seed=1), 64, posed=False)
    batches = by_steps(load)
    assert [len(batch) for batch in batches] == [BATCH] * 2 * len(STEPS)
    assert all(len({request.steps for request in batch}) == 1 for batch in batches)


def test_windows_keep_the_order_of_arrival_between_them() -> None:
    load = requests(mixed_steps(BATCH * len(STEPS), seed=1), 64, posed=False)
    batches = in_windows(load)
    assert sorted(request.seed for batch in batches for request in batch) == [request.seed for request in load]
    for batch in batches:
        assert len({request.steps for request in batch}) == 1
        assert len({(request.seed - load[0].seed) // WINDOW for request in batch}) == 1
        assert len(batch) <= BATCH


def test_batches_are_as_they_come() -> None:
    load = requests([2] * 5, 64, posed=False)
    assert in_batches(load, 2) == [load[:2], load[2:4], load[4:]]


def test_both_contenders_paint_the_same_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from darkroom.inference.sdxl import SdxlDevice
    from darkroom.inference.tiny import ensure_tiny_model
    from tests.bench.contenders import OurEngine, Pipeline

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = ensure_tiny_model()
    load = requests([3, 4, 3], 64)
    ours = OurEngine(SdxlDevice(model.path, model.controlnet_path, device="cpu", cpu_threads=1), rows_max=2)
    try:
        mine = ours.paint(load, rows_max=2)
        assert set(ours.lanes_ms()) == {"prepare_ms", "denoise_ms", "finish_ms"}
        assert min(ours.lanes_ms().values()) > 0
    finally:
        ours.close()
    theirs = dict(zip([load[0].seed, load[2].seed, load[1].seed], Pipeline(model).paint(by_steps(load)), strict=True))
    for request, picture in zip(load, mine, strict=True):
        assert np.abs(_pixels(picture) - _pixels(theirs[request.seed])).max() <= 1


def _pixels(content: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture, dtype=np.int16)


def test_the_share_outside_of_the_networks_is_a_part_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    from darkroom.inference.sdxl import SdxlDevice
    from darkroom.inference.tiny import ensure_tiny_model
    from tests.bench.overhead import overhead

    model = ensure_tiny_model()
    found = overhead(lambda: SdxlDevice(model.path, model.controlnet_path, device="cpu", cpu_threads=1), 64, 3)
    assert 0 < found["share"] < 1
    assert 0 < found["networks_ms"] < found["step_ms"]
    assert any("step.py" in line["function"] for line in found["breakdown"])


def test_of_everything_mixed_the_pipeline_paints_what_we_paint(tmp_path: Path) -> None:
    import torch

    from darkroom.inference.sdxl import ModelFiles, SdxlDevice
    from darkroom.inference.tiny import ensure_tiny_model
    from tests.bench import language
    from tests.inference.painting import TOLERANCE, distance, paint

    torch.set_num_threads(1)
    model = ensure_tiny_model()
    language.write_adapters(tmp_path, model)
    load = [
        replace(one, steps=4, prompt=one.prompt.replace("(dancer:1.2)", "dancer"))
        for one in language.mixed_language(10, 64, seed=3)
    ]
    batches = language.grouped(load)
    assert sorted(one.seed for batch in batches for one in batch) == [one.seed for one in load]
    files = ModelFiles(model.path, model.controlnet_path, adapters_path=tmp_path)
    device = SdxlDevice(lambda: files, device="cpu", cpu_threads=1)
    device.load()
    theirs = language.Grouping(model, tmp_path).paint(batches)
    for request, picture in zip([one for batch in batches for one in batch], theirs, strict=True):
        assert distance(_pixels(picture), paint(device, request)) <= TOLERANCE, request
    device.close()
