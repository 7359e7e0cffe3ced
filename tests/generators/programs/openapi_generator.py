"""Writes the requests by the pydantic models that openapi-generator makes for python."""

import datetime
import pathlib

from openapi_client.models import (
    AdapterUse,
    GenerationOrder,
    GenerationOrderPose,
    OutputOptions,
    PeoplePose,
    Picture,
    SkeletonPose,
    StoredPicture,
)

points = [*([[0.5, 0.25]] * 16), None]
requests = {
    "least": GenerationOrder(request_id="order-1", prompt="a dancer"),
    "everything": GenerationOrder(
        request_id="order-2",
        prompt="a fencer",
        negative_prompt="blurry",
        preset="quality",
        width=1024,
        height=768,
        steps=30,
        guidance_scale=6.5,
        guidance_start=0.1,
        guidance_end=0.8,
        guidance_rescale=0.7,
        clip_skip=1,
        recipe="portrait",
        sampler="euler",
        seed=9007199254740000,
        count=2,
        control_scale=0.8,
        control_start=0.1,
        control_end=0.9,
        adapter=AdapterUse(name="ink", weight=0.7),
        output=OutputOptions(format="webp", quality=85),
        priority=7,
        deadline=datetime.datetime(2027, 1, 31, 12, tzinfo=datetime.UTC),
        progress="steps",
        labels={"campaign": "spring"},
        pose=GenerationOrderPose(PeoplePose(people=[points], format="coco17")),
    ),
    "stored": GenerationOrder(
        request_id="order-3",
        prompt="a dancer",
        pose=GenerationOrderPose(SkeletonPose(image=Picture(StoredPicture(bucket="darkroom", key="studio/p.png")))),
    ),
}
for name, request in requests.items():
    pathlib.Path(f"{name}.json").write_text(request.to_json())
