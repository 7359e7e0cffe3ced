"""Models as other tools save them: what they predict, what they lack, and networks that only look like SDXL's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from darkroom.inference.sdxl import ModelFiles, SdxlDevice
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import ModelError
from tests.inference.checkpoints import Tensors, vae_tensors, write_checkpoint
from tests.inference.painting import PLAIN, TOLERANCE, Oracle, distance, paint, variant
from tests.strangers.table import Stranger, rows

pytestmark = pytest.mark.render

SCHEDULER = "model/scheduler/scheduler_config.json"
EMPTY = torch.tensor([])
VISIBLE = 8
"""Of 255: more than any rounding."""
ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@pytest.fixture(scope="module")
def configs(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder without weights, as SDXL base's configurations lie beside somebody's checkpoint."""
    folder = tmp_path_factory.mktemp("configs") / "model"
    shutil.copytree(tiny.path, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def loaded(files: ModelFiles) -> SdxlDevice:
    device = SdxlDevice(lambda: files, device="cpu", dtype="float32", cpu_threads=1)
    device.load()
    return device


def refusal(files: ModelFiles) -> str:
    with pytest.raises(ModelError) as caught:
        loaded(files)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


# --- What the weights predict ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Marked:
    """What a single file says of itself, and what the configuration folder beside it says."""

    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str] | None = None
    config: Mapping[str, Any] | None = None


V_PREDICTIONS: list[Stranger[Marked, dict[str, Any]]] = [
    Stranger("v with zero terminal SNR", "NoobAI-XL V-Pred 1.0", Marked({"v_pred": EMPTY, "ztsnr": EMPTY}), ZERO_SNR),
    Stranger("v", "ComfyUI 0.3 ModelSamplingDiscrete", Marked({"v_pred": EMPTY}), {"prediction_type": "v_prediction"}),
    Stranger(
        "v in the metadata",
        "sd-scripts 0.9.1 with --v_parameterization",
        Marked({}, {"modelspec.prediction_type": "v", "modelspec.architecture": "stable-diffusion-xl-v1-base"}),
        {"prediction_type": "v_prediction"},
    ),
    Stranger(
        "v marked in the file and noise in its metadata, which a merge kept",
        "sd-scripts 0.9.1",
        Marked({"v_pred": EMPTY, "ztsnr": EMPTY}, {"modelspec.prediction_type": "epsilon"}),
        ZERO_SNR,
    ),
    Stranger(
        "v in the folder and zero terminal SNR in the file",
        "diffusers 0.42.1",
        Marked({"ztsnr": EMPTY}, None, {"prediction_type": "v_prediction"}),
        ZERO_SNR,
    ),
    Stranger(
        "v in the folder and noise in the metadata, which trainers write by default",
        "sd-scripts 0.9.1",
        Marked({}, {"modelspec.prediction_type": "epsilon"}, {"prediction_type": "v_prediction"}),
        {"prediction_type": "v_prediction"},
    ),
]


def marked_files(tiny: TinyModel, folder: Path, given: Marked) -> ModelFiles:
    file = folder / "marked.safetensors"
    write_checkpoint(tiny.path, file, lambda tensors: tensors.update(given.tensors))
    save_file(load_file(file), file, metadata=dict(given.metadata or {}))
    model = variant(tiny, folder, {SCHEDULER: given.config or {}})
    return ModelFiles(file, config_path=model.path)


@pytest.mark.parametrize("row", rows(V_PREDICTIONS))
def test_what_the_weights_predict_is_painted(
    tiny: TinyModel, tmp_path: Path, row: Stranger[Marked, dict[str, Any]]
) -> None:
    device = loaded(marked_files(tiny, tmp_path, row.given))
    (tmp_path / "oracle").mkdir()
    right = variant(tiny, tmp_path / "oracle", {SCHEDULER: row.right})
    painted = paint(device, PLAIN)
    assert distance(painted, Oracle(right.path, right.controlnet_path).paint(PLAIN)) <= TOLERANCE
    assert distance(painted, Oracle(tiny.path, tiny.controlnet_path).paint(PLAIN)) > VISIBLE
    prediction = device.info.prediction
    assert prediction is not None
    assert prediction.kind == "v_prediction"
    assert prediction.zero_terminal_snr is row.right.get("rescale_betas_zero_snr", False)
    assert prediction.timestep_spacing == row.right.get("timestep_spacing", "leading")
    device.close()


