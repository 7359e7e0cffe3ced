"""Decides what a model predicts and on which noise schedule, from its weights and its scheduler's class.

A UNet that was trained to predict v raises no error when it is sampled as if it predicted noise; its pictures are
wrong. Single files state their prediction by empty tensors at the top level, a convention of trainers and ComfyUI:
`v_pred`, and also `ztsnr` if the schedule ends in pure noise (Lin et al. 2023, "Common Diffusion Noise Schedules and
Sample Steps are Flawed": zero terminal SNR, timesteps counted from the end), `edm_*` for EDM. Some say it in their
metadata (ModelSpec, `modelspec.prediction_type`). The configuration folder used with such a file is most often SDXL
base's, so the file takes precedence over the folder. A model that this package cannot sample is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import diffusers
import structlog
import torch
from diffusers import SchedulerMixin

from darkroom.inference.sdxl.denoise.schedule import Schedules
from darkroom.inference.sdxl.denoise.step import PREDICTIONS
from darkroom.inference.sdxl.loading.headers import Header, read_json
from darkroom.inference.types import ModelError, Prediction

_log = structlog.get_logger(__name__)

_V, _ZERO_SNR = "v_pred", "ztsnr"
MARKS: Final = (_V, _ZERO_SNR)
"""Tensors that are not weights but say how the model is sampled."""
_UNET_PREFIX: Final = "model.diffusion_model."
_EDM_MARKS: Final = ("edm_mean", "edm_std", "edm_vpred.")
_FILE_PREDICTIONS: Final = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
}
"""`modelspec.prediction_type` as trainers write it."""
_DISCRETE: Final = frozenset(
    {
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "DDIMScheduler",
        "DDIMParallelScheduler",
        "DDPMScheduler",
        "DDPMParallelScheduler",
        "PNDMScheduler",
        "LMSDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "DPMSolverSDEScheduler",
        "DEISMultistepScheduler",
        "UniPCMultistepScheduler",
        "SASolverScheduler",
    }
)
"""Schedulers whose configuration describes the betas of a variance-preserving model, as Euler's samplers use them."""
_FEW_STEPS: Final = "a model that was distilled to few steps, which these samplers would paint wrongly"
_OTHER_SCHEDULERS: Final = (
    ("Flow", "flow matching"),
    ("RFScheduler", "flow matching"),
    ("EDM", "EDM, which scales the latents in another way"),
    ("CosineDPMSolver", "EDM, which scales the latents in another way"),
    ("LCM", _FEW_STEPS),
    ("TCD", _FEW_STEPS),
    ("CMStochasticIterative", _FEW_STEPS),
)
_USE: Final = "use an SDXL model that predicts noise or v"
_TRIED: Final = ("euler_ancestral", "euler")
"""Samplers that a schedule is tried with at the start: all others read the same configuration."""
_TRIAL_STEPS: Final = 20
"""Steps of the schedule that every sampler makes at the start: a rule that diffusers refuses ends the start, not a
request."""


def read_scheduler(folder: Path) -> Mapping[str, Any]:
    """Return a scheduler's configuration, completed with its class's defaults.

    Raises `ModelError` for a scheduler of another parameterisation. The loader's own exceptions pass through.
    """
    file = folder / "scheduler_config.json"
    name = read_json(file).get("_class_name")
    if not isinstance(name, str):
        raise ModelError(f"{file} does not say which scheduler it is of (_class_name): copy the model again.")
    kind = getattr(diffusers, name, None)
    if name not in _DISCRETE or kind is None or not issubclass(kind, SchedulerMixin):
        what = next((what for mark, what in _OTHER_SCHEDULERS if mark in name), None)
        raise ModelError(
            f"{file} names the scheduler {name}, {'which is not known here' if what is None else f'of {what}'}: {_USE}."
        )
    # Loaded by the model's own class, so that missing settings get that class's defaults.
    config: Mapping[str, Any] = kind.from_pretrained(folder, local_files_only=True).config
    if config.get("use_flow_sigmas") or config.get("timestep_type", "discrete") != "discrete":
        setting = "use_flow_sigmas" if config.get("use_flow_sigmas") else "timestep_type"
        raise ModelError(
            f"{file} says {setting} = {config[setting]!r}, which is flow matching or EDM and not known here: {_USE}."
        )
    return config


