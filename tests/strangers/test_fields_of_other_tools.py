"""Requests written for other tools, with an id added: refused by every way in, each field with its remedy.

Before, they were painted without what they ask for, and succeeded.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.worker.intake import Intake
from darkroom.consumer.worker.ports import Record
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.producer.cli.send import send
from darkroom.schemas.errors import ErrorCode, RequestRejected
from darkroom.schemas.settings import LimitSettings
from darkroom.schemas.wire.codec import decode_request
from tests.consumer.test_intake import NOON
from tests.producer.gateway.house import STUDIO, House, Replica, png, problem
from tests.strangers.table import Stranger, rows

Fields = dict[str, Any]

TABLE: tuple[Stranger[Fields, set[str]], ...] = (
    Stranger(
        "txt2img",
        "AUTOMATIC1111 1.10.1, a client that sends the API page's example",
        {
            "negative_prompt": "blurry", "styles": ["Cinematic"], "steps": 20, "cfg_scale": 7,
            "sampler_name": "Euler a", "scheduler": "Karras",
            "n_iter": 1, "batch_size": 4, "restore_faces": False, "tiling": False, "eta": 0,
            "enable_hr": False, "save_images": True,
        },
        {"styles", "cfg_scale", "sampler_name", "scheduler", "batch_size"},
    ),
    Stranger(
        "img2img",
        "AUTOMATIC1111 1.10.1",
        {"init_images": ["data:image/png;base64,AAAA"], "denoising_strength": 0.4,
         "inpainting_fill": 1},
        {"init_images", "denoising_strength", "inpainting_fill"},
    ),
    Stranger(
        "hires-fix",
        "Forge 2.0 (sdapi/v1/txt2img)",
        {"enable_hr": True, "hr_upscaler": "Latent", "hr_scale": 2, "distilled_cfg_scale": 3.5},
        {"enable_hr", "hr_upscaler", "hr_scale", "distilled_cfg_scale"},
    ),
    Stranger(
        "always-on-scripts",
        "sd-webui-controlnet 1.1.455",
        {"alwayson_scripts": {"controlnet": {"args": [{"module": "canny", "image": "AAAA"}]}}},
        {"alwayson_scripts"},
    ),
    Stranger(
        "pipeline-arguments",
        "diffusers 0.42.1, keyword arguments of StableDiffusionXLControlNetPipeline as JSON",
        {
            "prompt_2": "in ink", "num_inference_steps": 30, "num_images_per_prompt": 2, "clip_skip": 1,
            "controlnet_conditioning_scale": 0.7, "cross_attention_kwargs": {"scale": 0.6}, "guidance_rescale": 0.7,
            "guess_mode": False, "eta": 0.0, "output_type": "pil", "return_dict": True,
        },
        {"prompt_2", "num_inference_steps", "num_images_per_prompt", "controlnet_conditioning_scale",
         "cross_attention_kwargs", "guidance_rescale"},
    ),
    Stranger(
        "loras",
        "Fooocus-API 0.5.0.1",
        {
            "style_selections": ["Fooocus V2"], "performance_selection": "Speed", "image_number": 2, "image_seed": -1,
            "loras": [{"model_name": "ink.safetensors", "weight": 0.8}], "refiner_model_name": "None",
            "base_model_name": "juggernautXL.safetensors", "require_base64": False, "async_process": True,
        },
        {"style_selections", "performance_selection", "image_number", "loras", "base_model_name"},
    ),
    Stranger(
        "prediction",
        "replicate/cog-sdxl c79cb3c",
        {"refine": "expert_ensemble_refiner", "scheduler": "K_EULER", "lora_scale": 0.6, "num_outputs": 1,
         "apply_watermark": False, "high_noise_frac": 0.8, "prompt_strength": 0.8, "num_inference_steps": 25},
        {"refine", "scheduler", "lora_scale", "high_noise_frac", "prompt_strength", "num_inference_steps"},
    ),
    Stranger(
        "prediction-in-input",
        "replicate 1.0.7 (HTTP body of a prediction)",
        {"input": {"prompt": "a dancer", "num_outputs": 4}, "webhook": "https://example.org/hook"},
        {"input"},
    ),
    Stranger(
        "text2image",
        "SwarmUI 0.9.8 (GenerateText2Image)",
        {"images": 4, "cfgscale": 7.5, "initimage": "AAAA", "initimagecreativity": 0.6, "clipstopatlayer": -2,
         "model": "OfficialStableDiffusion/sd_xl_base_1.0", "loras": "ink", "loraweights": "0.8",
         "seamlesstileable": "true"},
        {"images", "cfgscale", "initimage", "initimagecreativity", "clipstopatlayer", "model", "loras", "loraweights",
         "seamlesstileable"},
    ),
    Stranger(
        "horde",
        "AI-Horde 5.1.4 (generate/async)",
        {"params": {"sampler_name": "k_euler_a", "karras": True, "tis": []}, "models": ["SDXL 1.0"], "nsfw": False,
         "source_image": "AAAA", "source_processing": "inpainting", "r2": True},
        {"params", "models", "source_image", "source_processing"},
    ),
    Stranger(
        "workflow",
        "krita-ai-diffusion 1.53.0 (WorkflowInput)",
        {"images": {"extent": {}}, "models": {"checkpoint": "sdxl.safetensors"}, "sampling": {"sampler": "Euler"},
         "conditioning": {"positive": "a dancer"}, "batch_count": 2},
        {"images", "models", "sampling", "conditioning", "batch_count"},
    ),
    Stranger(
        "images-generate",
        "openai 3.3.1 (images.generate)",
        {"model": "gpt-image-1", "n": 2, "size": "1024x1536", "quality": "high", "style": "vivid",
         "output_format": "webp", "background": "transparent", "user": "someone"},
        {"model", "n", "size", "quality", "style", "output_format", "background"},
    ),
    Stranger(
        "text-to-image",
        "Stability AI REST v1, stability-sdk 0.8.6",
        {"text_prompts": [{"text": "a dancer", "weight": 1}], "cfg_scale": 7, "clip_guidance_preset": "FAST_BLUE",
         "samples": 2, "style_preset": "line-art"},
        {"text_prompts", "cfg_scale", "clip_guidance_preset", "samples", "style_preset"},
    ),
    Stranger(
        "denoise-latents",
        "InvokeAI 6.0 (denoise_latents node)",
        {"cfg_rescale_multiplier": 0.7, "denoising_start": 0.3, "ip_adapter": {"image": "x"}, "t2i_adapter": [{}],
         "seamless_x": True},
        {"cfg_rescale_multiplier", "denoising_start", "ip_adapter", "t2i_adapter", "seamless_x"},
    ),
    Stranger(
        "hosted-sdxl",
        "fal.ai fal-ai/fast-sdxl, request names of 2026, not called",
        {"image_size": "square_hd", "num_inference_steps": 25, "expand_prompt": True, "sync_mode": True,
         "enable_safety_checker": True, "format": "png", "num_images": 1},
        {"image_size", "num_inference_steps", "expand_prompt"},
    ),
    Stranger(
        "several-controls",
        "Replicate fofr/sdxl-multi-controlnet-lora, request names of 2026, not called",
        {"controlnet_1": "edge_canny", "controlnet_1_image": "https://example.org/a.png", "controlnet_1_start": 0.1,
         "controlnet_2": "none", "sizing_strategy": "width_height", "apply_watermark": False},
        {"controlnet_1", "controlnet_1_image", "controlnet_1_start", "sizing_strategy"},
    ),
    Stranger(
        "render",
        "Easy Diffusion 3.5 (render task)",
        {"use_lora_model": "ink", "lora_alpha": 0.6, "use_face_correction": "GFPGANv1.4", "upscale_amount": 4,
         "num_outputs": 1, "stream_progress_updates": True},
        {"use_lora_model", "lora_alpha", "use_face_correction", "upscale_amount"},
    ),
    Stranger(
        "generation",
        "Leonardo REST v1, request names of 2026, not called",
        {"alchemy": True, "presetStyle": "ANIME", "photoReal": False, "init_image_id": "abc", "public": False},
        {"alchemy", "presetStyle", "init_image_id"},
    ),
    Stranger(
        "adapter-as-others-weigh-it",
        "ComfyUI 0.3 (LoraLoader's inputs)",
        {"adapter": {"name": "ink", "strength_model": 0.4, "strength_clip": 0.4}},
        {"adapter.strength_model", "adapter.strength_clip"},
    ),
    Stranger(
        "camel-case",
        "Jackson 2.21 (a Java bean without a naming strategy)",
        {"negativePrompt": "blurry", "guidanceScale": 7.5, "controlScale": 0.8},
        {"negativePrompt", "guidanceScale", "controlScale"},
    ),
)  # fmt: skip

PROMPTS: tuple[Stranger[str, tuple[str, ...]], ...] = (
    Stranger(
        "weights-lora-wildcard",
        "AUTOMATIC1111 1.10.1 with Dynamic Prompts 2.17",
        "<lora:ink:0.8> a (red:1.4) figure, ((masterpiece)) BREAK on a __colour__ background",
        ("<lora:ink:0.8>", "(red:1.4)", "((masterpiece))", "BREAK", "__colour__", "`adapter`"),
    ),
    Stranger("schedule", "AUTOMATIC1111 1.10.1", "a [red:blue:0.5] cat AND a dog", ("[red:blue:0.5]", "AND")),
    Stranger("embedding", "ComfyUI 0.3", "a (cat:1.2), embedding:good-hands", ("(cat:1.2)", "embedding:good-hands")),
    Stranger("blend", "compel 2.5.1", "a (tall cat)1.5 and a (dog)++", (")1.5", ")++")),
    Stranger("options", "Midjourney v6", "a cat --ar 16:9 --no hats", ("--ar", "--no")),
    Stranger("braces", "NovelAI V3", "{{masterpiece}}, a {red|blue} cat", ("{{masterpiece}}", "{red|blue}")),
    Stranger("prose", "a person, 2026", "a man (old, tired) at half past ten (10:30), 16:9", ()),
)


def named(message: str, fields: set[str]) -> bool:
    """Whether the message names fields of these, as many as it has room for."""
    parts = message.split("; ")
    found = {part.partition(": ")[0] for part in parts} & fields
    return len(found) == min(len(fields), 5)


@pytest.mark.parametrize("row", rows(TABLE))
def test_by_kafka(row: Stranger[Fields, set[str]]) -> None:
    with pytest.raises(RequestRejected) as caught:
        decode_request(json.dumps({"request_id": "r", "prompt": "a dancer", **row.given}).encode())
    assert (caught.value.code, caught.value.request_id) == (ErrorCode.UNSUPPORTED_FIELD, "r")
    assert named(caught.value.message, row.right), caught.value.message


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    async with House().gateway() as replica:
        yield replica


@pytest.mark.parametrize("row", rows(TABLE))
async def test_by_http(row: Stranger[Fields, set[str]], replica: Replica) -> None:
    body = {"prompt": "a dancer", **row.given}
    form = {"files": {"request": (None, json.dumps(body)), "pose": ("pose.png", png(64, 64), "image/png")}}
    for path, sent in (("/v1/generations", {"json": body}), ("/v1/generations", form), ("/generate", {"json": body})):
        answer = await replica.client.post(path, headers=STUDIO, **sent)
        said = problem(answer, 422, "unsupported_field")
        assert named(said["detail"], row.right), said
        assert "unsupported-fields" in said["remedy"]


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("/generate", {"prompt": (None, "a dancer"), "init_image": ("a.png", png(8, 8), "image/png")}),
        ("/generate", {"prompt": (None, "a dancer"), "num_inference_steps": (None, "30")}),
        ("/v1/generations", {"request": (None, '{"prompt": "a"}'), "mask_image": ("a.png", png(8, 8), "image/png")}),
        ("/v1/generations", {"request": (None, '{"prompt": "a"}'), "cfg_scale": (None, "7")}),
        ("/v1/generations", {"prompt": (None, "a dancer"), "strength": (None, "0.7")}),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
async def test_as_parts_of_a_form(path: str, members: Any, replica: Replica) -> None:
    answer = await replica.client.post(path, headers=STUDIO, files=members)
    [name] = set(members) - {"prompt", "request"}
    assert problem(answer, 422, "unsupported_field")["detail"].startswith(f"{name}: ")


async def test_in_the_query(replica: Replica) -> None:
    answer = await replica.client.post("/generate?prompt=a&cfg_scale=7", headers=STUDIO)
    assert problem(answer, 422, "unsupported_field")["detail"] == "cfg_scale: use `guidance_scale`"


@pytest.mark.parametrize("row", rows(TABLE))
def test_by_a_file_of_requests(row: Stranger[Fields, set[str]], tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text(json.dumps({"prompt": "a dancer", **row.given}), encoding="utf-8")
    done = CliRunner().invoke(send, [str(file)])
    assert done.exit_code == 1
    line = done.stderr.splitlines()[0]
    assert named(line.partition("requests.jsonl:1: ")[2], row.right), done.stderr


@pytest.mark.parametrize(
    ("option", "remedy"),
    [("--cfg-scale", "--guidance-scale"), ("--num_inference_steps", "--steps"), ("--lora", "--adapter"),
     ("--init-image", "leave it out")],
)  # fmt: skip
def test_as_an_option(option: str, remedy: str) -> None:
    done = CliRunner().invoke(send, ["--prompt", "a dancer", option, "7"])
    assert done.exit_code == 2
    assert f"No such option: {option}: " in done.stderr
    assert remedy in done.stderr


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
@pytest.mark.parametrize("row", rows(PROMPTS))
def test_syntax_in_a_prompt_is_warned_of(row: Stranger[str, tuple[str, ...]], field: str) -> None:
    intake = Intake(lambda: SimulatedDevice(0.0).info, LimitSettings(), request_bytes_max=1 << 20)
    value = json.dumps({"request_id": "r", "prompt": "a figure", field: row.given}).encode()
    facts, payload = intake.take(PartitionKey("requests", 0), Record(0, b"r", value, (), -1), now=0.0, wall=NOON)
    assert facts.refusal is None, "it is painted"
    said = " ".join(payload.warnings)
    assert said.startswith(f"{field}: read as plain text") == bool(row.right)
    for piece in row.right:
        assert piece in said
