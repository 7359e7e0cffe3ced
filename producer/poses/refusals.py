"""Files of keypoints that are known and are not read, each with its name and the way to one that is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from darkroom.producer.poses.documents import PoseJsonRefused, dicts, first

_AS_COCO: Final = "Export it as COCO's keypoints."
_AS_LIST: Final = "Write its people as JSON, [[x, y, score], ...] each, with json.dump(array.tolist(), file)."


class _Document(NamedTuple):
    """A JSON document of a tool's."""

    recognises: Callable[[Any], bool]
    what: str
    remedy: str


def _has(name: str, kind: type) -> Callable[[Any], bool]:
    return lambda document: isinstance(document, dict) and isinstance(document.get(name), kind)


def _is_mesh(document: Any) -> bool:
    return isinstance(document, dict) and "asset" in document and ("meshes" in document or "nodes" in document)


_DOCUMENTS: Final = (
    _Document(_has("shapes", list), "is labelme's.", _AS_COCO),
    _Document(
        lambda document: isinstance(document, dict) and any("_via" in name for name in document),
        "is a project of the VGG Image Annotator.",
        _AS_COCO,
    ),
    _Document(
        lambda document: isinstance(document, dict) and "openpose editor" in str(document.get("header")).lower(),
        "is a scene of the 3D OpenPose editor, whose bodies are drawn through its camera.",
        "Let the editor generate the skeleton, and send that picture.",
    ),
    _Document(
        lambda document: isinstance(document, dict) and "skeletons" in document and "videos" in document,
        "is a project of SLEAP.",
        _AS_COCO,
    ),
    _Document(_is_mesh, "is a glTF model.", "Send a rendered skeleton, or the joints as they project on the picture."),
    _Document(
        lambda document: isinstance(document, dict) and "last_node_id" in document and "links" in document,
        "is a workflow of ComfyUI, and not the POSE_KEYPOINT that it makes.",
        "Save the pose with the node Save Pose Keypoints.",
    ),
    _Document(
        lambda document: any(
            str(one.get("type", "")).startswith(("rectanglelabels", "brushlabels", "polygonlabels")) and "value" in one
            for one in dicts(first(document).get("result"))
        ),
        "has Label Studio's regions, and no keypoints.",
        "Label the joints as keypoints.",
    ),
    _Document(
        lambda document: any(
            name in first(document)
            for name in ("multiHandLandmarks", "multi_hand_landmarks", "handLandmarks", "hand_landmarks", "handedness")
        ),
        "has the landmarks of MediaPipe's hand landmarker alone.",
        "Use its pose landmarker: hands without a body are no pose here.",
    ),
    _Document(
        lambda document: any(
            name in first(document) for name in ("worldLandmarks", "pose_world_landmarks", "poseWorldLandmarks")
        ),
        "has MediaPipe's world landmarks alone, which are metres from the hips.",
        "Write its landmarks, which are fractions of the picture.",
    ),
    _Document(
        lambda document: any(
            name in first(document) for name in ("multiFaceLandmarks", "multi_face_landmarks", "faceBlendshapes")
        ),
        "has the landmarks of MediaPipe's face landmarker alone.",
        "Use its pose landmarker: a face without a body is no pose here.",
    ),
)


def refuse_document(document: Any) -> None:
    """Raise `PoseJsonRefused` for a JSON document of a tool that is known and not read."""
    for one in _DOCUMENTS:
        if one.recognises(document):
            raise PoseJsonRefused(one.what, one.remedy)


_BEGINNINGS: Final = (
    (b"\x93NUMPY", "is a NumPy array (.npy).", _AS_LIST),
    (b"\x89HDF\r\n", "is HDF5, as SLEAP, DeepLabCut and Keras write it.", _AS_COCO),
    (b"PK\x03\x04", "is an archive (.zip or .npz).", "Take the file out of it; an array becomes JSON with tolist()."),
    (b"\x1f\x8b", "is compressed with gzip.", "Take the JSON out of it with gunzip."),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd.", "Take the JSON out of it with unzstd."),
    (b"\x80\x04\x95", "is a Python pickle.", _AS_LIST),
    (b"\x80\x05\x95", "is a Python pickle.", _AS_LIST),
    (b"PAR1", "is a Parquet file.", "Write its keypoints as JSON."),
    (b"glTF", "is a glTF model.", "Send a rendered skeleton, or the joints as they project on the picture."),
    (b"Kaydara FBX", "is an FBX animation.", "Send a rendered skeleton, or the joints as they project on the picture."),
    (b"HIERARCHY", "is a BVH animation.", "Send a rendered skeleton, or the joints as they project on the picture."),
    (b"%YAML", "is OpenPose's YAML.", "Let OpenPose write JSON, with --write_json."),
    (b"<", "is XML, as CVAT and OpenPose's --write_keypoint write it.", f"{_AS_COCO[:-1]}, or write OpenPose's JSON."),
)
_BINARY: Final = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]|\xff\xd8")
"""Bytes that no text has, and how a JPEG begins."""
_YOLO: Final = re.compile(rb"\d+(?: -?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?){4,}\s*(?:\n|$)")
_SEVERAL: Final = re.compile(rb"\s*\{.*\}\s*\n\s*\{", re.DOTALL)


def refuse_bytes(content: bytes) -> None:
    """Raise `PoseJsonRefused` for a file that is no JSON and whose form is known."""
    start = content[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    for beginning, what, remedy in _BEGINNINGS:
        if start.startswith(beginning) and b"<svg" not in start:
            raise PoseJsonRefused(what, remedy)
    if _BINARY.search(start):
        return
    if _YOLO.match(start):
        raise PoseJsonRefused(
            "is a YOLO label file.",
            "Let Ultralytics write JSON, with results[0].to_json(), or export COCO's keypoints.",
        )
    if _SEVERAL.match(start[:1024]):
        raise PoseJsonRefused(
            "has several JSON texts, one after another.", "Put them into one list, with `jq -s . FILE`, for `--frames`."
        )
    if _is_table(start):
        raise PoseJsonRefused(
            "is a table (CSV), as DeepLabCut and trackers write it.", "Export it as COCO's keypoints, or as JSON lists."
        )


def _is_table(start: bytes) -> bool:
    """Return whether the first two lines of a file have as many separators, and more than one."""
    lines = start.splitlines()[:2]
    counts = [{lines[at].count(separator) for at in range(len(lines))} for separator in (b",", b";", b"\t")]
    return len(lines) == 2 and start[:1] not in b'{["' and any(len(one) == 1 and min(one) > 1 for one in counts)
