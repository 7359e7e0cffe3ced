"""Proves the way of a photo through controlnet-aux's detector with made-up weights: OpenPose's own cannot be had here.

What it finds in real photos is not tried. What is: that weights are read whole and never unpickled, that heatmaps and
limb fields of known people, as the network would give them, come out as those people, and that its work is bounded.
"""

from __future__ import annotations

import io
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from darkroom.inference.pose.openpose import CANDIDATES_MAX, OpenPoseDetector, load_detector, most_candidates
from darkroom.inference.pose.photo import find_people
from darkroom.inference.pose.picture import PictureLimits
from darkroom.inference.sdxl import ModelFiles, SdxlDevice
from darkroom.inference.sdxl.prepare.poses import PoseConditioner
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import FaultKind, ModelError, RenderFault, RenderJob
from darkroom.schemas.events.keypoints import LIMBS, Keypoint
from darkroom.schemas.events.pose import PeoplePose, PhotoPose, StoredPicture
from tests.inference.painting import PLAIN, SITTING, WAVING, load
from tests.inference.test_pose_photo import Seer, person, photo

pytestmark = pytest.mark.render

CPU = torch.device("cpu")
PHOTO = PhotoPose(photo=StoredPicture(bucket="darkroom", key="photo.jpg"))
LAST_HEATMAPS = "Mconv7_stage6_L2.bias"

FIELDS = (
    12, 20, 14, 16, 22, 24, 0, 2, 4, 6, 8, 10, 28, 30, 34, 32, 36,
)  # fmt: skip
"""For each limb the first of the two channels that OpenPose's network gives its direction in."""

Person = Sequence[Keypoint]


class Painted(torch.nn.Module):
    """In the network's place: heatmaps and limb fields of known people, at the network's resolution."""

    def __init__(self, people: Sequence[Person]) -> None:
        super().__init__()
        self.people = people
        self.place = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        self.shown: torch.Tensor | None = None

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.shown = pixels
        height, width = pixels.shape[2] // 8, pixels.shape[3] // 8
        fields, heatmaps = torch.zeros(1, 38, height, width), torch.zeros(1, 19, height, width)
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        for one in self.people:
            # A cell stands for 8 pixels, the first of them in cell 0.
            cells = [None if p is None else (p[0] * width - 0.44, p[1] * height - 0.44) for p in one]
            for part, cell in enumerate(cells):
                if cell is not None:
                    bump = torch.exp(-((x - cell[0]) ** 2 + (y - cell[1]) ** 2) / 2)
                    heatmaps[0, part] = torch.maximum(heatmaps[0, part], bump)
            for (start, end), channel in zip(LIMBS, FIELDS, strict=True):
                a, b = cells[start], cells[end]
                if a is None or b is None or a == b:
                    continue
                length = math.dist(a, b)
                along = ((b[0] - a[0]) / length, (b[1] - a[1]) / length)
                across = ((x - a[0]) * along[1] - (y - a[1]) * along[0]).abs()
                way = (x - a[0]) * along[0] + (y - a[1]) * along[1]
                near = (across <= 1.5) & (way >= -1.5) & (way <= length + 1.5)
                fields[0, channel][near], fields[0, channel + 1][near] = along
        return fields, heatmaps


def flat(level: float) -> dict[str, torch.Tensor]:
    """A whole set of weights in OpenPose's names: all zeros but for `level` in every cell of every heatmap.

    All of a tensor's numbers are one number in the file, so it is small.
    """
    return {
        name: torch.full((1,), level if name == LAST_HEATMAPS else 0.0).expand(tensor.shape)
        for name, tensor in named().items()
    }


def named() -> Mapping[str, torch.Tensor]:
    """The tensors of OpenPose's file by its names, on no memory."""
    return {name.partition(".")[2]: tensor for name, tensor in placed().items()}


