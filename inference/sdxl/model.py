"""A loaded model with its caches, schedules and streams: turns jobs into rows and rows into pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
import structlog
import torch
from PIL import Image

from darkroom.inference.contract import PreparedRows
from darkroom.inference.marks import text_of
from darkroom.inference.pose.annotation import control_contents
from darkroom.inference.pose.picture import PictureLimits
from darkroom.inference.preview import encode_preview
from darkroom.inference.resolve import batch_key, control_unavailable, name_adapters
from darkroom.inference.sdxl.denoise.adapters import AdapterBank
from darkroom.inference.sdxl.denoise.reuse import ReusePlan, ShallowNetwork, plan_reuse
from darkroom.inference.sdxl.denoise.rows import Control, Guidance, Inpaint, SdxlRow, draw_noise
from darkroom.inference.sdxl.denoise.schedule import Schedule, Schedules
from darkroom.inference.sdxl.denoise.step import Networks, Stepper
from darkroom.inference.sdxl.finish.pictures import decode_latents, encode_picture
from darkroom.inference.sdxl.finish.projection import Projection, fit_projection
from darkroom.inference.sdxl.loading.components import Components
from darkroom.inference.sdxl.loading.lora_names import UNET
from darkroom.inference.sdxl.loading.placement import residence_of
from darkroom.inference.sdxl.measure import measure_part
from darkroom.inference.sdxl.prepare.conditions import TextConditioner, TextStyle, text_warnings, time_ids
from darkroom.inference.sdxl.prepare.poses import Conditioning, PoseConditioner
from darkroom.inference.sdxl.prepare.starts import Masked, Moments, StartEncoder
from darkroom.inference.sdxl.streams import LaneStream
from darkroom.inference.types import (
    FaultKind,
    Lane,
    Part,
    Preview,
    RenderedImage,
    RenderFault,
    RenderJob,
    RenderRequest,
    RowId,
    Series,
)
from darkroom.inference.watermark import marked
from darkroom.schemas.events.completion import PromptRead
from darkroom.schemas.events.controls import OPENPOSE
from darkroom.schemas.prompts.embeddings import WEIGHTED, embeddings_in

INIT_CACHE_BYTES_MAX: Final = 32 * 1024 * 1024
"""Room for what the VAE reads in sixty pictures at 1024 x 1024, on the host."""

_log = structlog.get_logger(__name__)


class LoadedModel:
    """The state of `SdxlDevice` between `load` and `close`."""

    def __init__(
        self, components: Components, prompt_cache_bytes_max: int, pose_cache_bytes_max: int, limits: PictureLimits
    ) -> None:
        device, dtype = components.device, components.dtype
        self.components = components
        self.texts = TextConditioner(
            components.tokenizers,
            components.text_encoders,
            device=device,
            dtype=dtype,
            zeros_for_no_text=components.zeros_for_no_text,
            cache_bytes_max=prompt_cache_bytes_max,
        )
        self.poses = PoseConditioner(
            components.encoders,
            device=device,
            dtype=dtype,
            limits=limits,
            cache_bytes_max=pose_cache_bytes_max,
            detector=components.detector,
        )
        self.adapters = components.adapters
        self.info = components.info
        """With the adapters as they are now. Replaced, never changed."""
        self.schedules = Schedules(components.scheduler_config)
        self.networks = Networks(
            unet=components.unet,
            controlnets=tuple(components.controlnets.values()),
            adapters=AdapterBank(UNET, components.unet),
            prediction=components.scheduler_config.get("prediction_type", "epsilon"),
            device=device,
            dtype=dtype,
            shallow=ShallowNetwork(components.unet) if components.info.economy_refused is None else None,
        )
        self.stepper = Stepper(self.networks)
        self._residence = residence_of(components.placement, components.networks())
        # Lanes that take turns share one stream, so that memory freed by one can be used by the other at once.
        series, vae_device = components.placement.plan.layout.series, components.placement.device_of(Lane.FINISH)
        self.prepare_stream = self.stepper.stream if series is Series.ALL else LaneStream(device)
        self.finish_stream = (
            self.stepper.stream if series is not Series.NONE and vae_device == device else LaneStream(vae_device)
        )
        self.starts = StartEncoder(
            components.vae,
            limits=limits,
            cache_bytes_max=INIT_CACHE_BYTES_MAX,
            tiled_above_pixels=components.placement.plan.vae_tiled_above_pixels,
            enter=lambda: self.enter(Lane.FINISH),
        )
        self._projection: Projection | None = None

    def run_with(self, networks: Networks) -> None:
        """Use these networks for all further steps. Must not be called during a step."""
        self.networks = networks
        self.stepper = Stepper(networks, self.stepper.stream)

    def refresh_adapters(self) -> bool:
        """Look for changed adapters, as `Device.refresh_adapters`."""
        if not self.adapters.refresh():
            return False
        adapters = self.adapters
        self.info = replace(
            self.info,
            adapters=adapters.digests,
            embeddings=adapters.embeddings,
            adapters_refused=adapters.refused,
        )
        return True

    def prepare(self, job: RenderJob) -> PreparedRows[SdxlRow]:
        """Make a job's rows: image i from seed + i. The rows share everything but generator and latents."""
        self.enter(Lane.PREPARE)
        request = job.request
        components = self.components
        if request.width % components.info.size_multiple or request.height % components.info.size_multiple:
            raise RenderFault(
                FaultKind.REQUEST,
                "invalid_request",
                f"{request.width} x {request.height} pixels: this model paints multiples of "
                f"{components.info.size_multiple}.",
            )
        schedule = self.schedules.get(request.sampler, request.steps, request.schedule, skipped=request.steps_skipped)
        self.adapters.unload_gone()
        adapters = tuple(self.adapters.get(use) for use in request.adapters)
        named = embeddings_in(request.prompt, request.negative_prompt, request.prompt_syntax)
        embeddings = {name: self.adapters.get_embedding(name) for name in named}
        digests = {adapter.name: adapter.digest for adapter in adapters}
        digests |= {name: embedding.digest for name, embedding in embeddings.items()}
        if digests:
            request = replace(request, image_text=name_adapters(request.image_text, digests))
        style = TextStyle(request.prompt_syntax == WEIGHTED, request.clip_skip)
        text = self.texts.embed(request.prompt, adapters, style, embeddings)
        # As in diffusers, guidance is off at 1 and below, and then there is no negative prompt.
        negative = None
        if request.guidance_scale > 1:
            negative = self.texts.embed_negative(request.negative_prompt, text, adapters, style, embeddings)
        controls, conditionings = self._controls(job)
        ids = time_ids(width=request.width, height=request.height, device=components.device, dtype=components.dtype)
        warnings = text_warnings("prompt", text)
        if negative is not None:
            warnings += text_warnings("negative prompt", negative)
        warnings += [one.warning for one in conditionings if one.warning is not None]
        guidance = Guidance(
            request.guidance_scale, request.guidance_start, request.guidance_end, request.guidance_rescale
        )
        reuse = None
        if request.fidelity == "economy":
            reuse = self._reuse(request.sampler, schedule, controls, guidance if negative is not None else None)
            if reuse is None:
                warnings.append(
                    f"fidelity: economy saves nothing with {request.sampler} at {request.steps} steps: "
                    "the picture is the exact one."
                )
        start = masked = None
        if request.init is not None:
            # Last, because it may take the text encoders' place on the device.
            size = {"width": request.width, "height": request.height}
            start = self.starts.read(request.init, job.pictures.get("init"), **size)
            if request.mask is not None:
                factor = components.info.latent_factor
                masked = self.starts.masked(request.mask, request.init, job.pictures, **size, factor=factor)
        rows = []
        for index in range(request.count):
            generator = torch.Generator("cpu").manual_seed(request.seed + index)
            latents, inpaint = self._first_latents(request, schedule, generator, start, masked)
            rows.append(
                SdxlRow(
                    row_id=RowId(job.job_id, index),
                    batch_key=batch_key(request, components.info),
                    request=request,
                    seed=request.seed + index,
                    schedule=schedule,
                    text=text,
                    negative=negative,
                    time_ids=ids,
                    controls=controls,
                    guidance=guidance,
                    reuse=reuse,
                    generator=generator,
                    latents=latents,
                    inpaint=inpaint,
                    wants_preview=job.progress == "previews" and index == 0,
                    adapters=adapters,
                )
            )
        return PreparedRows(
            rows=tuple(rows),
            warnings=tuple(dict.fromkeys(warnings)),
            found=tuple(person for one in conditionings for person in one.found),
            adapters=digests,
            prompt=PromptRead(tokens=text.tokens_read, chunks=text.chunks),
        )

    def step(self, rows: Sequence[SdxlRow]) -> None:
        """Take one denoising step with rows of one size."""
        self.enter(Lane.DENOISE)
        self.stepper.take(rows)

    def finish(self, rows: Sequence[SdxlRow]) -> tuple[RenderedImage | RenderFault, ...]:
        """Return the pictures of complete rows of one size, or a fault in a picture's place."""
        self.enter(Lane.FINISH)
        vae, latents = self.components.vae, self._brought([(row.latents, row.ready) for row in rows])
        # Tiles change a picture slightly at their seams, so the picture's size alone decides. diffusers by itself would
        # go by the longer side, and tile pictures of SDXL's own sizes, such as 1152 x 896.
        pixels = rows[0].request.width * rows[0].request.height
        vae.use_tiling = pixels > self.components.placement.plan.vae_tiled_above_pixels
        return tuple(
            picture if isinstance(picture, RenderFault) else _encoded(picture, row)
            for picture, row in zip(decode_latents(vae, latents), rows, strict=True)
        )

    def measure(self, part: Part, latent_height: int, latent_width: int, count: int) -> float:
        """Time a part, as `Device.measure`. Weights that move with turns are brought to the device before the timing
        starts."""
        lane, stream = (Lane.FINISH, self.finish_stream) if part is Part.DECODE else (Lane.DENOISE, self.stepper.stream)
        self.enter(lane)
        with stream.completed():
            return measure_part(part, self.components, self.networks, latent_height, latent_width, count)

    def enter(self, lane: Lane) -> None:
        """Bring the lane's networks to the device, if they move with its turns."""
        if self._residence is not None:
            with self.stepper.stream.entered():
                self._residence.enter(lane)

    def preview(self, row: SdxlRow) -> Preview | None:
        """Return the picture that the row's last step predicts; None before the first step."""
        predicted = row.predicted
        if predicted is None:
            return None
        latents = self._brought([(predicted.latents, predicted.ready)])
        if self._projection is None:
            self._projection = fit_projection(self.components.vae, device=latents.device)
            _log.info("preview_projection", variance_explained=round(self._projection.explained, 3))
        picture = self._projection.picture(latents)
        return None if picture is None else Preview(encode_preview(picture), predicted.steps_done)

    def _brought(self, parts: Sequence[tuple[torch.Tensor, torch.cuda.Event | None]]) -> torch.Tensor:
        """Join latents on the VAE's device. Each comes with the mark after which a GPU has computed them."""
        vae_device = self.components.placement.device_of(Lane.FINISH)
        for latents, ready in parts:
            if vae_device == self.components.device:
                self.finish_stream.read([latents], after=ready)
            elif ready is not None:
                # A copy between devices runs on the first device, where this lane has no stream that could wait.
                ready.synchronize()
        return torch.cat([latents for latents, _ in parts]).to(vae_device)

    def _controls(self, job: RenderJob) -> tuple[tuple[Control, ...], list[Conditioning]]:
        """Return the controls of the job's rows, the pose's first, and the conditionings that they were made from."""
        request, followers, tasks = job.request, self.components.followers, self.components.tasks
        size = {"width": request.width, "height": request.height}
        controls, conditionings = [], []
        if request.pose is not None:
            if OPENPOSE not in followers:
                raise RenderFault(
                    FaultKind.REQUEST,
                    "model_mismatch",
                    "The request has a pose and this worker's model has no ControlNet for one: "
                    "leave the pose out, or send it to workers that were started with one.",
                )
            place = followers[OPENPOSE]
            made = self.poses.embed(request.pose, job.pictures.get("pose"), **size, controlnet=place)
            conditionings.append(made)
            window = request.control_scale, request.control_start, request.control_end
            controls.append(Control(made.embedding, *window, place, tasks.get(OPENPOSE)))
        for field, control, content in control_contents(job):
            if control.kind not in followers:
                raise RenderFault(
                    FaultKind.REQUEST,
                    "control_unavailable",
                    f"{field}: {control_unavailable(control.kind, self.info)}.",
                )
            place = followers[control.kind]
            made = self.poses.embed_picture(control.kind, content, field=field, **size, controlnet=place)
            conditionings.append(made)
            window = control.scale, control.start, control.end
            controls.append(Control(made.embedding, *window, place, tasks.get(control.kind)))
        return tuple(controls), conditionings

    def _reuse(
        self, sampler: str, schedule: Schedule, controls: tuple[Control, ...], guidance: Guidance | None
    ) -> ReusePlan | None:
        """Return what an economy row's calls reuse; None if all of them have to be full. Without guidance, None."""
        reason = self.components.info.economy_refused
        if reason is not None:
            raise RenderFault(
                FaultKind.REQUEST,
                "model_mismatch",
                f"fidelity is economy, which this model cannot take: {reason}; ask for exact.",
            )
        calls = range(schedule.calls)
        return plan_reuse(
            sampler,
            [tuple(control.weight(call, schedule.calls) for control in controls) for call in calls],
            [guidance is not None and guidance.is_on(call, schedule.calls) for call in calls],
        )

    def _first_latents(
        self,
        request: RenderRequest,
        schedule: Schedule,
        generator: torch.Generator,
        start: Moments | None,
        masked: Masked | None,
    ) -> tuple[torch.Tensor, Inpaint | None]:
        """Draw (1, channels, height, width) noise, rounded to the model's dtype and then scaled, as in diffusers.

        From `start` the row's latents are drawn first and the noise after them, and both are added up; at strength 1
        (of a mask) the noise stands alone.
        """
        components = self.components
        device, dtype, factor = components.device, components.dtype, components.info.latent_factor
        shape = (1, components.unet.config.in_channels, request.height // factor, request.width // factor)
        known = None if start is None else start.drawn(partial(draw_noise, generator))
        noise = draw_noise(generator, shape).to(device, dtype)
        if known is None or request.init is None:
            return noise * schedule.init_sigma, None
        of_picture, of_noise = schedule.noising(0)
        known = self.starts.scaled(known.to(device, dtype))
        is_noise = request.init.strength == 1
        latents = noise * schedule.init_sigma if is_noise else of_picture * known + of_noise * noise
        if masked is None:
            return latents, None
        if start is not None and start.deviation is not None:
            # diffusers' pipelines encode the masked picture here, and use it for UNets of nine channels alone.
            draw_noise(generator, shape)
        return latents, Inpaint(masked.latent_mask.to(device, dtype), known, noise, masked.overlay)


def _encoded(picture: Image.Image, row: SdxlRow) -> RenderedImage:
    if row.inpaint is not None and row.inpaint.overlay is not None:
        picture = row.inpaint.overlay.over(picture)
    if row.request.watermark:
        picture = Image.fromarray(marked(np.asarray(picture)))
    return encode_picture(
        picture,
        image_format=row.request.image_format,
        quality=row.request.image_quality,
        seed=row.seed,
        text=text_of(row.request, row.seed),
    )
