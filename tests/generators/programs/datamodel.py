"""Writes the requests by the pydantic models that datamodel-code-generator makes, as model_dump_json writes them."""

import pathlib

from models import (
    AdapterUse,
    Format,
    Format1,
    GenerationRequest,
    OutputOptions,
    PeoplePose,
    Person,
    Picture,
    Preset,
    Progress,
    Sampler,
    SkeletonPose,
    StoredPicture,
)

points = [*([[0.5, 0.25]] * 16), None]
requests = {
    "least": GenerationRequest(request_id="order-1", prompt="a dancer"),
    "everything": GenerationRequest(
        request_id="order-2",
        tenant="studio",
        prompt="a fencer",
        negative_prompt="blurry",
        preset=Preset.quality,
        width=1024,
        height=768,
        steps=30,
        guidance_scale=6.5,
        guidance_start=0.1,
        guidance_end=0.8,
        guidance_rescale=0.7,
        clip_skip=1,
        recipe="portrait",
        sampler=Sampler.euler,
        seed=9007199254740000,
        count=2,
        control_scale=0.8,
        control_start=0.1,
        control_end=0.9,
        adapter=AdapterUse(name="ink", weight=0.7),
        output=OutputOptions(format=Format.webp, quality=85),
        priority=7,
        deadline="2027-01-31T12:00:00Z",
        progress=Progress.steps,
        labels={"campaign": "spring"},
        pose=PeoplePose(people=[Person(points)], format=Format1.coco17),
    ),
    "stored": GenerationRequest(
        request_id="order-3",
        prompt="a dancer",
        pose=SkeletonPose(image=Picture(StoredPicture(bucket="darkroom", key="studio/p.png"))),
    ),
}
for name, request in requests.items():
    pathlib.Path(f"{name}.json").write_text(request.model_dump_json())