def placed() -> Mapping[str, torch.Tensor]:
    """The same by the library's names, with the network's blocks before them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from controlnet_aux.open_pose.model import bodypose_model
    with torch.device("meta"):
        whole: Mapping[str, torch.Tensor] = bodypose_model().state_dict()
    return whole


def saved(folder: Path, tensors: Mapping[str, torch.Tensor], **how: Any) -> Path:
    file = folder / "body_pose_model.pth"
    torch.save(dict(tensors), file, **how)
    return file


def of(pose: PeoplePose, *, left: float = 0.0, width: float = 1.0) -> Person:
    return tuple(None if p is None else (left + p[0] * width, 0.05 + p[1] * 0.9) for p in pose.people[0])


def nearly(found: Person, meant: Person, within: float = 0.02) -> bool:
    pairs = list(zip(found, meant, strict=True))
    return all((a is None) == (b is None) for a, b in pairs) and all(
        math.dist(a, b) <= within for a, b in pairs if a is not None and b is not None
    )


# --- What is found --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("people", "size"),
    [
        ([of(WAVING)], (512, 512)),
        ([of(SITTING)], (480, 480)),
        ([of(WAVING, width=0.45), of(SITTING, left=0.5, width=0.5)], (1024, 512)),
    ],
    ids=["one", "one with hidden points", "two"],
)
def test_people_come_out_where_the_network_sees_them(people: list[Person], size: tuple[int, int]) -> None:
    detector = OpenPoseDetector(Painted(people), "sha256:")
    found = find_people(photo(*size), detector, PictureLimits())
    assert found.pose is not None
    assert len(found.pose.people) == len(people)
    for one, meant in zip(found.pose.people, people, strict=True):
        assert nearly(one, meant)


def test_the_network_is_given_blue_first_as_openpose_has_it() -> None:
    network = Painted([])
    OpenPoseDetector(network, "sha256:").find(Image.new("RGB", (512, 512), (255, 0, 128)))
    assert network.shown is not None
    assert network.shown.shape == (1, 3, 184, 184)
    np.testing.assert_allclose(network.shown[0, :, 5, 5].numpy(), [0.0, -0.5, 255 / 256 - 0.5], atol=1e-3)


def test_the_most_candidates_that_are_tried_take_seconds_at_most() -> None:
    spots = [(0.08 + 0.12 * (number % 8), 0.1 + 0.25 * (number // 8)) for number in range(CANDIDATES_MAX)]
    detector = OpenPoseDetector(Painted([(spot,) * 18 for spot in spots]), "sha256:")
    began = time.thread_time()
    assert not detector.find(Image.new("RGB", (512, 512))), "points without a way between them are nobody"
    assert time.thread_time() - began < 15


def test_more_candidates_are_refused_before_they_are_paired() -> None:
    spots = [(0.08 + 0.12 * (number % 8), 0.08 + 0.18 * (number // 8)) for number in range(CANDIDATES_MAX + 1)]
    detector = OpenPoseDetector(Painted([(spot,) * 18 for spot in spots]), "sha256:")
    with pytest.raises(RenderFault, match=rf"{CANDIDATES_MAX + 1} places.*Crop it") as caught:
        detector.find(Image.new("RGB", (512, 512)))
    assert (caught.value.kind, caught.value.code) == (FaultKind.REQUEST, "pose_unreadable")


def test_a_flat_top_counts_for_all_of_its_pixels() -> None:
    heatmaps = torch.zeros(2, 6, 6)
    heatmaps[0, 1, 1], heatmaps[0, 4, 4], heatmaps[1, 3, 3] = 0.5, 0.3, 0.09
    assert most_candidates(heatmaps) == 2
    heatmaps[0, 1, 2] = 0.5
    assert most_candidates(heatmaps) == 2 * 64 + 1


# --- Weights --------------------------------------------------------------------------------------------


def test_a_network_that_sees_nothing_finds_nobody(tmp_path: Path) -> None:
    """From a file as torch wrote them when OpenPose's was made."""
    file = saved(tmp_path, flat(0.0), _use_new_zipfile_serialization=False)
    assert find_people(photo(640, 480), load_detector(file, CPU), PictureLimits()).pose is None