def test_marks_are_another_revision(tiny: TinyModel, tmp_path: Path) -> None:
    revisions = set()
    for number, tensors in enumerate(({}, {"v_pred": EMPTY}, {"v_pred": EMPTY, "ztsnr": EMPTY})):
        folder = tmp_path / str(number)
        folder.mkdir()
        device = loaded(marked_files(tiny, folder, Marked(tensors)))
        revisions.add(device.info.revision)
        device.close()
    assert len(revisions) == 3


UNSAMPLED: list[Stranger[Marked, str]] = [
    Stranger("EDM", "Playground v2.5", Marked({"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)}), "edm_mean"),
    Stranger("EDM with v", "CosXL 1.0", Marked({"edm_vpred.sigma_max": torch.tensor(120.0)}), "edm_vpred.sigma_max"),
    Stranger("zero SNR and noise", "a merge of NoobAI-XL 1.0", Marked({"ztsnr": EMPTY}), "set prediction_type"),
    Stranger("flow in the metadata", "sd-scripts 0.9", Marked({}, {"modelspec.prediction_type": "flow"}), "'flow'"),
    Stranger(
        "a flow architecture",
        "sd-scripts 0.9",
        Marked({}, {"modelspec.architecture": "stable-diffusion-xl-v1-base-rectified-flow"}),
        "flow matching",
    ),
    Stranger("left over", "supermerger 1.0", Marked({"cosine.mask": torch.ones(3)}), "cosine.mask"),
    *(
        Stranger(name, "diffusers 0.42.1", Marked({}, None, {"_class_name": name}), says)
        for name, says in (
            ("FlowMatchEulerDiscreteScheduler", "flow matching"),
            ("FlowMatchHeunDiscreteScheduler", "flow matching"),
            ("EDMEulerScheduler", "EDM"),
            ("EDMDPMSolverMultistepScheduler", "EDM"),
            ("LCMScheduler", "distilled to few steps"),
            ("TCDScheduler", "distilled to few steps"),
            ("VQDiffusionScheduler", "not known here"),
        )
    ),
    Stranger(
        "EDM's timesteps",
        "diffusers 0.42.1 EulerDiscreteScheduler",
        Marked({}, None, {"timestep_type": "continuous", "prediction_type": "v_prediction", "sigma_max": 700.0}),
        "timestep_type",
    ),
    Stranger(
        "flow sigmas",
        "diffusers 0.42.1 DPMSolverMultistepScheduler",
        Marked({}, None, {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}),
        "use_flow_sigmas",
    ),
    Stranger("a picture", "diffusers 0.42.1", Marked({}, None, {"prediction_type": "sample"}), "'sample'"),
    Stranger("a schedule of nobody", "diffusers 0.42.1", Marked({}, None, {"beta_schedule": "laplace"}), "laplace"),
]


@pytest.mark.parametrize("row", rows(UNSAMPLED))
def test_what_cannot_be_sampled_is_refused(tiny: TinyModel, tmp_path: Path, row: Stranger[Marked, str]) -> None:
    assert row.right in refusal(marked_files(tiny, tmp_path, row.given))


# --- What a checkpoint lacks ----------------------------------------------------------------------------


def without(*starts: str) -> Callable[[Tensors], None]:
    def drop(tensors: Tensors) -> None:
        for key in [key for key in tensors if key.startswith(starts)]:
            del tensors[key]

    return drop


LACKING: list[Stranger[Callable[[Tensors], object], str]] = [
    Stranger("no VAE", "sd-scripts 0.9.1 without --vae", without("first_stage_model."), "DARKROOM_MODEL__VAE_PATH"),
    Stranger("a UNet alone", "ComfyUI 0.3 ModelSave", without("first_", "conditioner."), "DARKROOM_MODEL__CONFIG_PATH"),
    Stranger("one encoder", "ComfyUI 0.3", without("conditioner.embedders.0."), "lacks text_encoder,"),
]


@pytest.mark.parametrize("row", rows(LACKING))
def test_what_a_checkpoint_lacks_comes_from_where_the_settings_have_it(
    tiny: TinyModel, configs: Path, tmp_path: Path, row: Stranger[Callable[[Tensors], object], str]
) -> None:
    file = tmp_path / "partial.safetensors"
    write_checkpoint(tiny.path, file, row.given)
    assert row.right in refusal(ModelFiles(file, config_path=configs))
    device, whole = loaded(ModelFiles(file, config_path=tiny.path)), loaded(ModelFiles(tiny.path))
    assert distance(paint(device, PLAIN), paint(whole, PLAIN)) == 0


def test_a_vae_of_its_own_completes_a_checkpoint_and_a_folder(tiny: TinyModel, configs: Path, tmp_path: Path) -> None:
    file, vae = tmp_path / "bare.safetensors", tmp_path / "vae.safetensors"
    write_checkpoint(tiny.path, file, without("first_stage_model."))
    save_file({name: value.contiguous() for name, value in vae_tensors(tiny.path / "vae").items()}, vae)
    folder = variant(tiny, tmp_path, {}).path
    whole = paint(loaded(ModelFiles(tiny.path)), PLAIN)
    for vae_path in (tiny.path / "vae", vae):
        device = loaded(ModelFiles(file, config_path=configs, vae_path=vae_path))
        assert distance(paint(device, PLAIN), whole) == 0
    shutil.rmtree(folder / "vae")
    assert "DARKROOM_MODEL__VAE_PATH" in refusal(ModelFiles(folder))
    assert distance(paint(loaded(ModelFiles(folder, vae_path=tiny.path / "vae")), PLAIN), whole) == 0


def test_the_weights_that_complete_a_checkpoint_are_part_of_its_revision(tiny: TinyModel, tmp_path: Path) -> None:
    file = tmp_path / "bare.safetensors"
    write_checkpoint(tiny.path, file, without("first_stage_model."))
    other = tmp_path / "vae"
    shutil.copytree(tiny.path / "vae", other)
    tensors = load_file(other / "diffusion_pytorch_model.safetensors")
    tensors["decoder.conv_out.bias"] += 0.4
    save_file(tensors, other / "diffusion_pytorch_model.safetensors")
    revisions = [
        loaded(ModelFiles(file, config_path=tiny.path, vae_path=vae)).info.revision
        for vae in (None, tiny.path / "vae", other)
    ]
    assert revisions[0] == revisions[1] != revisions[2]


# --- Networks of another kind ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Network:
    """One network's folder with further tensors and other entries in its configuration."""

    part: str
    config: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]


UNION = {
    "task_embedding": torch.zeros(6, 48),
    "control_add_embedding.linear_1.weight": torch.zeros(48, 48),
    "transformer_layes.0.attn.in_proj_weight": torch.zeros(144, 48),
}
ONE = torch.zeros(1)
KINDS: list[Stranger[Network, str]] = [
    Stranger(
        "union", "diffusers 0.42.1", Network("controlnet", {"_class_name": "ControlNetUnionModel"}, UNION), "union"
    ),
    Stranger("union as plain", "xinsir union-sdxl-1.0", Network("controlnet", {}, UNION), "union ControlNet"),
    Stranger(
        "ControlNet-XS", "diffusers 0.42.1", Network("controlnet", {"_class_name": "ControlNetXSAdapter"}, {}), "XS"
    ),
    Stranger(
        "T2I-Adapter", "diffusers 0.42.1", Network("controlnet", {"_class_name": "T2IAdapter"}, {}), "T2I-Adapter"
    ),
    Stranger(
        "Flux's",
        "diffusers 0.42.1",
        Network("controlnet", {"_class_name": "FluxControlNetModel"}, {}),
        "FluxControlNet",
    ),
    Stranger("LLLite", "sd-scripts 0.9.1", Network("controlnet", {}, {"lllite_unet_a.down.0.weight": ONE}), "LLLite"),
    Stranger("an unknown tensor", "a trainer 1.0", Network("controlnet", {}, {"gate.weight": ONE}), "gate.weight"),
    Stranger(
        "an unknown tensor of the UNet", "a trainer 1.0", Network("unet", {}, {"gate.weight": ONE}), "gate.weight"
    ),
    Stranger("an unknown tensor of the VAE", "a trainer 1.0", Network("vae", {}, {"gate.weight": ONE}), "gate.weight"),
    Stranger(
        "an unknown tensor of an encoder", "a trainer 1.0", Network("text_encoder", {}, {"gate.weight": ONE}), "gate"
    ),
    Stranger("a video UNet", "diffusers 0.42.1", Network("unet", {"_class_name": "UNetMotionModel"}, {}), "video"),
    Stranger(
        "guidance as an input",
        "LCM-SDXL 1.0",
        Network("unet", {}, {"time_embedding.cond_proj.weight": ONE}),
        "time_cond_proj_dim",
    ),
    Stranger("IP-Adapter in the UNet", "a merge 1.0", Network("unet", {}, {"mid.to_k_ip.weight": ONE}), "IP-Adapter"),
    Stranger("scaled fp8", "ComfyUI 0.3", Network("unet", {}, {"conv_in.scale_weight": ONE}), "scaled fp8"),
    Stranger(
        "inpainting", "SDXL inpainting 0.1", Network("unet", {}, {"conv_in.weight": torch.zeros(32, 9, 3, 3)}), "inp"
    ),
    Stranger("TAESD", "diffusers 0.42.1", Network("vae", {"_class_name": "AutoencoderTiny"}, {}), "AutoencoderTiny"),
    Stranger(
        "T5",
        "transformers 5.23.0",
        Network("text_encoder_2", {"architectures": ["T5EncoderModel"]}, {}),
        "T5EncoderModel",
    ),
]


@pytest.mark.parametrize("row", rows(KINDS))
def test_a_network_of_another_kind_is_refused_by_name(
    tiny: TinyModel, tmp_path: Path, row: Stranger[Network, str]
) -> None:
    model = variant(tiny, tmp_path, {})
    folder = model.controlnet_path if row.given.part == "controlnet" else model.path / row.given.part
    config, weights = folder / "config.json", next(folder.glob("*.safetensors"))
    settings, tensors = json.loads(config.read_text()) | row.given.config, load_file(weights) | row.given.tensors
    for file in (config, weights):
        # Linked files are the shared model's own.
        file.unlink()
    config.write_text(json.dumps(settings))
    save_file(tensors, weights, metadata={"format": "pt"})
    message = refusal(ModelFiles(model.path, model.controlnet_path))
    assert row.right in message
    assert str(folder) in message


def test_a_union_controlnet_in_a_single_file_is_refused_by_name(tiny: TinyModel, tmp_path: Path) -> None:
    file = tmp_path / "union.safetensors"
    save_file(load_file(tiny.controlnet_path / "diffusion_pytorch_model.safetensors") | UNION, file)
    assert "union ControlNet" in refusal(ModelFiles(tiny.path, file))


def test_a_folder_of_another_pipeline_is_refused(tiny: TinyModel, tmp_path: Path) -> None:
    model = variant(tiny, tmp_path, {"model/model_index.json": {"_class_name": "KolorsPipeline"}})
    assert "KolorsPipeline" in refusal(ModelFiles(model.path))


def test_a_vae_of_other_latents_is_refused(tiny: TinyModel, tmp_path: Path) -> None:
    """Stable Diffusion 1's VAE has SDXL's shapes; only its scale tells it apart."""
    model = variant(tiny, tmp_path, {"model/vae/config.json": {"scaling_factor": 0.18215}})
    assert "scaling_factor 0.18215" in refusal(ModelFiles(tiny.path, vae_path=model.path / "vae"))


LEFTOVERS: list[Stranger[Mapping[str, torch.Tensor], None]] = [
    Stranger("averages", "generative-models 0.1.0", {"model_ema.decay": ONE, "model_ema.num_updates": ONE}, None),
    Stranger("the schedule", "SDXL base 1.0", {"denoiser.sigmas": torch.ones(1000)}, None),
    Stranger("buffers", "stable-diffusion-webui 1.10", {"alphas_cumprod": ONE, "betas": ONE, "global_step": ONE}, None),
    Stranger("the VAE's loss", "generative-models 0.1.0", {"first_stage_model.loss.logvar": ONE}, None),
    Stranger(
        "numbered positions",
        "sd-scripts 0.9.1",
        {"conditioner.embedders.0.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]},
        None,
    ),
    Stranger("a logit scale", "open_clip 2.20", {"conditioner.embedders.1.model.logit_scale": torch.tensor(4.6)}, None),
]


@pytest.mark.parametrize("row", rows(LEFTOVERS))
def test_what_trainers_leave_beside_the_weights_changes_nothing(
    tiny: TinyModel, configs: Path, tmp_path: Path, row: Stranger[Mapping[str, torch.Tensor], None]
) -> None:
    file = tmp_path / "left.safetensors"
    apart = {name: tensor.clone() for name, tensor in row.given.items()}
    write_checkpoint(tiny.path, file, lambda tensors: tensors.update(apart))
    device, whole = loaded(ModelFiles(file, config_path=configs)), loaded(ModelFiles(tiny.path))
    assert distance(paint(device, PLAIN), paint(whole, PLAIN)) == 0


def test_a_checkpoint_in_fp8_keeps_its_marks(tiny: TinyModel, configs: Path, tmp_path: Path) -> None:
    def to_fp8(tensors: Tensors) -> None:
        for key, tensor in tensors.items():
            if key.startswith("model.diffusion_model.") and tensor.dim() > 1:
                tensors[key] = tensor.to(torch.float8_e4m3fn)
        tensors.update(v_pred=EMPTY.to(torch.float8_e4m3fn))

    file = tmp_path / "fp8.safetensors"
    write_checkpoint(tiny.path, file, to_fp8)
    device = loaded(ModelFiles(file, config_path=configs))
    assert device.info.prediction is not None
    assert device.info.prediction.kind == "v_prediction"
    assert paint(device, PLAIN).std() > 0
