"""The settings of what a worker does by itself: model, batches, bounds, process and log."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field, Strict, field_validator, model_validator

from darkroom.schemas.events.controls import OPENPOSE, ControlKind
from darkroom.schemas.events.keypoints import PoseStyle
from darkroom.schemas.settings.model_source import ModelSource
from darkroom.schemas.settings.services import MIB, SECTION, Names

COMPILE_SIZES_MAX = 16
"""Each size takes a form of every block for every bucket of slots, which is looked through at every step."""


_PLACE: Final = r"^(auto|same|cpu|cuda:[0-9]{1,3})$"

GIB = 1024 * MIB


OWN_CONTROLNET: Final = "controlnet"
"""The name in listings of the model's own ControlNet."""
CONTROLNETS_MAX: Final = 8
"""One for nearly each kind. Each is 2.5 GB of weights in fp16 beside the model's own."""


class ControlNetSettings(BaseModel):
    """A ControlNet beside the model, and the kinds of control pictures that it follows."""

    model_config = SECTION

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="Its name in listings and messages, 1-64 of A-Za-z0-9._-.",
    )
    path: ModelSource = Field(
        description="A diffusers folder of a ControlNet of SDXL, or its .safetensors file with config.json beside it; "
        "a path or s3://bucket/prefix."
    )
    kinds: Annotated[tuple[ControlKind, ...], Strict(False)] = Field(
        min_length=1,
        description="The kinds that it was trained for: openpose, canny, depth, softedge, lineart, scribble, normal, "
        "segment, tile. Each kind is followed by one ControlNet.",
    )
    style: PoseStyle = Field(
        default="openpose",
        description="For kind openpose: how the ControlNet wants skeletons drawn, openpose or xinsir.",
    )


class ModelSettings(BaseModel):
    """Which model is loaded."""

    model_config = SECTION

    path: ModelSource | None = Field(
        default=None,
        description="A diffusers folder of an SDXL pipeline, or a .safetensors checkpoint; a path or "
        "s3://bucket/prefix, as all of these. The built-in tiny model when not set.",
    )
    config_path: ModelSource | None = Field(
        default=None,
        description="For a checkpoint: a diffusers folder of SDXL whose configurations and tokenizers are used, and "
        "its weights for what the checkpoint lacks (VAE, text encoders); the checkpoint's own folder when not set.",
    )
    controlnet_path: ModelSource | None = Field(
        default=None,
        description="A diffusers folder of an OpenPose ControlNet, or its .safetensors file with config.json beside "
        "it; without it poses are refused.",
    )
    controlnets: Annotated[tuple[ControlNetSettings, ...], Strict(False)] = Field(
        default=(),
        max_length=CONTROLNETS_MAX,
        description="Further ControlNets for the `controls` of requests, as a JSON array of objects: name, path, kinds "
        "and, for skeletons, style. Give gateways and workers the same.",
    )
    pose_style: PoseStyle = Field(
        default="openpose",
        description="How the ControlNet wants skeletons drawn: openpose, with hands and faces where they are given, or "
        "xinsir (thicker sticks, bodies alone) for xinsir's OpenPose ControlNets.",
    )
    pose_detector_path: ModelSource | None = Field(
        default=None,
        description="Weights of the OpenPose body detector, body_pose_model.pth or .safetensors or their folder, for "
        "poses that are photos, in place of BlazePose. Needs darkroom[pose], for non-commercial use only.",
    )
    vae_path: ModelSource | None = Field(
        default=None,
        description="A diffusers folder or .safetensors file of a VAE in place of the model's: one safe in fp16, or an "
        "AutoencoderTiny such as TAESDXL.",
    )
    adapters_path: ModelSource | None = Field(
        default=None,
        description="A folder of LoRA files and textual inversions; requests name a file without .safetensors. Files "
        "may come and go while workers run. One that cannot be used is refused alone: its requests end as "
        "unknown_adapter.",
    )
    recipes_file: Path | None = Field(
        default=None,
        description="A TOML file of recipes, which requests name (docs/sampling.md describes its form); read at the "
        "start. Give gateways and workers the same file.",
    )
    cache_path: Path | None = Field(
        default=None, description="Where models from s3:// are kept; a folder in the user's cache when not set."
    )
    cache_bytes_max: int = Field(
        default=40 * GIB,
        ge=MIB,
        le=16 * 1024 * GIB,
        description="What they may take there: two of SDXL with a ControlNet in fp32, so that an update fits beside "
        "what it replaces. Models not used for longest go first, never those in use.",
    )
    name: str | None = Field(
        default=None, max_length=200, description="The name in completions; the folder's name when not set."
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        default="auto", description="Numbers that the model computes in: float16 on a GPU, float32 on a CPU by auto."
    )
    text_device: str = Field(
        default="auto",
        pattern=_PLACE,
        description="Where prompts are encoded: auto as the memory plan says, same as the device, cpu, or cuda:1 (or "
        "another number), a GPU that no other worker uses.",
    )
    vae_device: str = Field(
        default="auto",
        pattern=_PLACE,
        description="Where pictures are decoded: auto as the memory plan says, same as the device, cpu, or cuda:1 (or "
        "another number), a GPU that no other worker uses.",
    )
    profile_dir: Path | None = Field(
        default=None,
        description="Where the measured times of devices are kept; `darkroom/profiles` in the user's cache when not "
        "set.",
    )
    compiles: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Compile the networks' repeated blocks before the worker is ready (torch.compile): on a GPU by "
        "auto. Where no compiler works the worker says so and runs without.",
    )
    compile_sizes: Names = Field(
        default=(),
        description="Picture sizes to compile for, as 1024x1024,832x1216; the model's native size when empty. Each "
        "takes its time at the first start; other sizes run uncompiled.",
    )
    compile_cache_dir: Path | None = Field(
        default=None,
        description="Where compiled code is kept for the next start; when not set torch keeps it under the temporary "
        "folder, which a container loses.",
    )

    @field_validator("compile_sizes")
    @classmethod
    def _sizes(cls, sizes: tuple[str, ...]) -> tuple[str, ...]:
        if len(sizes) > COMPILE_SIZES_MAX:
            raise ValueError(f"at most {COMPILE_SIZES_MAX} sizes are compiled")
        for size in sizes:
            if not re.fullmatch(r"[1-9][0-9]{1,3}x[1-9][0-9]{1,3}", size):
                raise ValueError(f"{size!r} is not a size: write width x height in pixels, as 1024x1024")
        return sizes

    @property
    def offered_controls(self) -> dict[str, str]:
        """The kinds of control pictures that requests may bring, each with the name of the ControlNet that follows it;
        the built-in model and DARKROOM_MODEL__CONTROLNET_PATH follow openpose."""
        own = self.path is None or self.controlnet_path is not None
        return ({OPENPOSE: OWN_CONTROLNET} if own else {}) | {
            kind: one.name for one in self.controlnets for kind in one.kinds
        }

    @property
    def follows_poses(self) -> bool:
        """True if a ControlNet follows poses."""
        return OPENPOSE in self.offered_controls

    @property
    def sizes_to_compile(self) -> list[tuple[int, int]]:
        """(width, height) in pixels."""
        return [(int(width), int(height)) for width, height in (size.split("x") for size in self.compile_sizes)]


