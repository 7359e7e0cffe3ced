"""Proves what a step promises: it is atomic, it mixes rows without mixing them up, and it spends no more than it must.

Networks are wrapped, never patched: `Stepper` is given the networks to run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from darkroom.inference.pose.picture import PictureLimits
from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.sdxl.denoise.rows import SdxlRow
from darkroom.inference.sdxl.denoise.step import Stepper
from darkroom.inference.sdxl.finish.pictures import decode_latents
from darkroom.inference.sdxl.loading.components import load_components
from darkroom.inference.sdxl.loading.sources import ModelFiles
from darkroom.inference.sdxl.model import LoadedModel
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import FaultKind, RenderFault, RenderJob, RenderRequest
from tests.inference.devices import difference, finished
from tests.inference.painting import (
    PLAIN,
    POSED,
    TOLERANCE,
    distance,
    paint,
    paint_together,
    prepare,
)

pytestmark = pytest.mark.render


class Watched:
    """A network that counts the slots of each forward and fails when it is told to."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self.slots: list[int] = []
        self.failure: Exception | None = None
        self.after = False
        self.cuts_output = False

    def __call__(self, sample: torch.Tensor, *parts: Any, **named: Any) -> Any:
        if self.failure is not None and not self.after:
            raise self.failure
        self.slots.append(len(sample))
        output = self._network(sample, *parts, **named)
        if self.failure is not None:
            raise self.failure
        return (output[0][..., :3],) if self.cuts_output else output


@pytest.fixture(scope="module")
def model(tiny: TinyModel) -> LoadedModel:
    components = load_components(
        ModelFiles(tiny.path, tiny.controlnet_path), name="tiny", device=torch.device("cpu"), dtype=torch.float32
    )
    return LoadedModel(components, 2**20, 2**20, PictureLimits())