def test_a_network_that_sees_everything_everywhere_is_stopped(tmp_path: Path) -> None:
    """From a folder, and a file as torch writes them today."""
    detector = load_detector(saved(tmp_path, flat(0.2)).parent, CPU)
    with pytest.raises(RenderFault, match="cannot tell apart"):
        find_people(photo(640, 480), detector, PictureLimits())


def test_both_formats_and_both_ways_of_naming_give_the_same_network(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(3)
    tensors = {name: (torch.randn(t.shape, generator=draw) * 0.02).half() for name, t in named().items()}
    prefixed = {name: tensors[name.partition(".")[2]] for name in placed()}
    other = tmp_path / "other.safetensors"
    safetensors.torch.save_file(prefixed, other)
    one, two = load_detector(saved(tmp_path, tensors), CPU), load_detector(other, CPU)
    assert one.digest != two.digest
    assert one.digest.startswith("sha256:")
    picture = np.random.default_rng(5).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    networks = [detector._detector.body_estimation.model for detector in (one, two)]
    pixels = torch.rand(1, 3, 64, 64, generator=draw) - 0.5
    with torch.inference_mode():
        seen = [network(pixels) for network in networks]
    assert torch.equal(seen[0][0], seen[1][0])
    assert seen[0][0].abs().max() > 0, "the random weights reach the output"
    assert one.find(Image.fromarray(picture)) == []


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    (tmp_path / "body_pose_model.pth").write_bytes(_pickled_call(tmp_path / "ran"))
    with pytest.raises(ModelError, match=r"body_pose_model\.pth cannot be read"):
        load_detector(tmp_path, CPU)
    assert not (tmp_path / "ran").exists()


def _pickled_call(trace: Path) -> bytes:
    class Harm:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return Path.touch, (trace,)

    content = io.BytesIO()
    torch.save({"conv1_1.weight": Harm()}, content)
    return content.getvalue()


def _without(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name != "conv4_2.weight"}


def _misshapen(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"conv4_2.weight": torch.zeros(3)}


def _infinite(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"conv4_2.weight": torch.full((1,), math.inf).expand(512, 512, 3, 3)}


@pytest.mark.parametrize("broken", [_without, _misshapen, _infinite])
def test_weights_that_are_not_whole_are_named(
    tmp_path: Path, broken: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    file = saved(tmp_path, broken(flat(0.0)))
    with pytest.raises(ModelError, match=r"body_pose_model\.pth are not whole: model0\.conv4_2\.weight"):
        load_detector(file, CPU)


def test_weights_of_a_larger_network_are_not_passed_over(tmp_path: Path) -> None:
    file = saved(tmp_path, flat(0.0) | {"Mconv8_stage7_L1.weight": torch.zeros(3)})
    with pytest.raises(ModelError, match=r"it has no Mconv8_stage7_L1\.weight"):
        load_detector(file, CPU)


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_files_are_no_weights(tmp_path: Path, content: bytes, suffix: str) -> None:
    (tmp_path / f"body_pose_model{suffix}").write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read"):
        load_detector(tmp_path, CPU)


def test_missing_weights_say_what_to_fetch(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.pth"):
        with pytest.raises(ModelError, match=r"fetch body_pose_model\.pth.*DARKROOM_MODEL__POSE_DETECTOR_PATH"):
            load_detector(path, CPU)


def test_without_the_extra_the_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "controlnet_aux.open_pose", None)
    with pytest.raises(ModelError, match=r"install darkroom\[pose\], if CMU's licence.*non-commercial"):
        load_detector(saved(tmp_path, {}), CPU)


# --- Behind a device ------------------------------------------------------------------------------------


@pytest.fixture
def conditioner() -> Callable[..., PoseConditioner]:
    """Makes pose conditioners whose encoder only makes the picture smaller."""

    def make(detector: Seer, cache_bytes_max: int = 2**20) -> PoseConditioner:
        return PoseConditioner(
            torch.nn.AvgPool2d(8),
            is_bgr=False,
            device=CPU,
            dtype=torch.float32,
            limits=PictureLimits(),
            cache_bytes_max=cache_bytes_max,
            detector=detector,
        )

    return make


def test_a_photos_people_are_drawn_as_if_they_had_been_sent(conditioner: Callable[..., PoseConditioner]) -> None:
    seer = Seer(person(0.2), person(0.6))
    poses = conditioner(seer)
    shown = poses.embed(PHOTO, photo(64, 64), width=64, height=128).embedding
    sent = PeoplePose(people=tuple(one.points for one in seer.people))
    assert torch.equal(shown, poses.embed(sent, None, width=64, height=128).embedding)
    assert shown.any()
    assert poses.counts()["pose"].hits == 1, "the second one is the first one's drawing"


def test_a_photo_is_looked_at_once_whatever_it_finds(conditioner: Callable[..., PoseConditioner]) -> None:
    seer = Seer(person(0.2))
    poses = conditioner(seer)
    for side in (64, 64, 128):
        poses.embed(PHOTO, photo(64, 64), width=side, height=side)
    assert len(seer.shown) == 1
    assert poses.counts()["photo"][:2] == (2, 1)
    seer.people = ()
    for _ in range(2):
        with pytest.raises(RenderFault) as caught:
            poses.embed(PHOTO, photo(80, 64), width=64, height=64)
        assert caught.value.code == "pose_not_found"
    assert len(seer.shown) == 2
    poses.reset()
    assert poses.counts()["photo"] == (0, 0, 0)


def test_the_people_of_photos_are_bounded_in_bytes(conditioner: Callable[..., PoseConditioner]) -> None:
    seer = Seer(person(0.2))
    poses = conditioner(seer, cache_bytes_max=2**20)
    for width in range(64, 74):
        poses.embed(PHOTO, photo(width, 64), width=64, height=64)
    assert 0 < poses.counts()["photo"].bytes_held <= 2**20 // 16
    poses.embed(PHOTO, photo(64, 64), width=64, height=64)
    assert len(seer.shown) == 11, "the first one's people were forgotten"


def seeing(tiny: TinyModel, weights: Path) -> SdxlDevice:
    files = ModelFiles(tiny.path, tiny.controlnet_path, pose_detector_path=weights)
    device = SdxlDevice(lambda: files, name=tiny.name, device="cpu", cpu_threads=1)
    device.load()
    return device


def test_a_device_with_weights_looks_at_photos(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(tmp_path, flat(0.0))
    device = seeing(tiny, file)
    monkeypatch.setattr("darkroom.inference.pose.blazepose.detector.is_installed", lambda: False)
    plain = load(tiny)
    try:
        assert device.info.pose_detector == load_detector(file, CPU).digest
        assert device.info.revision == plain.info.revision, "no picture but a photo's depends on it"
        posed = replace(PLAIN, pose=PHOTO)
        for _ in range(2):
            with pytest.raises(RenderFault, match="found nobody") as caught:
                device.prepare(RenderJob("job", posed, {"pose": photo(640, 480)}))
            assert (caught.value.kind, caught.value.code) == (FaultKind.REQUEST, "pose_not_found")
        assert device.cache_counts()["photo"][:2] == (1, 1)
        assert device.prepare(RenderJob("job", replace(PLAIN, pose=WAVING))).rows
        with pytest.raises(RenderFault, match=r"darkroom\[pose\]"):
            plain.prepare(RenderJob("job", posed, {"pose": photo(640, 480)}))
    finally:
        device.close()
        plain.close()


def test_a_crowd_is_a_warning_to_the_requester(tiny: TinyModel) -> None:
    device = load(tiny)
    try:
        device._loaded().poses._detector = Seer(*(person(number / 20) for number in range(9)))
        prepared = device.prepare(RenderJob("job", replace(PLAIN, pose=PHOTO), {"pose": photo(64, 64)}))
        assert prepared.warnings == ("The pose's photo shows 9 people: the 8 largest were used.",)
    finally:
        device.close()


def test_broken_weights_end_the_start_and_not_each_photo(tiny: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"There are no weights of the OpenPose body detector"):
        seeing(tiny, tmp_path)
