"""Writes the requests by the attrs classes that openapi-python-client makes."""

import datetime
import json
import pathlib

from client.models import (
    AdapterUse,
    GenerationOrder,
    GenerationOrderLabelsType0,
    GenerationOrderPresetType0,
    GenerationOrderProgressType0,
    GenerationOrderSamplerType0,
    OutputOptions,
    OutputOptionsFormatType0,
    PeoplePose,
    PeoplePoseFormatType0,
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
        preset=GenerationOrderPresetType0.QUALITY,
        width=1024,
        height=768,
        steps=30,
        guidance_scale=6.5,
        guidance_start=0.1,
        guidance_end=0.8,
        guidance_rescale=0.7,
        clip_skip=1,
        recipe="portrait",
        sampler=GenerationOrderSamplerType0.EULER,
        seed=9007199254740000,
        count=2,
        control_scale=0.8,
        control_start=0.1,
        control_end=0.9,
        adapter=AdapterUse(name="ink", weight=0.7),
        output=OutputOptions(format_=OutputOptionsFormatType0.WEBP, quality=85),
        priority=7,
        deadline=datetime.datetime(2027, 1, 31, 12, tzinfo=datetime.UTC),
        progress=GenerationOrderProgressType0.STEPS,
        labels=GenerationOrderLabelsType0.from_dict({"campaign": "spring"}),
        pose=PeoplePose(people=[points], format_=PeoplePoseFormatType0.COCO17),
    ),
    "stored": GenerationOrder(
        request_id="order-3",
        prompt="a dancer",
        pose=SkeletonPose(image=StoredPicture(bucket="darkroom", key="studio/p.png")),
    ),
}
for name, request in requests.items():
    pathlib.Path(f"{name}.json").write_text(json.dumps(request.to_dict()))