class BatchSettings(BaseModel):
    """Limits of the batch that rows share on the device."""

    model_config = SECTION

    max_rows: int = Field(
        default=8, ge=1, le=256, description="Images that may share a step; the measured curve may set less."
    )
    linger_ms: int = Field(
        default=5,
        ge=0,
        le=10_000,
        description="How long an empty device waits for company. A row can join at every step, so more than about a "
        "step only adds latency.",
    )
    backlog_s: float = Field(
        default=10.0,
        ge=0,
        le=86_400,
        description="Device seconds of waiting work above which throughput counts more than latency: batches grow to "
        "the size of the best measured throughput, and shrink again when the backlog is gone. On devices where batches "
        "gain little, images then finish later one by one and sooner in all. A large number never does so.",
    )
    calibrate_s: float = Field(
        default=10.0,
        ge=0,
        le=3_600,
        description="How long a start may measure the device where no stored profile fits: a data-centre GPU needs "
        "about so long for eight SDXL images. 0 never measures, and max_rows is the cap of every size.",
    )
    fidelity_default: Literal["exact", "economy"] = Field(
        default="exact",
        description="The fidelity of requests that leave theirs out. economy needs a model with SDXL's UNet: with "
        "another one the worker does not start.",
    )


class SimulatedSettings(BaseModel):
    """The simulated device, for benches, chaos tests and planning."""

    model_config = SECTION

    step_ms: float | None = Field(
        default=None, ge=0, le=600_000, description="Sleep so long for each step instead of rendering; null: render."
    )
    curve_file: Path | None = Field(
        default=None, description="JSON of milliseconds a step by rows, as `darkroom calibrate` writes it."
    )
    profile_file: Path | None = Field(
        default=None,
        description="In place of both: a profile as `darkroom calibrate` writes it, whose guided, unguided and posed "
        "rows take what they were measured to take.",
    )
    obey_markers: bool = Field(
        default=False,
        description="Let prompts with [[simulate:...]] markers make the device fail or crash, for chaos tests.",
    )

    @property
    def is_asked_for(self) -> bool:
        """Return whether a simulated device takes the real one's place."""
        return not (self.step_ms is None and self.curve_file is None and self.profile_file is None)

    @model_validator(mode="after")
    def _one_source(self) -> SimulatedSettings:
        if self.profile_file is not None and (self.step_ms is not None or self.curve_file is not None):
            raise ValueError("profile_file says what a step takes: leave step_ms and curve_file out")
        return self


