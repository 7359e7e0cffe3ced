"""Runs every kernel once and compiles every static shape between loading and being ready.

So no request pays for a first run, and none waits for a compiler.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import structlog
from PIL import Image

from darkroom.inference.planning.reuse import MEASURED_CALLS
from darkroom.inference.sdxl.denoise.compiled import Backend, CompiledRegions, StaticShapes, slot_buckets
from darkroom.inference.sdxl.denoise.rows import SdxlRow
from darkroom.inference.sdxl.denoise.schedule import DEFAULT_SAMPLER
from darkroom.inference.sdxl.faults import is_out_of_memory
from darkroom.inference.sdxl.model import LoadedModel
from darkroom.inference.types import ModelInfo, RenderJob, RenderRequest
from darkroom.schemas.events.controls import OPENPOSE, Control
from darkroom.schemas.events.pose import InlinePicture, PeoplePose

_log = structlog.get_logger(__name__)

_WARMED: Final = (DEFAULT_SAMPLER, "dpmpp_2m")
"""One sampler for each formula of a step."""

_SLOPE_SIDE_PX: Final = 64
_PERSON: Final = PeoplePose(people=(tuple((0.3 + 0.02 * point, 0.05 * point) for point in range(18)),))


def warm_up(model: LoadedModel) -> None:
    """Render a few one-step pictures from end to end that together use every part of the model.

    One row at a time, so that a card that holds no more than one row can start, too. An economy picture takes two
    steps, a full one and a shallow one, and is given up.
    """
    info = model.components.info
    for request in _requests(model):
        _render(model, request)
    if info.economy_refused is None:
        economy = _step_once(model, replace(_controlled(model), fidelity="economy", steps=MEASURED_CALLS))
        model.step(economy)
    forget(model)


def compile_regions(
    model: LoadedModel, *, sizes: Sequence[tuple[int, int]], rows_max: int, backend: Backend = "inductor"
) -> None:
    """Compile the networks' repeated blocks for pictures of these (width, height), up to `rows_max` rows in a step.

    If compiling fails, the model stays unchanged and the log says why: compiling is an optimisation, never required.
    """
    factor = model.components.info.latent_factor
    shapes = StaticShapes([(height // factor, width // factor) for width, height in sizes], slot_buckets(rows_max))
    plain = model.networks
    compiled = [plain.unet, *plain.controlnets]
    regions = CompiledRegions(compiled, shapes_max=len(sizes) * len(shapes.buckets), backend=backend)
    model.run_with(replace(plain, shapes=shapes, regions=regions))
    done: list[int] = []
    try:
        for bucket in shapes.buckets:
            for width, height in sizes:
                _step_once(model, replace(_controlled(model), width=width, height=height, count=bucket // 2))
            done.append(bucket)
    # A compiler can fail in countless ways; everything that it changed is undone.
    except Exception as error:
        if done and is_out_of_memory(error):
            shapes = StaticShapes(shapes.latent_sizes, done)
            model.run_with(replace(plain, shapes=shapes, regions=regions))
        else:
            regions.give_up()
            model.run_with(plain)
            _log.warning("not_compiled", reason=f"{type(error).__name__}: {str(error)[:500]}", remedy="running eagerly")
            return
    finally:
        forget(model)
    regions.seal()
    _log.info("compiled", blocks=regions.count, sizes=list(sizes), buckets=list(shapes.buckets))


def forget(model: LoadedModel) -> None:
    """Empty the caches: their entries will not be used again, and their counts are for requests alone."""
    model.texts.reset()
    model.poses.reset()


def _render(model: LoadedModel, request: RenderRequest) -> None:
    rows = _step_once(model, request)
    with model.finish_stream.entered():
        model.finish(rows)


def _step_once(model: LoadedModel, request: RenderRequest) -> Sequence[SdxlRow]:
    with model.prepare_stream.completed():
        rows = model.prepare(RenderJob(job_id="warm-up", request=request)).rows
    model.step(rows)
    return rows


def _plain(info: ModelInfo) -> RenderRequest:
    return RenderRequest(
        prompt="warm up",
        negative_prompt="",
        width=info.native_width,
        height=info.native_height,
        steps=1,
        guidance_scale=5.0,
        sampler=DEFAULT_SAMPLER,
        seed=0,
    )


def _controlled(model: LoadedModel) -> RenderRequest:
    """Return a request whose controls use every ControlNet."""
    info, followers = model.components.info, model.components.followers
    used = {followers[OPENPOSE]} if info.takes_pose else set()
    kinds = {place: kind for kind, place in followers.items() if place not in used}
    picture = _slope()
    controls = tuple(Control(kind=kind, image=picture) for kind in kinds.values())
    return replace(_plain(info), pose=_PERSON if info.takes_pose else None, controls=controls)


def _slope() -> InlinePicture:
    """Return a small picture of more than one colour."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((_SLOPE_SIDE_PX, _SLOPE_SIDE_PX)).save(file, "PNG")
    return InlinePicture(inline=base64.b64encode(file.getvalue()).decode())


def _requests(model: LoadedModel) -> list[RenderRequest]:
    requests = [replace(_plain(model.components.info), sampler=sampler) for sampler in _WARMED]
    return [*requests, _controlled(model)] if model.components.followers else requests
