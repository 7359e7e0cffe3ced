"""`POST /v1/poses`: keypoints as other tools write them in, a request's pose out. Nothing is kept of them."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from darkroom.producer.gateway.gateway import gateway_of
from darkroom.producer.gateway.jobs.answers import PoseFound
from darkroom.producer.gateway.principal import Scope
from darkroom.producer.gateway.problems import Problem
from darkroom.producer.gateway.routes.generations import PROBLEMS, answer
from darkroom.producer.poses.documents import PoseJsonRefused
from darkroom.producer.poses.files import read_pose_json, size_of
from darkroom.producer.poses.keypoints import POSE_JSON_BYTES_MAX

router = APIRouter(tags=["jobs"])

_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "A file of keypoints, of up to 4 MiB: a request's pose, or JSON of OpenPose, COCO, MMPose, "
        "Ultralytics, rtmlib, TensorFlow.js, MediaPipe or Label Studio.",
        "content": {"application/json": {"schema": {}}},
    }
}


@router.post(
    "/v1/poses", response_model=PoseFound, responses=PROBLEMS, openapi_extra=_BODY, summary="Read a file of keypoints"
)
async def read(
    call: Request,
    size: Annotated[
        str | None,
        Query(max_length=20, description="WIDTHxHEIGHT of the picture that the keypoints are pixels of, if need be."),
    ] = None,
) -> Response:
    """Read keypoints as `darkroom send --pose` does: the pose for a request, and what was left out.

    422 says what the file is and how to convert it.
    """
    gateway = gateway_of(call)
    await gateway.admit(call, Scope.SUBMIT)
    try:
        pixels = None if size is None else size_of(size)
    except ValueError as error:
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", f"size: {error}", "Correct what is named."
        ) from error
    content = await gateway.submissions.content(call, POSE_JSON_BYTES_MAX)
    try:
        found = await asyncio.to_thread(read_pose_json, content, pixels)
    except PoseJsonRefused as refused:
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY, "pose_unreadable", f"The file {refused.what}", refused.remedy
        ) from refused
    return answer({"pose": found.pose, "notes": list(found.notes)})