class LimitSettings(BaseModel):
    """Limits of what a request may ask for and of what a worker may hold."""

    model_config = SECTION

    min_side: int = Field(default=64, ge=16, le=4096, description="The smallest width and height in pixels.")
    max_width: int = Field(default=2048, ge=16, le=4096, description="The largest width in pixels.")
    max_height: int = Field(default=2048, ge=16, le=4096, description="The largest height in pixels.")
    max_pixels: int = Field(
        default=4_194_304, ge=256, le=16_777_216, description="The largest width x height: four megapixels."
    )
    max_count: int = Field(default=8, ge=1, le=8, description="Images of one request.")
    max_steps: int = Field(default=150, ge=1, le=150, description="Denoising steps of one request.")
    request_bytes_max: int = Field(
        default=MIB, ge=1_024, le=32 * MIB, description="The largest request value that is read."
    )
    pose_picture_bytes_max: int = Field(
        default=16 * MIB,
        ge=1_024,
        le=256 * MIB,
        description="The largest picture file of a request, for its pose, a control, a start or a mask: a JPEG of 48 "
        "million pixels has 10-15 MiB.",
    )
    pose_picture_pixels_max: int = Field(
        default=16_777_216,
        ge=256,
        le=268_435_456,
        description="Its largest width x height, before it is decoded. A JPEG that is not progressive may have 16 "
        "times as many, and 89 million at the most: it is decoded at a half or a quarter.",
    )
    finished_bytes_max: int = Field(
        default=256 * MIB,
        ge=MIB,
        le=64 * 1024 * MIB,
        description="Pictures held while the store or Kafka is away, before rendering stops.",
    )
    adapter_cache_bytes: int = Field(
        default=GIB,
        ge=MIB,
        le=64 * GIB,
        description="LoRAs kept on the device; about six of SDXL's of rank 32 in fp16. Each must fit by itself.",
    )


class WorkerSettings(BaseModel):
    """One worker process."""

    model_config = SECTION

    name: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}"[:200],
        min_length=1,
        max_length=200,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="The name in completions and logs, of A-Za-z0-9._-; host name and process id when not set.",
    )
    drain_s: float = Field(
        default=30.0,
        ge=0,
        le=3_600,
        description="How long SIGTERM lets rows on the device finish; the pod's grace period must be above it.",
    )
    metrics_port: int = Field(
        default=9464, ge=0, le=65_535, description="The port of /livez, /readyz and /metrics; 0 takes a free one."
    )
    metrics_host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="The address they listen on: loopback, until somebody decides who may read them. Containers set "
        "0.0.0.0.",
    )
    usd_per_device_hour: float = Field(
        default=0.0, ge=0, le=10_000, description="The price of an hour of the device, for the cost in completions."
    )
    backoff_ms_max: int = Field(
        default=15_000,
        ge=200,
        le=600_000,
        description="The longest wait after the store or Kafka failed, from 200 ms on: how late a recovery may be "
        "noticed.",
    )
    pod_name: str | None = Field(
        default=None,
        max_length=253,
        pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
        description="In Kubernetes: this pod's name. An idle worker then lowers its pod's deletion cost, so that a "
        "fleet which shrinks loses idle workers first. Needs a service account that may patch pods.",
    )
    pod_credentials_dir: Path = Field(
        default=Path("/var/run/secrets/kubernetes.io/serviceaccount"),
        description="Where the pod's service account is mounted: token, namespace and ca.crt.",
    )
    max_attempts: int = Field(
        default=3,
        ge=1,
        le=5,
        description="How often a request may fail by itself, or its worker crash with it alone, before it is failed.",
    )


class LogSettings(BaseModel):
    """Level and format of the log on stderr."""

    model_config = SECTION

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The least that is logged.")
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="json for machines, console for people; auto: console on a terminal, else json."
    )
