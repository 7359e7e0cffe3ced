"""Proves what the prepare lane promises: warnings, refusals, and caches that are bounded and never change a picture."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.inference.pose.picture import PictureLimits
from darkroom.inference.pose.skeleton import draw_people
from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.sdxl.faults import device_faults
from darkroom.inference.sdxl.loading.components import load_components
from darkroom.inference.sdxl.loading.sources import ModelFiles
from darkroom.inference.sdxl.prepare.cache import ByteCache
from darkroom.inference.sdxl.prepare.poses import PoseConditioner, control_tensor
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import CacheCounts, DeviceLost, FaultKind, RenderFault, RenderJob
from darkroom.schemas.events.pose import PeoplePose, SkeletonPose, StoredPicture
from tests.inference.painting import PLAIN, POSED, SITTING, WAVING, load, prepare

pytestmark = pytest.mark.render

STORED = SkeletonPose(image=StoredPicture(bucket="darkroom", key="pose.png"))


@pytest.fixture(scope="module")
def device(tiny: TinyModel) -> Iterator[SdxlDevice]:
    """A device that only this file's tests use, so that they can count its cache's hits."""
    device = load(tiny)
    yield device
    device.close()


def as_png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def gained(device: SdxlDevice, cache: str, before: CacheCounts) -> tuple[int, int]:
    now = device.cache_counts()[cache]
    return now.hits - before.hits, now.misses - before.misses


def test_loading_leaves_nothing_in_the_caches(tiny: TinyModel) -> None:
    assert set(load(tiny).cache_counts().values()) == {CacheCounts(0, 0, 0)}


def test_a_cut_prompt_is_a_warning_however_often_it_is_prepared(device: SdxlDevice) -> None:
    request = replace(PLAIN, prompt="x" * 80, negative_prompt="y" * 76)
    for _ in range(2):
        warnings = device.prepare(RenderJob("job", request)).warnings
        # 80 letters are 80 tokens for this tokenizer, and the two special ones come on top.
        assert warnings == (
            "The prompt was cut at 77 tokens: its last 5 tokens were not used.",
            "The negative prompt was cut at 77 tokens: its last 1 tokens were not used.",
        )
    assert device.prepare(RenderJob("job", replace(request, guidance_scale=1.0))).warnings == warnings[:1]
    assert device.prepare(RenderJob("job", replace(PLAIN, prompt="x" * 75))).warnings == ()


def test_a_prompt_is_encoded_once(device: SdxlDevice) -> None:
    before = device.cache_counts()["prompt"]
    request = replace(PLAIN, prompt="once", negative_prompt="never")
    first, again = prepare(device, request)[0], prepare(device, replace(request, seed=7))[0]
    assert gained(device, "prompt", before) == (2, 2)
    assert again.text is first.text
    assert again.negative is first.negative
    prepare(device, replace(request, prompt="never"))
    assert gained(device, "prompt", before) == (4, 2), "a negative prompt and a prompt of the same words are one text"


def test_a_pose_is_drawn_once_a_size_and_encoded_once_a_picture(device: SdxlDevice) -> None:
    before = dict(device.cache_counts())
    posed = replace(PLAIN, pose=SITTING)
    first, again = prepare(device, posed)[0], prepare(device, replace(posed, seed=7))[0]
    assert first.control is not None
    assert again.control is not None
    assert again.control.embedding is first.control.embedding
    assert gained(device, "pose", before["pose"]) == (1, 1)
    assert gained(device, "control", before["control"]) == (1, 1)
    prepare(device, replace(posed, width=128))
    assert gained(device, "pose", before["pose"]) == (1, 2)
    assert gained(device, "control", before["control"]) == (1, 2)
    skeleton = as_png(draw_people(SITTING.people, width=64, height=64))
    device.prepare(RenderJob("job", replace(PLAIN, pose=STORED), {"pose": skeleton}))
    assert gained(device, "pose", before["pose"]) == (1, 3)
    assert gained(device, "control", before["control"]) == (2, 2), "the same picture, however it was sent"


def test_the_same_key_with_other_bytes_is_another_pose(device: SdxlDevice) -> None:
    embeddings = []
    for pose in (WAVING, SITTING):
        skeleton = as_png(draw_people(pose.people, width=64, height=64))
        row = device.prepare(RenderJob("job", replace(PLAIN, pose=STORED), {"pose": skeleton})).rows[0]
        assert row.control is not None
        embeddings.append(row.control.embedding)
    assert not torch.equal(*embeddings)


def test_a_conditioning_embedding_is_what_the_controlnet_would_have_made(tiny: TinyModel) -> None:
    """Bit for bit: the whole ControlNet on the picture against the same ControlNet on the cached embedding."""
    library: Any = diffusers
    untouched = library.ControlNetModel.from_pretrained(tiny.controlnet_path, local_files_only=True)
    parts = load_components(
        ModelFiles(tiny.path, tiny.controlnet_path), name="tiny", device=torch.device("cpu"), dtype=torch.float32
    )
    poses = PoseConditioner(
        parts.pose_encoder,
        is_bgr=False,
        device=parts.device,
        dtype=parts.dtype,
        limits=PictureLimits(),
        cache_bytes_max=2**20,
    )
    picture = control_tensor(draw_people(WAVING.people, width=64, height=64), is_bgr=False)
    draw = torch.Generator().manual_seed(1)
    arguments = {
        "sample": torch.randn(1, 4, 8, 8, generator=draw),
        "timestep": torch.tensor([400.0]),
        "encoder_hidden_states": torch.randn(1, 77, 64, generator=draw),
        "added_cond_kwargs": {"text_embeds": torch.randn(1, 32, generator=draw), "time_ids": torch.ones(1, 6)},
        "return_dict": False,
    }
    with torch.inference_mode():
        assert parts.controlnet is not None
        whole = untouched(controlnet_cond=picture, **arguments)
        around = parts.controlnet(controlnet_cond=poses.embed(WAVING, None, width=64, height=64)[0], **arguments)
    assert torch.equal(whole[1], around[1])
    assert all(torch.equal(one, other) for one, other in zip(whole[0], around[0], strict=True))


def test_a_control_picture_is_rgb_between_0_and_1() -> None:
    tensor = control_tensor(Image.new("RGB", (16, 8), (255, 51, 0)), is_bgr=False)
    assert tensor.shape == (1, 3, 8, 16)
    assert tensor.dtype is torch.float32
    np.testing.assert_allclose(tensor[0, :, 0, 0].numpy(), [1.0, 0.2, 0.0])
    np.testing.assert_allclose(control_tensor(Image.new("RGB", (8, 8), (255, 51, 0)), is_bgr=True)[0, 2], 1.0)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"width": 60}, "invalid_request"),
        ({"sampler": "plms"}, "invalid_request"),
        ({"steps": 0}, "invalid_request"),
        ({"steps": 1001}, "invalid_request"),
        ({"pose": STORED}, "pose_unreadable"),
    ],
)
def test_what_cannot_be_prepared_is_the_requests_fault(
    device: SdxlDevice, change: dict[str, object], code: str
) -> None:
    with pytest.raises(RenderFault) as caught:
        device.prepare(RenderJob("job", replace(PLAIN, **change)))  # type: ignore[arg-type]
    assert (caught.value.kind, caught.value.code) == (FaultKind.REQUEST, code)


def test_a_pose_without_a_controlnet_is_refused(tiny: TinyModel) -> None:
    device = SdxlDevice(tiny.path, device="cpu", cpu_threads=1)
    device.load()
    assert not device.info.takes_pose
    assert device.info.controlnet_path is None
    with pytest.raises(RenderFault, match="has no ControlNet") as caught:
        device.prepare(RenderJob("job", POSED))
    assert caught.value.code == "model_mismatch"
    assert len(device.prepare(RenderJob("job", PLAIN)).rows) == 1


def test_a_pose_picture_is_bounded_by_the_devices_limits(tiny: TinyModel) -> None:
    device = load(tiny, pose_limits=PictureLimits(bytes_max=100))
    with pytest.raises(RenderFault) as caught:
        device.prepare(RenderJob("job", replace(PLAIN, pose=STORED), {"pose": bytes(101)}))
    assert caught.value.code == "image_too_large"


def test_caches_of_a_device_stay_within_their_bounds(tiny: TinyModel) -> None:
    one_prompt = 77 * 64 * 4 + 32 * 4
    device = load(tiny, prompt_cache_bytes_max=2 * one_prompt, pose_cache_bytes_max=64_000)
    for number in range(4):
        person = ((number / 4, 0.5),) * 18
        prepare(device, replace(PLAIN, prompt=f"prompt {number}", pose=PeoplePose(people=(person,))))
    counts = device.cache_counts()
    assert counts["prompt"].bytes_held == 2 * one_prompt
    assert counts["pose"] == CacheCounts(0, 4, 64 * 64 * 3)
    assert counts["control"].misses == 4
    assert 0 < counts["control"].bytes_held <= 48_000


def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    cache: ByteCache[str, bytes] = ByteCache(10, len)
    made: list[str] = []

    def get(key: str, size: int) -> bytes:
        def make() -> bytes:
            made.append(key)
            return bytes(size)

        return cache.get_or_make(key, make)

    get("a", 4), get("b", 4), get("a", 4), get("c", 4)
    assert made == ["a", "b", "c"]
    assert cache.counts() == CacheCounts(hits=1, misses=3, bytes_held=8)
    get("a", 4)
    assert made == ["a", "b", "c"], "a was used later than b, so b had to go"
    get("large", 11)
    assert cache.counts().bytes_held == 8, "what does not fit at all pushes nothing out"
    cache.reset()
    assert cache.counts() == CacheCounts(0, 0, 0)


def test_a_cache_keeps_no_failure() -> None:
    cache: ByteCache[str, bytes] = ByteCache(10, len)

    def fail() -> bytes:
        raise ValueError("scripted")

    with pytest.raises(ValueError, match="scripted"):
        cache.get_or_make("a", fail)
    assert cache.get_or_make("a", lambda: b"whole") == b"whole"


def test_memory_that_is_not_there_is_the_batchs_fault(device: SdxlDevice) -> None:
    """The noise of this picture takes 18 TB, which the allocator of every machine refuses."""
    with pytest.raises(RenderFault) as caught:
        prepare(device, replace(PLAIN, width=2**23, height=2**23))
    assert (caught.value.kind, caught.value.code) == (FaultKind.BATCH_MEMORY, "out_of_memory")
    assert prepare(device, PLAIN)[0].steps_done == 0


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_every_way_of_running_out_of_memory_is_known(error: Exception) -> None:
    with pytest.raises(RenderFault) as caught, device_faults("denoising 3 rows"):
        raise error
    assert (caught.value.kind, caught.value.code) == (FaultKind.BATCH_MEMORY, "out_of_memory")
    assert "denoising 3 rows" in caught.value.message
    assert caught.value.__cause__ is error


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shape"), device_faults("denoising"):
        raise RuntimeError("shape mismatch")


@pytest.mark.parametrize(
    "message", ["CUDA error: an illegal memory access was encountered", "CUBLAS_STATUS_EXECUTION_FAILED when calling"]
)
def test_an_error_of_the_gpu_itself_is_nobodys_row(message: str) -> None:
    """Every later call would fail with it: the rows that happen to be on the device must not be blamed."""
    with pytest.raises(DeviceLost, match="denoising 3 rows"), device_faults("denoising 3 rows"):
        raise RuntimeError(message)


def test_a_lack_of_memory_holds_nothing_in_memory() -> None:
    class Activations:
        alive = 0

        def __init__(self) -> None:
            Activations.alive += 1

        def __del__(self) -> None:
            Activations.alive -= 1

    def forward() -> None:
        activations = Activations()
        raise torch.OutOfMemoryError(f"out of memory with {activations}")

    with pytest.raises(RenderFault), device_faults("denoising"):
        forward()
    assert Activations.alive == 0
