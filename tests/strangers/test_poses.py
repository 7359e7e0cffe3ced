"""Proves that keypoints as the field's tools write them are read as they are meant, or refused by their name.

Each file goes to the command's reader and to the gateway's `POST /v1/poses`, which the page's import calls: the answers
are the same.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.producer.client.request_files import RequestUnreadable, request_of
from darkroom.producer.poses.documents import PoseJsonRefused
from darkroom.producer.poses.files import pose_of
from darkroom.producer.poses.keypoints import PoseRead, read_frames, read_pose
from tests.producer.gateway.house import House
from tests.strangers.pose_files import (
    FOLDER,
    HALF,
    NEAR,
    NO_SIZE,
    RIGHT,
    SIZE,
    WIDE,
    WITH_ANKLE,
    Person,
    alphapose,
    alphapose_halpe,
    centred,
    coco17,
    coco17_zeros,
    coco_wholebody,
    dwpose,
    face,
    halpe_136,
    hand,
    holistic,
    label_studio_coco,
    mediapipe_film,
    ml5,
    mmpose_video,
    movenet,
    openpose,
    openpose_people,
    ours_with,
    posenet,
    roboflow,
    rtmlib,
    second_person_empty,
    vitpose,
    without,
)
from tests.strangers.table import Stranger, rows


@dataclass(frozen=True, slots=True)
class Given:
    """A file of `FOLDER`, or a document made here, and the size that its user knows."""

    file: str
    made: Callable[[], Any] | None = None
    size: tuple[int, int] | None = None

    @property
    def content(self) -> bytes:
        return (FOLDER / self.file).read_bytes() if self.made is None else json.dumps(self.made()).encode()


@dataclass(frozen=True, slots=True)
class Read:
    """The people, and what has to be said of the file."""

    people: tuple[Person, ...]
    said: str | None = None
    parts: tuple[str, ...] = ()
    """The members of the pose beside `people` and `format`."""


@dataclass(frozen=True, slots=True)
class Refused:
    """What has to be said, and what it is not."""

    said: str


ONE = Read((RIGHT,))


FURTHER = [
    Stranger("dwpose-arrays", "DWPose 1.0 tolist()", Given("", dwpose), Read((RIGHT, HALF), parts=("hands", "face"))),
    Stranger(
        "dwpose-arrays-by-person",
        "ComfyUI-MimicMotionWrapper 1.0 tolist()",
        Given("", lambda: dwpose(as_rows=True)),
        Read((RIGHT, HALF), parts=("hands", "face")),
    ),
    Stranger(
        "dwpose-film",
        "UniAnimate 1.0 tolist()",
        Given("", lambda: [dwpose(), dwpose(), dwpose()]),
        Read((RIGHT, HALF), "3 frames", parts=("hands", "face")),
    ),
    Stranger(
        "alphapose-open",
        "AlphaPose 0.6 --format open",
        Given("", lambda: alphapose("open")),
        Read((RIGHT,), "2 pictures"),
    ),
    Stranger(
        "alphapose-cmu", "AlphaPose 0.6 --format cmu", Given("", lambda: alphapose("cmu")), Read((RIGHT,), "2 pictures")
    ),
    Stranger(
        "alphapose-halpe-136",
        "AlphaPose 0.6 Halpe 136",
        Given("", halpe_136, SIZE),
        Read((RIGHT,), "feet are not drawn", parts=("hands", "face")),
    ),
    Stranger("coco-wholebody", "COCO-WholeBody 1.0", Given("", coco_wholebody), Read((RIGHT,), parts=("hands",))),
    Stranger(
        "label-studio-coco",
        "label-studio-sdk 2.1.2 COCO, model_index as COCO's",
        Given("", lambda: label_studio_coco(names_in_order=False)),
        ONE,
    ),
    Stranger(
        "label-studio-coco-own-order",
        "label-studio-sdk 2.1.2 COCO, model_index as configured",
        Given("", lambda: label_studio_coco(names_in_order=True)),
        Read((RIGHT,), "order of the category's names"),
    ),
    Stranger(
        "mediapipe-world",
        "mediapipe 0.10",
        Given("", lambda: {"worldLandmarks": [[{"x": 0.1, "y": 0.2, "z": 0.3, "visibility": 0.9}] * 33]}),
        Refused("world landmarks alone"),
    ),
    Stranger("vitpose", "transformers 4.48 VitPose", Given("", vitpose, SIZE), ONE),
    Stranger("roboflow", "Roboflow inference 0.30", Given("", roboflow), ONE),
    Stranger("ml5", "ml5 0.12 PoseNet", Given("", ml5, SIZE), ONE),
    Stranger("rtmlib-scores", "rtmlib 0.0.13, keypoints and scores", Given("", rtmlib, SIZE), ONE),
    Stranger(
        "mediapipe-holistic",
        "@mediapipe/holistic 0.5",
        Given("", holistic),
        Read((RIGHT,), "other points than the 68", parts=("hands",)),
    ),
    Stranger(
        "mediapipe-film", "@mediapipe/tasks-vision 0.10, a film", Given("", mediapipe_film), Read((RIGHT,), "2 frames")
    ),
    Stranger(
        "ultralytics-film",
        "Ultralytics 8.3 to_json() of each frame",
        Given("", lambda: [json.loads((FOLDER / "ultralytics_to_json.json").read_text())] * 2, SIZE),
        Read((RIGHT,), "2 frames"),
    ),
    Stranger(
        "arrays-film",
        "rtmlib 0.0.13, a film's arrays",
        Given("", lambda: [[coco17()], [coco17()]], SIZE),
        Read((RIGHT,), "2 frames"),
    ),
    Stranger("our-scores", "Darkroom 1", Given("", ours_with(format="coco18")), ONE),
    Stranger(
        "our-hands",
        "Darkroom 1",
        Given("", ours_with(hands=[[hand(0.7, 0.2), None]])),
        Read((RIGHT,), parts=("hands",)),
    ),
    Stranger("our-openpose-people", "Darkroom 1", Given("", openpose_people), ONE),
    Stranger(
        "our-canvas",
        "Darkroom 1",
        Given("", ours_with(canvas={"width": 640, "height": 400}, fit="contain")),
        Read((RIGHT,), parts=("canvas", "fit")),
    ),
    Stranger(
        "one-point-alone",
        "OpenPose 1.7",
        Given("", lambda: openpose(without(*range(1, 18)), canvas_width=640, canvas_height=400)),
        Refused("no limb"),
    ),
    Stranger(
        "3d-editor",
        "sd-webui-3d-open-pose-editor 1.0",
        Given(
            "",
            lambda: {"header": "Openpose Editor by Yu Zhu", "version": "1.0", "object": {"bodies": [], "camera": {}}},
        ),
        Refused("scene of the 3D OpenPose editor"),
    ),
    Stranger(
        "comfyui-workflow",
        "ComfyUI 0.3",
        Given("", lambda: {"last_node_id": 3, "last_link_id": 1, "nodes": [], "links": []}),
        Refused("workflow of ComfyUI"),
    ),
    Stranger(
        "mediapipe-hands",
        "@mediapipe/tasks-vision 0.10 HandLandmarker",
        Given("", lambda: {"handedness": [[{"index": 0}]], "worldLandmarks": []}),
        Refused("hand landmarker alone"),
    ),
]
TABLE = [
    Stranger("comfyui-openpose-node", "comfyui_controlnet_aux 1.0.7", Given("comfyui_openpose_node.json"), ONE),
    Stranger("comfyui-dwpose-node", "comfyui_controlnet_aux 1.0.7 DWPose node", Given("comfyui_dwpose_node.json"), ONE),
    Stranger(
        "comfyui-two-frames",
        "comfyui_controlnet_aux 1.0.7, a film",
        Given("comfyui_two_frames.json"),
        Read((RIGHT,), "2 frames: the first one was used"),
    ),
    Stranger(
        "comfyui-first-frame-empty",
        "comfyui_controlnet_aux 1.0.7, a film",
        Given("comfyui_first_frame_empty.json"),
        Refused("shows nobody in the first of its 2 frames"),
    ),
    Stranger(
        "comfyui-second-person-empty",
        "comfyui_controlnet_aux 1.0.7",
        Given("", second_person_empty),
        Read((RIGHT,), "1 person without a body point left out"),
    ),
    Stranger(
        "comfyui-body-off",
        "comfyui_controlnet_aux 1.0.7, detect_body disabled",
        Given("comfyui_body_off.json"),
        Refused("shows nobody"),
    ),
    Stranger(
        "comfyui-animals", "comfyui_controlnet_aux 1.0.7 AnimalPose", Given("comfyui_animals.json"), Refused("animals")
    ),
    Stranger("webui-normalised", "sd-webui-controlnet 1.1.4", Given("webui_controlnet_normalised.json"), ONE),
    Stranger("webui-editor", "sd-webui-openpose-editor 0.3", Given("webui_openpose_editor.json"), ONE),
    Stranger(
        "webui-editor-float-canvas",
        "sd-webui-openpose-editor 0.3",
        Given("webui_openpose_editor_float_canvas.json"),
        ONE,
    ),
    Stranger("openpose-coco", "OpenPose 1.7 --model_pose COCO", Given("openpose_coco.json", size=SIZE), ONE),
    Stranger("openpose-no-size", "OpenPose 1.7 --model_pose COCO", Given("openpose_coco.json"), Refused(NO_SIZE)),
    Stranger("openpose-body25", "OpenPose 1.7", Given("openpose_body25.json", size=SIZE), ONE),
    Stranger(
        "openpose-body25b",
        "OpenPose 1.7 --model_pose BODY_25B",
        Given("openpose_body25b.json", size=SIZE),
        Read((RIGHT,), "read as BODY_25B"),
    ),
    Stranger("openpose-scale-3", "OpenPose 1.7 --keypoint_scale 3", Given("openpose_keypoint_scale_3.json"), ONE),
    Stranger(
        "openpose-scale-3-with-a-size",
        "OpenPose 1.7 --keypoint_scale 3",
        Given("openpose_keypoint_scale_3.json", size=SIZE),
        ONE,
    ),
    Stranger(
        "openpose-scale-4", "OpenPose 1.7 --keypoint_scale 4", Given("", centred, SIZE), Refused("--keypoint_scale 4")
    ),
    Stranger(
        "openpose-low-confidence",
        "OpenPose 1.7",
        Given("openpose_low_confidence.json", size=SIZE),
        Read((without(4),)),
    ),
    Stranger(
        "openpose-mpi",
        "OpenPose 1.7 --model_pose MPI",
        Given("openpose_mpi15.json", size=SIZE),
        Refused("MPI model .* --model_pose COCO or BODY_25"),
    ),
    Stranger(
        "hands-and-face",
        "OpenPose 1.7 --hand --face",
        Given("hands_and_face.json", size=SIZE),
        Read((RIGHT,), parts=("hands", "face")),
    ),
    Stranger(
        "nine-people",
        "OpenPose 1.7",
        Given("nine_people.json", size=SIZE),
        Read(
            tuple([None if point is None else [point[0] / 5 + n / 10, point[1]] for point in RIGHT] for n in range(8)),
            "the largest 8 are used",
        ),
    ),
    Stranger("coco-annotations", "COCO 2017 person_keypoints", Given("coco_annotations.json"), ONE),
    Stranger("coco-results", "pycocotools 2.0 results", Given("coco_results.json", size=SIZE), ONE),
    Stranger("coco-results-no-size", "pycocotools 2.0 results", Given("coco_results.json"), Refused("COCO's results")),
    Stranger(
        "alphapose-halpe",
        "AlphaPose 0.6 Halpe 26",
        Given("", alphapose_halpe, SIZE),
        Read((RIGHT,), "feet are not drawn"),
    ),
    Stranger("mmpose", "MMPose 1.3 MMPoseInferencer", Given("mmpose_inferencer.json", size=SIZE), ONE),
    Stranger(
        "mmpose-video",
        "MMPose 1.3 predictions of a film",
        Given("", mmpose_video, SIZE),
        Read((RIGHT,), "2 frames"),
    ),
    Stranger("ultralytics", "Ultralytics 8.3 to_json()", Given("ultralytics_to_json.json", size=SIZE), ONE),
    Stranger(
        "ultralytics-normalised",
        "Ultralytics 8.3 to_json(normalize=True)",
        Given("ultralytics_to_json_normalised.json"),
        ONE,
    ),
    Stranger(
        "ultralytics-tolist",
        "Ultralytics 8.3 keypoints.data.tolist()",
        Given("ultralytics_data_tolist.json", size=SIZE),
        ONE,
    ),
    Stranger(
        "rtmlib-wholebody",
        "rtmlib 0.0.13 Wholebody",
        Given("rtmlib_wholebody.json", size=SIZE),
        Read((RIGHT,), "feet are not drawn", parts=("hands", "face")),
    ),
    Stranger("movenet", "@tensorflow-models/pose-detection 2.1 MoveNet", Given("", movenet, SIZE), ONE),
    Stranger("posenet", "@tensorflow-models/posenet 2.2", Given("", posenet, SIZE), ONE),
    Stranger(
        "mediapipe-legacy",
        "mediapipe 0.10 solutions, MessageToJson",
        Given("mediapipe_legacy_message_to_json.json"),
        ONE,
    ),
    Stranger("mediapipe-tasks", "@mediapipe/tasks-vision 0.10", Given("mediapipe_tasks_js.json"), ONE),
    Stranger(
        "mediapipe-list",
        "mediapipe 0.10, x and y alone",
        Given("mediapipe_list.json"),
        Refused("MediaPipe's 33 points without their visibility"),
    ),
    Stranger("label-studio", "Label Studio 1.13 JSON export", Given("labelstudio.json"), ONE),
    Stranger("list-pixels", "a script, numpy 2 tolist()", Given("list_pixels.json", size=SIZE), ONE),
    Stranger("list-pixels-no-size", "a script, numpy 2 tolist()", Given("list_pixels.json"), Refused(NO_SIZE)),
    Stranger("list-minus-one", "a script, numpy 2 tolist()", Given("list_minus_one_for_unseen.json"), ONE),
    Stranger("list-zeros", "a script, numpy 2 tolist()", Given("list_zeros_for_unseen.json"), ONE),
    Stranger("list-coco17-zeros", "a script, numpy 2 tolist()", Given("", coco17_zeros), ONE),
    Stranger("list-with-confidence", "a script, numpy 2 tolist()", Given("list_with_confidence.json"), ONE),
    Stranger(
        "fractions-beside-a-canvas",
        "comfyui_controlnet_aux 1.0.7",
        Given("wide_fractions_beside_canvas.json"),
        Read((WITH_ANKLE,)),
    ),
    Stranger("canvas-as-float", "sd-webui-openpose-editor 0.3", Given("wide_canvas_float.json"), Read((WITH_ANKLE,))),
    Stranger(
        "editor-of-width-and-height",
        "openpose-editor 1.0 by fkunn1326",
        Given("wide_fkunn_editor.json"),
        Read((WITH_ANKLE,)),
    ),
    Stranger(
        "coco-results-of-visibilities",
        "pycocotools 2.0 results",
        Given("wide_coco_results_list.json", size=WIDE),
        Read((WITH_ANKLE,)),
    ),
    Stranger(
        "mmpose-predictions",
        "MMPose 1.3 predictions",
        Given("wide_mmpose_predictions.json", size=WIDE),
        Read((WITH_ANKLE,)),
    ),
    Stranger(
        "ultralytics-all-seen",
        "Ultralytics 8.3 to_json()",
        Given("wide_ultralytics_tojson.json", size=WIDE),
        Read((WITH_ANKLE,)),
    ),
    Stranger(
        "rows-of-17", "YOLOv8 pose, numpy 2 tolist()", Given("wide_17x3_rows.json", size=WIDE), Read((WITH_ANKLE,))
    ),
    Stranger(
        "foot-below-the-picture",
        "sd-webui-openpose-editor 0.3",
        Given("wide_off_canvas_foot_2_3.json"),
        Read(([None if index == 10 else point for index, point in enumerate(WITH_ANKLE)],), "1 point far outside"),
    ),
    Stranger(
        "person-of-hands-alone",
        "OpenPose 1.7 --hand",
        Given("wide_person_without_body.json"),
        Read((WITH_ANKLE,), "1 person without a body point"),
    ),
    *FURTHER,
]

NOT_JSON = [
    Stranger("npy", "NumPy 2.1 save()", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}", "NumPy array .*tolist"),
    Stranger("npz", "NumPy 2.1 savez()", b"PK\x03\x04\x2d\x00\x00\x00", "archive .*tolist"),
    Stranger("pickle", "Python 3.12 pickle", b"\x80\x04\x95\x1a\x00\x00\x00", "pickle"),
    Stranger("h5", "DeepLabCut 2.3, SLEAP 1.3", b"\x89HDF\r\n\x1a\n\x00\x00", "HDF5.*COCO"),
    Stranger("csv", "DeepLabCut 2.3", b"scorer,DLC,DLC\nbodyparts,nose,nose\n0,12.5,30.1\n", "a table"),
    Stranger("yolo", "Ultralytics 8.3 save_txt", b"0 0.5 0.5 0.7 0.9 0.47 0.15 2 0.48 0.13 2\n", "YOLO label file"),
    Stranger("xml", "CVAT 2.20, OpenPose 1.2", b'<?xml version="1.0"?>\n<annotations/>', "XML"),
    Stranger("yaml", "OpenPose 1.2 --write_keypoint_format yml", b"%YAML:1.0\npose_0: !!opencv-nd-matrix\n", "YAML"),
    Stranger("bvh", "Blender 4.2", b"HIERARCHY\nROOT Hips\n{\n", "BVH"),
    Stranger("gzip", "gzip 1.12", b"\x1f\x8b\x08\x00", "gzip"),
    Stranger("json-lines", "jq 1.7 -c", b'{"people": []}\n{"people": []}\n', "jq -s"),
]


def same(people: Any, right: tuple[Person, ...]) -> bool:
    """Return whether these are the same points, unseen ones too."""
    assert len(people) == len(right)
    for person, meant in zip(people, right, strict=True):
        for point, where in zip(person, meant, strict=True):
            if point is None or where is None:
                if point is not where:
                    return False
            elif max(abs(point[0] - where[0]), abs(point[1] - where[1])) > NEAR:
                return False
    return True


@pytest.mark.parametrize("row", rows(TABLE))
async def test_the_command_and_the_page_read_alike(row: Stranger[Given, Read | Refused], tmp_path: Path) -> None:
    path = tmp_path / "theirs.json"
    path.write_bytes(row.given.content)
    size = row.given.size
    query = {} if size is None else {"size": f"{size[0]}x{size[1]}"}
    async with House().gateway() as replica:
        answer = await replica.client.post("/v1/poses", content=row.given.content, params=query)
    if isinstance(row.right, Refused):
        with pytest.raises(RequestUnreadable, match=row.right.said) as caught:
            pose_of(path, size)
        body = answer.json()
        assert (answer.status_code, body["code"]) == (422, "pose_unreadable")
        assert body["needs_size"] is ("does not say of how large a picture" in body["detail"])
        assert f"{path} {body['detail'].removeprefix('The file ')} {body['remedy']}" == str(caught.value)
        return
    read = pose_of(path, size)
    assert answer.status_code == 200, answer.text
    canvas = None if read.canvas is None else {"width": read.canvas[0], "height": read.canvas[1]}
    assert answer.json() == {"pose": read.pose, "notes": list(read.notes), "canvas": canvas}
    assert same(read.pose["people"], row.right.people), read.pose
    assert set(read.pose) == {"people", "format", *row.right.parts}
    if row.right.said is None:
        assert read.notes == ()
    else:
        assert any(row.right.said in note for note in read.notes), read.notes
    request_of({"request_id": "a", "prompt": "one", "pose": read.pose}, bytes_max=2**20)


@pytest.mark.parametrize("row", rows(NOT_JSON))
async def test_what_is_no_json_is_refused_by_its_name(row: Stranger[bytes, str], tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    path.write_bytes(row.given)
    with pytest.raises(RequestUnreadable, match=row.right):
        pose_of(path)
    async with House().gateway() as replica:
        answer = await replica.client.post("/v1/poses", content=row.given)
    assert (answer.status_code, answer.json()["code"]) == (422, "pose_unreadable")


def test_hands_and_faces_lie_where_they_were_given() -> None:
    for made, size in ((dwpose, None), (halpe_136, SIZE)):
        pose = read_pose(made(), size).pose
        left, right = pose["hands"][0]
        assert same([left, right, pose["face"][0]], (hand(0.7, 0.2), hand(0.2, 0.1), face(0.45, 0.1)))  # type: ignore[arg-type]
    assert read_pose(dwpose()).pose["hands"][1] is None
    assert read_pose(dwpose()).pose["face"][1] is None


def test_every_frame_is_read_by_itself() -> None:
    film = json.loads((FOLDER / "comfyui_first_frame_empty.json").read_text())
    nobody, somebody = read_frames(film)
    assert (nobody.number, somebody.number) == (1, 2)
    assert isinstance(nobody.read, PoseJsonRefused)
    assert isinstance(somebody.read, PoseRead)
    assert same(somebody.read.pose["people"], (RIGHT,))
    assert len(read_frames(mmpose_video(), SIZE)) == 2
    assert len(read_frames(RIGHT)) == 1


def test_every_file_is_in_the_table() -> None:
    assert {path.name for path in FOLDER.glob("*.json")} == {row.given.file for row in TABLE if row.given.file} | {
        "right.json"
    }


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just([]) | st.just({})


def _changed(value: Any, draw: st.DrawFn) -> Any:
    """The same document with some of its parts replaced."""
    if draw(st.integers(0, 5)) == 0:
        return draw(_LEAVES)
    if isinstance(value, dict) and value:
        name = draw(st.sampled_from(sorted(value)))
        return {**value, name: _changed(value[name], draw)}
    if isinstance(value, list) and value:
        index = draw(st.integers(0, len(value) - 1))
        return [*value[:index], _changed(value[index], draw), *value[index + 1 :]]
    return value


@given(st.data())
@settings(max_examples=600)
def test_whatever_stands_in_a_file_is_a_pose_or_a_refusal(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(path.name for path in FOLDER.glob("*.json"))))
    document = json.loads((FOLDER / name).read_text())
    for _ in range(3):
        document = _changed(document, data.draw)
    for size in (None, SIZE):
        with contextlib.suppress(PoseJsonRefused):
            assert read_pose(document, size).pose