def parameterise(
    scheduler: Mapping[str, Any], header: Header, weights: Path, folder: Path
) -> tuple[Mapping[str, Any], Prediction]:
    """Return the scheduler's configuration, overridden by what the UNet's weights state, and the resulting prediction.

    `header` is that of the UNet's files in `weights`; `folder` is the scheduler's. Marks take precedence over metadata,
    and metadata that says v over the folder. Raises `ModelError` for EDM, flow matching, and a schedule that cannot be
    sampled.
    """
    marks = {name.removeprefix(_UNET_PREFIX) for name in header.shapes}
    edm = next((name for name in sorted(marks) if name.startswith(_EDM_MARKS)), None)
    if edm is not None:
        raise ModelError(
            f"The weights in {weights} are of an EDM model (their tensor {edm} says so), which scales the latents in "
            f"another way and is not supported: {_USE}."
        )
    own, source = scheduler.get("prediction_type", "epsilon"), str(folder)
    prediction = own
    says = _file_prediction(header.metadata, weights)
    if _V in marks:
        prediction, source = "v_prediction", f"the tensor {_V} in {weights}"
    elif says == "v_prediction" and own != says:
        prediction, source = says, f"modelspec.prediction_type of {weights}"
    if prediction not in PREDICTIONS:
        raise ModelError(
            f"{folder / 'scheduler_config.json'} says prediction_type {prediction!r}, known are "
            f"{' and '.join(PREDICTIONS)}: {_USE}."
        )
    changes: dict[str, Any] = {} if prediction == own else {"prediction_type": prediction}
    if _ZERO_SNR in marks:
        if prediction != "v_prediction":
            raise ModelError(
                f"The weights in {weights} have the tensor {_ZERO_SNR} (zero terminal SNR) and nothing says that they "
                f"predict v, without which it cannot be sampled: set prediction_type to v_prediction in "
                f"{folder / 'scheduler_config.json'}, or take the tensor out where it was left by mistake."
            )
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        source = source if _V in marks else f"the tensor {_ZERO_SNR} in {weights}"
    changes = {key: value for key, value in changes.items() if scheduler.get(key) != value}
    if changes:
        _log.warning("prediction_of_the_weights", weights=str(weights), config=str(folder), instead=changes)
    elif says == "epsilon" and prediction != says:
        _log.warning("prediction_differs", weights=str(weights), modelspec=says, in_force=prediction, source=source)
    config = {**scheduler, **changes}
    _try(config, folder)
    return config, Prediction(
        kind=prediction,
        zero_terminal_snr=bool(config.get("rescale_betas_zero_snr", False)),
        timestep_spacing=str(config.get("timestep_spacing", "linspace")),
        source=source,
    )


def _file_prediction(metadata: Mapping[str, str], weights: Path) -> str | None:
    """Return the prediction in ModelSpec's metadata; None if there is none."""
    written = metadata.get("modelspec.prediction_type")
    architecture = metadata.get("modelspec.architecture", "")
    if written is not None and written.lower() not in _FILE_PREDICTIONS:
        raise ModelError(
            f"The metadata of {weights} say modelspec.prediction_type = {written!r}, known are epsilon and v: {_USE}."
        )
    if "flow" in architecture.lower():
        raise ModelError(
            f"The metadata of {weights} say modelspec.architecture = {architecture!r}, which is flow matching and not "
            f"supported: {_USE}."
        )
    return None if written is None else _FILE_PREDICTIONS[written.lower()]


def _try(config: Mapping[str, Any], folder: Path) -> None:
    schedules = Schedules(config)
    steps = min(_TRIAL_STEPS, int(config.get("num_train_timesteps", _TRIAL_STEPS)))
    for sampler in _TRIED:
        try:
            is_finite = bool(torch.isfinite(schedules.get(sampler, steps).table).all())
        # diffusers raises many exception types for rules that it does not have.
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise ModelError(
                f"The noise schedule in {folder / 'scheduler_config.json'} cannot be sampled by {sampler} ({reason}): "
                "name the model's own scheduler folder, or copy it again."
            ) from error
        if not is_finite:
            raise ModelError(
                f"The noise schedule in {folder / 'scheduler_config.json'} has steps that are not finite: copy the "
                "model's own scheduler folder again."
            )