class Bench:
    """Rows of the loaded model and the watched networks to step them with."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self.unet = Watched(model.networks.unet)
        self.controlnet = Watched(model.networks.controlnets[0])
        self._stepper = Stepper(replace(model.networks, unet=self.unet, controlnets=(self.controlnet,)))

    @torch.inference_mode()
    def prepare(self, *requests: RenderRequest) -> list[SdxlRow]:
        jobs = [RenderJob(job_id=f"job-{number}", request=request) for number, request in enumerate(requests)]
        return [row for job in jobs for row in self._model.prepare(job).rows]

    def step(self, rows: Sequence[SdxlRow]) -> None:
        self._stepper.take(rows)

    @torch.inference_mode()
    def picture(self, row: SdxlRow) -> Any:
        return np.asarray(decode_latents(self._model.components.vae, row.latents)[0], dtype=np.int16)


@pytest.fixture
def bench(model: LoadedModel) -> Bench:
    return Bench(model)


def fail_unet_before(bench: Bench) -> Watched:
    return bench.unet


def fail_unet_after(bench: Bench) -> Watched:
    bench.unet.after = True
    return bench.unet


def fail_controlnet(bench: Bench) -> Watched:
    return bench.controlnet


@pytest.mark.parametrize("place", [fail_unet_before, fail_unet_after, fail_controlnet])
def test_a_failed_step_changes_no_row_and_no_picture(
    bench: Bench, shared_device: SdxlDevice, place: Callable[[Bench], Watched]
) -> None:
    requests = [replace(PLAIN, seed=1), replace(POSED, seed=2), replace(PLAIN, seed=3, sampler="euler")]
    rows = bench.prepare(*requests)
    for step in range(4):
        watched = place(bench)
        before = [(row.steps_done, row.latents.clone()) for row in rows]
        for _ in range(step % 3):
            watched.failure = RuntimeError("scripted")
            with pytest.raises(RuntimeError, match="scripted"):
                bench.step(rows)
            assert [row.steps_done for row in rows] == [done for done, _ in before]
            assert all(torch.equal(row.latents, latents) for row, (_, latents) in zip(rows, before, strict=True))
            watched.failure = None
        bench.step(rows)
        assert [row.steps_done for row in rows] == [done + 1 for done, _ in before]
    for row, request in zip(rows, requests, strict=True):
        assert distance(bench.picture(row), paint(shared_device, request)) <= TOLERANCE


def test_an_update_that_fails_after_its_noise_was_drawn_uses_the_same_noise_again(
    bench: Bench, shared_device: SdxlDevice
) -> None:
    """The last thing that can fail is the update: the prediction has come, the noise is drawn, and they do not fit."""
    requests = [replace(PLAIN, seed=1), replace(POSED, seed=2)]
    rows = bench.prepare(*requests)
    for _ in range(4):
        streams = [row.generator.get_state() for row in rows]
        bench.unet.cuts_output = True
        for _ in range(2):
            with pytest.raises(RuntimeError):
                bench.step(rows)
        assert not any(torch.equal(row.generator.get_state(), it) for row, it in zip(rows, streams, strict=True)), (
            "the noise was not drawn, so this test proves nothing"
        )
        bench.unet.cuts_output = False
        bench.step(rows)
    for row, request in zip(rows, requests, strict=True):
        assert distance(bench.picture(row), paint(shared_device, request)) <= TOLERANCE


def test_a_rows_picture_does_not_depend_on_its_neighbours(shared_device: SdxlDevice) -> None:
    alone = paint(shared_device, POSED)
    for neighbours in (
        [replace(POSED, seed=99)],
        [replace(PLAIN, seed=5, guidance_scale=1.0)] * 3,
        [replace(PLAIN, prompt="something else", guidance_scale=30.0), replace(POSED, control_scale=2.0, steps=2)],
    ):
        together = paint_together(shared_device, [(0, request) for request in [*neighbours, POSED]])
        assert distance(together[-1], alone) <= TOLERANCE


def test_a_rows_picture_does_not_depend_on_a_sick_neighbour(shared_device: SdxlDevice) -> None:
    sick = replace(POSED, guidance_scale=1e38, seed=1)
    rows = [prepare(shared_device, request, f"job-{n}")[0] for n, request in enumerate([sick, POSED])]
    while rows[1].steps_done < rows[1].steps_total:
        shared_device.step(rows)
    assert not torch.isfinite(rows[0].latents).all()
    (other,) = finished(shared_device, rows[1:])
    fault, beside = shared_device.finish(rows)
    assert isinstance(fault, RenderFault)
    assert (fault.kind, fault.code) == (FaultKind.REQUEST, "render_failed")
    assert difference(beside, other) <= TOLERANCE


def test_guided_rows_take_two_slots_and_the_controlnet_runs_for_posed_rows_only(bench: Bench) -> None:
    rows = bench.prepare(
        replace(PLAIN, guidance_scale=1.0), PLAIN, POSED, replace(POSED, guidance_scale=0.0), replace(PLAIN, seed=4)
    )
    bench.step(rows)
    assert bench.unet.slots == [1 + 2 + 2 + 1 + 2]
    assert bench.controlnet.slots == [2 + 1]


def test_the_controlnet_rests_where_no_row_has_a_weight(bench: Bench) -> None:
    window = replace(POSED, control_start=0.25, control_end=0.75)
    rows = bench.prepare(window, replace(POSED, control_scale=0.0), PLAIN)
    ran = []
    for _ in range(4):
        bench.step(rows)
        ran.append(len(bench.controlnet.slots))
    assert ran == [0, 1, 2, 2]
    assert bench.controlnet.slots == [2, 2]


def test_images_of_one_request_are_painted_from_consecutive_seeds(shared_device: SdxlDevice) -> None:
    rows = prepare(shared_device, replace(PLAIN, count=3, steps=2))
    assert [row.seed for row in rows] == [11, 12, 13]
    while rows[0].steps_done < 2:
        shared_device.step(rows)
    images = finished(shared_device, rows)
    assert [image.seed for image in images] == [11, 12, 13]
    assert len({image.content for image in images}) == 3
