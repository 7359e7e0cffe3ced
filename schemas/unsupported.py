"""Fields of other tools that would change the picture and that Darkroom does not honour.

A request that has one of them is refused: it would be painted, and be another picture than the one that was asked for.
Unknown fields that are not listed change no picture (`webhook`, `save_images`); the codec reports those.

The names are those that requests carry in: diffusers 0.42.1 (SDXL pipelines), AUTOMATIC1111 1.10.1 and Forge
(`/sdapi/v1/txt2img` and `/img2img`), SD.Next 2026-07, SwarmUI 0.9.8, Fooocus-API 0.5.0.1, AI-Horde 5.1.4, cog-sdxl and
Replicate, InvokeAI 6 (`denoise_latents`), krita-ai-diffusion 1.53.0 (`WorkflowInput`), ComfyUI nodes, OpenAI's Images
API (openai-python 3.3.1) and Stability's REST API. Case, hyphens, underscores and blanks do not matter, so `initImage`
and `init-image` are `init_image`, and SwarmUI's `initimage` is too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from schemas.errors import bounded
from schemas.pose import FIELDS as POSE_FIELDS

FIELDS_NAMED_MAX: Final = 5
"""The most fields that one message names: five with their remedies fit into an error message's 500 characters."""
_NAME_CHARACTERS_MAX: Final = 60
"""No listed name is longer; a longer one is not looked up."""


class UnsupportedField(NamedTuple):
    """A field of a request that would change the picture and is not honoured."""

    path: str
    """Its dotted path, as it was written."""
    remedy: str


_PAINTS_FROM_NOISE = "a picture to start from is not supported; leave it out"
_NO_MASK = "inpainting is not supported; leave it out"
_ONE_CONTROL = "the one control is `pose`; leave it out"
_NO_REFERENCE = "reference pictures and IP adapters are not supported; leave it out"
_ONE_ADAPTER = "ask for a LoRA by `adapter`"
_NO_EMBEDDINGS = "textual inversions and hypernetworks are not supported; leave it out"
_NO_SCHEDULE = "the model's own noise schedule is used; leave it out, and choose the sampler by `sampler`"
_NO_NOISE_OPTIONS = "the sampler's noise cannot be tuned; leave it out"
_PLAIN_GUIDANCE = "guidance is `guidance_scale` alone, the same for all steps; leave it out"
_LAST_BUT_ONE = "the text encoders' last layer but one is always used; leave it out"
_ONE_TEXT = "both text encoders read `prompt` and `negative_prompt`; leave it out"
_PLAIN_TEXT = "prompts are read as plain text; write what is meant into `prompt` and leave it out"
_NO_REFINER = "no refiner is run; leave it out"
_NO_UPSCALING = "pictures are not upscaled; ask for `width` and `height`, and leave it out"
_NO_RETOUCHING = "pictures are not worked on after they were painted; leave it out"
_SERVED_MODEL = "workers serve one model, which their operator chooses; leave it out"
_NO_RECIPES = "recipes and styles are not supported; write them into `prompt` and leave it out"
_NO_SCRIPTS = "scripts, workflows and settings of other tools are not run; leave it out"
_FULL_COST = "every step is computed in full; leave it out"
_NO_TILING = "seamless pictures are not supported; leave it out"
_NO_SIZE_IDS = "SDXL's size conditions are those of the picture itself; leave it out"
_UNWRAP = "write its members into the request itself, under Darkroom's names"

NOT_HONOURED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "adapters": _ONE_ADAPTER,
        "add_watermark": _NO_RETOUCHING,
        "adm_scaler_end": _NO_SIZE_IDS,
        "adm_scaler_negative": _NO_SIZE_IDS,
        "adm_scaler_positive": _NO_SIZE_IDS,
        "adapter_conditioning_factor": _ONE_CONTROL,
        "adapter_conditioning_scale": _ONE_CONTROL,
        "adaptive_cfg": _PLAIN_GUIDANCE,
        "advanced_params": _UNWRAP,
        "aesthetic_score": _NO_REFINER,
        "align_your_steps": _NO_SCHEDULE,
        "alwayson_scripts": _NO_SCRIPTS,
        "apply_watermark": _NO_RETOUCHING,
        "auto_cfg": _PLAIN_GUIDANCE,
        "background": _NO_RETOUCHING,
        "base_model": _SERVED_MODEL,
        "base_model_name": _SERVED_MODEL,
        "beta_schedule": _NO_SCHEDULE,
        "canny_high_threshold": _ONE_CONTROL,
        "canny_low_threshold": _ONE_CONTROL,
        "cfg_end": _PLAIN_GUIDANCE,
        "cfg_image": _PAINTS_FROM_NOISE,
        "cfg_interval": _PLAIN_GUIDANCE,
        "cfg_interval_end": _PLAIN_GUIDANCE,
        "cfg_interval_start": _PLAIN_GUIDANCE,
        "cfg_rescale": _PLAIN_GUIDANCE,
        "cfg_rescale_multiplier": _PLAIN_GUIDANCE,
        "cfg_start": _PLAIN_GUIDANCE,
        "cfg_true": _PLAIN_GUIDANCE,
        "checkpoint": _SERVED_MODEL,
        "checkpoint_name": _SERVED_MODEL,
        "ckpt": _SERVED_MODEL,
        "ckpt_name": _SERVED_MODEL,
        "clip_guidance_preset": _PLAIN_GUIDANCE,
        "clip_skip": _LAST_BUT_ONE,
        "clip_stop_at_last_layers": _LAST_BUT_ONE,
        "clip_stop_at_layer": _LAST_BUT_ONE,
        "codeformer_visibility": _NO_RETOUCHING,
        "codeformer_weight": _NO_RETOUCHING,
        "color_correction": _NO_RETOUCHING,
        "conditioning": _UNWRAP,
        "control": _ONE_CONTROL,
        "control_image": _ONE_CONTROL,
        "control_images": _ONE_CONTROL,
        "control_layers": _ONE_CONTROL,
        "control_lora": _ONE_CONTROL,
        "control_map": _ONE_CONTROL,
        "control_mode": _ONE_CONTROL,
        "control_type": _ONE_CONTROL,
        "control_unit": _ONE_CONTROL,
        "control_units": _ONE_CONTROL,
        "controlnet_args": _ONE_CONTROL,
        "controlnet_image": _ONE_CONTROL,
        "controlnet_image_input": _ONE_CONTROL,
        "controlnet_model": _ONE_CONTROL,
        "controlnet_preprocessor": _ONE_CONTROL,
        "controlnet_type": _ONE_CONTROL,
        "controls": _ONE_CONTROL,
        "cross_attention_kwargs": _ONE_ADAPTER,
        "crops_coords_top_left": _NO_SIZE_IDS,
        "custom_workflow": _NO_SCRIPTS,
        "deepcache": _FULL_COST,
        "denoise": _PAINTS_FROM_NOISE,
        "denoise_strength": _PAINTS_FROM_NOISE,
        "denoising_end": _NO_REFINER,
        "denoising_start": _PAINTS_FROM_NOISE,
        "denoising_strength": _PAINTS_FROM_NOISE,
        "detailer_enabled": _NO_RETOUCHING,
        "detailer_prompt": _PLAIN_TEXT,
        "distilled_cfg_scale": _PLAIN_GUIDANCE,
        "dynamic_thresholding": _PLAIN_GUIDANCE,
        "embedding": _NO_EMBEDDINGS,
        "embeddings": _NO_EMBEDDINGS,
        "embeds": _NO_EMBEDDINGS,
        "enable_hr": _NO_UPSCALING,
        "end_steps_early": _NO_SCHEDULE,
        "enhance_prompt": _PLAIN_TEXT,
        "ensd": _NO_NOISE_OPTIONS,
        "eta": _NO_NOISE_OPTIONS,
        "eta_noise_seed_delta": _NO_NOISE_OPTIONS,
        "extra_noise": _NO_NOISE_OPTIONS,
        "extra_source_images": _NO_REFERENCE,
        "face": _NO_REFERENCE,
        "face_enhance": _NO_RETOUCHING,
        "face_id": _NO_REFERENCE,
        "face_image": _NO_REFERENCE,
        "face_restore": _NO_RETOUCHING,
        "facefixer_strength": _NO_RETOUCHING,
        "fidelity": _FULL_COST,
        "firstpass_image": _PAINTS_FROM_NOISE,
        "firstphase_height": _NO_UPSCALING,
        "firstphase_width": _NO_UPSCALING,
        "fit": "a pose is stretched to the picture's size; leave it out",
        "fooocus_inpaint": _NO_MASK,
        "freeu": _PLAIN_GUIDANCE,
        "freeu_enabled": _PLAIN_GUIDANCE,
        "generation_params": _UNWRAP,
        "gfpgan_visibility": _NO_RETOUCHING,
        "graph": _NO_SCRIPTS,
        "guess_mode": _ONE_CONTROL,
        "guidance_end": _PLAIN_GUIDANCE,
        "guidance_interval": _PLAIN_GUIDANCE,
        "guidance_name": _PLAIN_GUIDANCE,
        "guidance_rescale": _PLAIN_GUIDANCE,
        "guidance_start": _PLAIN_GUIDANCE,
        "guidance_stop": _PLAIN_GUIDANCE,
        "hd_painter": _NO_MASK,
        "hidiffusion": _NO_UPSCALING,
        "high_noise_frac": _NO_REFINER,
        "hires": _NO_UPSCALING,
        "hires_fix": _NO_UPSCALING,
        "hires_fix_denoising_strength": _NO_UPSCALING,
        "hires_image": _NO_UPSCALING,
        "hires_scale": _NO_UPSCALING,
        "hires_steps": _NO_UPSCALING,
        "hires_upscale": _NO_UPSCALING,
        "hires_upscaler": _NO_UPSCALING,
        "hr_cfg": _NO_UPSCALING,
        "hr_checkpoint_name": _NO_UPSCALING,
        "hr_denoising_strength": _NO_UPSCALING,
        "hr_force": _NO_UPSCALING,
        "hr_negative_prompt": _NO_UPSCALING,
        "hr_prompt": _NO_UPSCALING,
        "hr_resize_x": _NO_UPSCALING,
        "hr_resize_y": _NO_UPSCALING,
        "hr_sampler_name": _NO_UPSCALING,
        "hr_scale": _NO_UPSCALING,
        "hr_scheduler": _NO_UPSCALING,
        "hr_second_pass_steps": _NO_UPSCALING,
        "hr_upscaler": _NO_UPSCALING,
        "hypernetwork": _NO_EMBEDDINGS,
        "hypernetworks": _NO_EMBEDDINGS,
        "image": 'a picture belongs into `pose` ({"image": ...} or {"photo": ...}); one to start from is not supported',
        "image_cfg_scale": _PAINTS_FROM_NOISE,
        "image_end": _PAINTS_FROM_NOISE,
        "image_guidance_scale": _PAINTS_FROM_NOISE,
        "image_is_control": _ONE_CONTROL,
        "image_prompt": _NO_REFERENCE,
        "image_prompts": _NO_REFERENCE,
        "image_strength": _PAINTS_FROM_NOISE,
        "image_to_image": _PAINTS_FROM_NOISE,
        "image_url": _PAINTS_FROM_NOISE,
        "images": "use `count` for the number of pictures; pictures to start from are not supported",
        "img": _PAINTS_FROM_NOISE,
        "img2img": _PAINTS_FROM_NOISE,
        "infotext": _NO_SCRIPTS,
        "init": _PAINTS_FROM_NOISE,
        "init_control": _ONE_CONTROL,
        "init_image": _PAINTS_FROM_NOISE,
        "init_image_creativity": _PAINTS_FROM_NOISE,
        "init_image_noise": _PAINTS_FROM_NOISE,
        "init_image_strength": _PAINTS_FROM_NOISE,
        "init_image_url": _PAINTS_FROM_NOISE,
        "init_images": _PAINTS_FROM_NOISE,
        "init_latent": _PAINTS_FROM_NOISE,
        "initial_image": _PAINTS_FROM_NOISE,
        "initial_noise_multiplier": _NO_NOISE_OPTIONS,
        "inpaint": _NO_MASK,
        "inpaint_full_res": _NO_MASK,
        "inpaint_full_res_padding": _NO_MASK,
        "inpaint_image": _NO_MASK,
        "inpaint_strength": _NO_MASK,
        "inpainting": _NO_MASK,
        "inpainting_fill": _NO_MASK,
        "inpainting_mask_invert": _NO_MASK,
        "inpainting_mask_weight": _NO_MASK,
        "input": _UNWRAP,
        "input_fidelity": _PAINTS_FROM_NOISE,
        "input_image": _PAINTS_FROM_NOISE,
        "input_images": _PAINTS_FROM_NOISE,
        "input_mask": _NO_MASK,
        "input_params": _UNWRAP,
        "inputs": _UNWRAP,
        "ip_adapter": _NO_REFERENCE,
        "ip_adapter_image": _NO_REFERENCE,
        "ip_adapter_image_embeds": _NO_REFERENCE,
        "ip_adapter_images": _NO_REFERENCE,
        "ip_adapter_scale": _NO_REFERENCE,
        "ip_adapters": _NO_REFERENCE,
        "karras": _NO_SCHEDULE,
        "karras_sigmas": _NO_SCHEDULE,
        "kohya_hires_fix": _NO_UPSCALING,
        "latent_image": _PAINTS_FROM_NOISE,
        "latent_mask": _NO_MASK,
        "latents": _PAINTS_FROM_NOISE,
        "lora": _ONE_ADAPTER,
        "lora_model": _ONE_ADAPTER,
        "lora_models": _ONE_ADAPTER,
        "lora_name": _ONE_ADAPTER,
        "lora_names": _ONE_ADAPTER,
        "lora_path": _ONE_ADAPTER,
        "lora_paths": _ONE_ADAPTER,
        "lora_scale": "use `adapter.weight`",
        "lora_scales": "use `adapter.weight`",
        "lora_strength": "use `adapter.weight`",
        "lora_strengths": "use `adapter.weight`",
        "lora_url": _ONE_ADAPTER,
        "lora_urls": _ONE_ADAPTER,
        "lora_weight": "use `adapter.weight`",
        "lora_weights": "use `adapter.weight`",
        "loras": _ONE_ADAPTER,
        "lycoris": _ONE_ADAPTER,
        "mask": _NO_MASK,
        "mask_blur": _NO_MASK,
        "mask_content": _NO_MASK,
        "mask_grow": _NO_MASK,
        "mask_image": _NO_MASK,
        "mask_image_url": _NO_MASK,
        "mask_padding": _NO_MASK,
        "mask_source": _NO_MASK,
        "mask_url": _NO_MASK,
        "masked_image": _NO_MASK,
        "masked_image_latents": _NO_MASK,
        "masks": _NO_MASK,
        "model": _SERVED_MODEL,
        "model_hash": _SERVED_MODEL,
        "model_id": _SERVED_MODEL,
        "model_name": _SERVED_MODEL,
        "models": _SERVED_MODEL,
        "negative_aesthetic_score": _NO_REFINER,
        "negative_conditioning": _ONE_TEXT,
        "negative_crops_coords_top_left": _NO_SIZE_IDS,
        "negative_embeddings": _NO_EMBEDDINGS,
        "negative_original_size": _NO_SIZE_IDS,
        "negative_pooled_prompt_embeds": _PLAIN_TEXT,
        "negative_prompt_2": _ONE_TEXT,
        "negative_prompt_embeds": _PLAIN_TEXT,
        "negative_style_prompt": _ONE_TEXT,
        "negative_target_size": _NO_SIZE_IDS,
        "original_size": _NO_SIZE_IDS,
        "outpaint": _NO_MASK,
        "outpaint_selections": _NO_MASK,
        "override_settings": _NO_SCRIPTS,
        "padding_mask_crop": _NO_MASK,
        "pag": _PLAIN_GUIDANCE,
        "pag_adaptive_scale": _PLAIN_GUIDANCE,
        "pag_scale": _PLAIN_GUIDANCE,
        "parameters": _UNWRAP,
        "params": _UNWRAP,
        "photomaker": _NO_REFERENCE,
        "pooled_prompt_embeds": _PLAIN_TEXT,
        "positive_conditioning": _ONE_TEXT,
        "post_processing": _NO_RETOUCHING,
        "prediction_type": _SERVED_MODEL,
        "prompt_2": _ONE_TEXT,
        "prompt_embeds": _PLAIN_TEXT,
        "prompt_enhancement": _PLAIN_TEXT,
        "prompt_images": _NO_REFERENCE,
        "prompt_strength": _PAINTS_FROM_NOISE,
        "prompt_syntax": _PLAIN_TEXT,
        "prompt_upsampling": _PLAIN_TEXT,
        "recipe": _NO_RECIPES,
        "ref_image": _NO_REFERENCE,
        "ref_images": _NO_REFERENCE,
        "reference": _NO_REFERENCE,
        "reference_image": _NO_REFERENCE,
        "reference_images": _NO_REFERENCE,
        "reference_strength": _NO_REFERENCE,
        "refine": _NO_REFINER,
        "refine_steps": _NO_REFINER,
        "refiner": _NO_REFINER,
        "refiner_checkpoint": _NO_REFINER,
        "refiner_control_percentage": _NO_REFINER,
        "refiner_model": _NO_REFINER,
        "refiner_model_name": _NO_REFINER,
        "refiner_negative": _NO_REFINER,
        "refiner_prompt": _NO_REFINER,
        "refiner_start": _NO_REFINER,
        "refiner_steps": _NO_REFINER,
        "refiner_switch": _NO_REFINER,
        "refiner_switch_at": _NO_REFINER,
        "refiner_upscale": _NO_REFINER,
        "regions": _ONE_TEXT,
        "remove_background": _NO_RETOUCHING,
        "replicate_weights": _ONE_ADAPTER,
        "rescale_betas_zero_snr": _SERVED_MODEL,
        "rescale_cfg": _PLAIN_GUIDANCE,
        "resize_mode": _PAINTS_FROM_NOISE,
        "restore_faces": _NO_RETOUCHING,
        "s_churn": _NO_NOISE_OPTIONS,
        "s_min_uncond": _PLAIN_GUIDANCE,
        "s_noise": _NO_NOISE_OPTIONS,
        "s_tmax": _NO_NOISE_OPTIONS,
        "s_tmin": _NO_NOISE_OPTIONS,
        "sampling": _UNWRAP,
        "scale_by": _NO_UPSCALING,
        "schedule": _NO_SCHEDULE,
        "schedule_type": _NO_SCHEDULE,
        "scheduler": "choose the sampler by `sampler`; the model's own noise schedule is used",
        "scheduler_name": "choose the sampler by `sampler`; the model's own noise schedule is used",
        "scheduler_type": "choose the sampler by `sampler`; the model's own noise schedule is used",
        "script_args": _NO_SCRIPTS,
        "script_name": _NO_SCRIPTS,
        "sd_model": _SERVED_MODEL,
        "sd_model_checkpoint": _SERVED_MODEL,
        "sd_model_name": _SERVED_MODEL,
        "sd_vae": _SERVED_MODEL,
        "seamless": _NO_TILING,
        "seamless_tileable": _NO_TILING,
        "seamless_x": _NO_TILING,
        "seamless_y": _NO_TILING,
        "seed_resize_from_h": _NO_NOISE_OPTIONS,
        "seed_resize_from_w": _NO_NOISE_OPTIONS,
        "seed_variation_strength": _NO_NOISE_OPTIONS,
        "self_attention_guidance": _PLAIN_GUIDANCE,
        "sharpness": _NO_RETOUCHING,
        "sigma_shift": _NO_SCHEDULE,
        "sigmas": _NO_SCHEDULE,
        "slg_scale": _PLAIN_GUIDANCE,
        "source_image": _PAINTS_FROM_NOISE,
        "source_mask": _NO_MASK,
        "source_processing": _PAINTS_FROM_NOISE,
        "start_image": _PAINTS_FROM_NOISE,
        "strength": _PAINTS_FROM_NOISE,
        "style": _NO_RECIPES,
        "style_image": _NO_REFERENCE,
        "style_preset": _NO_RECIPES,
        "style_presets": _NO_RECIPES,
        "style_selections": _NO_RECIPES,
        "styles": _NO_RECIPES,
        "subseed_strength": _NO_NOISE_OPTIONS,
        "t2i_adapter": _ONE_CONTROL,
        "t2i_adapters": _ONE_CONTROL,
        "target_size": _NO_SIZE_IDS,
        "teacache_enabled": _FULL_COST,
        "text_g": _ONE_TEXT,
        "text_l": _ONE_TEXT,
        "text_weights": _PLAIN_TEXT,
        "textual_inversion": _NO_EMBEDDINGS,
        "textual_inversions": _NO_EMBEDDINGS,
        "tile": _NO_TILING,
        "tiling": _NO_TILING,
        "timestep_spacing": _NO_SCHEDULE,
        "timesteps": _NO_SCHEDULE,
        "tis": _NO_EMBEDDINGS,
        "tome_ratio": _FULL_COST,
        "true_cfg_scale": _PLAIN_GUIDANCE,
        "unet": _SERVED_MODEL,
        "unsampler_prompt": _PAINTS_FROM_NOISE,
        "upscale": _NO_UPSCALING,
        "upscale_by": _NO_UPSCALING,
        "upscale_factor": _NO_UPSCALING,
        "upscale_model": _NO_UPSCALING,
        "upscaler": _NO_UPSCALING,
        "upscaler_1": _NO_UPSCALING,
        "upscaling_resize": _NO_UPSCALING,
        "use_karras_sigmas": _NO_SCHEDULE,
        "uov_method": _NO_UPSCALING,
        "v_prediction_zsnr": _SERVED_MODEL,
        "vae": _SERVED_MODEL,
        "vae_name": _SERVED_MODEL,
        "variation_amount": _NO_NOISE_OPTIONS,
        "variation_seed_strength": _NO_NOISE_OPTIONS,
        "variation_strength": _NO_NOISE_OPTIONS,
        "variations": _NO_NOISE_OPTIONS,
        "vary_strength": _PAINTS_FROM_NOISE,
        "watermark": _NO_RETOUCHING,
        "workflow": _NO_SCRIPTS,
        "x_flip": _NO_RETOUCHING,
        "zero_negative": _ONE_TEXT,
    }
)
"""Names without a counterpart here, and what to do instead. A field that comes to be honoured is a line less."""

CALLED_OTHERWISE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "aspect_ratio": "`width` and `height`",
        "aspect_ratios_selection": "`width` and `height`",
        "batch_count": "`count`",
        "batch_size": "`count`",
        "cfg": "`guidance_scale`",
        "cfg_scale": "`guidance_scale`",
        "classifier_free_guidance": "`guidance_scale`",
        "conditioning_scale": "`control_scale`",
        "control_guidance_end": "`control_end`",
        "control_guidance_start": "`control_start`",
        "control_strength": "`control_scale`",
        "control_weight": "`control_scale`",
        "controlnet": "`pose`",
        "controlnet_conditioning_scale": "`control_scale`",
        "controlnet_end": "`control_end`",
        "controlnet_scale": "`control_scale`",
        "controlnet_start": "`control_start`",
        "controlnet_strength": "`control_scale`",
        "controlnet_units": "`pose`",
        "controlnet_weight": "`control_scale`",
        "controlnets": "`pose`",
        "ddim_steps": "`steps`",
        "file_format": "`output.format`",
        "format": "`output.format`",
        "generator": "`seed`",
        "guidance": "`guidance_scale`",
        "image_count": "`count`",
        "image_format": "`output.format`",
        "image_height": "`height`",
        "image_number": "`count`",
        "image_quality": "`output.quality`",
        "image_seed": "`seed`",
        "image_size": "`width` and `height`",
        "image_width": "`width`",
        "inference_steps": "`steps`",
        "jpeg_quality": "`output.quality`",
        "keypoints": "`pose.people`",
        "manual_seed": "`seed`",
        "n": "`count`",
        "n_iter": "`count`",
        "n_samples": "`count`",
        "neg_prompt": "`negative_prompt`",
        "negative": "`negative_prompt`",
        "negative_prompts": "`negative_prompt`",
        "negative_text": "`negative_prompt`",
        "noise_seed": "`seed`",
        "num_images": "`count`",
        "num_images_per_prompt": "`count`",
        "num_inference_steps": "`steps`",
        "num_iterations": "`steps`",
        "num_outputs": "`count`",
        "num_samples": "`count`",
        "num_steps": "`steps`",
        "number_of_images": "`count`",
        "openpose": "`pose`",
        "output_compression": "`output.quality`",
        "output_format": "`output.format`",
        "output_quality": "`output.quality`",
        "performance": "`preset`",
        "performance_selection": "`preset`",
        "pose_image": "`pose`",
        "pose_keypoints": "`pose.people`",
        "positive": "`prompt`",
        "positive_prompt": "`prompt`",
        "prompts": "`prompt`, one request for each",
        "quality": "`preset` for the picture and `output.quality` for the file",
        "random_seed": "`seed`",
        "resolution": "`width` and `height`",
        "sample_steps": "`steps`",
        "sampler_index": "`sampler`",
        "sampler_name": "`sampler`",
        "sampler_type": "`sampler`",
        "samples": "`count`",
        "sampling_method": "`sampler`",
        "sampling_steps": "`steps`",
        "save_extension": "`output.format`",
        "seeds": "`seed`, the first one, and `count`",
        "size": "`width` and `height`",
        "skeleton": "`pose`",
        "step_count": "`steps`",
        "text_prompts": "`prompt` and `negative_prompt`",
        "total_steps": "`steps`",
        "uc": "`negative_prompt`",
        "unconditional_guidance_scale": "`guidance_scale`",
        "undesired_content": "`negative_prompt`",
    }
)
"""Other tools' names for what Darkroom has, and the field that takes it here."""

_SEEDS = frozenset({"image_seed", "manual_seed", "noise_seed", "random_seed", "seeds", "generator"})
_COUNTS = frozenset(name for name, field in CALLED_OTHERWISE.items() if field == "`count`")
_SAME_ANYWAY: Final[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
    {
        **dict.fromkeys(_SEEDS, (-1,)),
        **dict.fromkeys(_COUNTS, (0, 1)),
        "background": ("opaque",),
        "cfg_end": (1,),
        "cfg_interval_end": (1,),
        "denoise": (1,),
        "denoising_end": (1,),
        "fidelity": ("exact",),
        "fit": ("stretch",),
        "guidance_end": (1,),
        "guidance_stop": (1,),
        "hr_scale": (1,),
        "image_format": ("png",),
        "initial_noise_multiplier": (1,),
        "output_format": ("png",),
        "format": ("png",),
        "file_format": ("png",),
        "prompt_syntax": ("plain",),
        "refine": ("no_refiner",),
        "s_noise": (1,),
        "save_extension": ("png",),
        "scale_by": (1,),
        "seed_resize_from_h": (-1,),
        "seed_resize_from_w": (-1,),
        "upscale_by": (1,),
        "upscale_factor": (1,),
    }
)
"""Values with which a field asks for what is done anyway."""
_NOTHING_WORDS: Final = frozenset({"", "none", "null", "off", "false", "auto", "automatic", "default"})
"""Texts by which other tools' clients say that they leave a choice open."""

_WEIGHT = "use `adapter.weight`, one for UNet and text encoders"
IN_PARTS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "adapter": {
            "alpha": _WEIGHT,
            "clip_weight": _WEIGHT,
            "id": "use `adapter.name`",
            "lora": "use `adapter.name`",
            "model_name": "use `adapter.name`",
            "multiplier": _WEIGHT,
            "path": "use `adapter.name`, a name in the model store",
            "scale": _WEIGHT,
            "strength": _WEIGHT,
            "strength_clip": _WEIGHT,
            "strength_model": _WEIGHT,
            "text_weight": _WEIGHT,
            "unet_weight": _WEIGHT,
            "url": "use `adapter.name`, a name in the model store",
            "weights": _WEIGHT,
        },
        "output": {
            "compression": "use `output.quality`",
            "content_type": "use `output.format`",
            "extension": "use `output.format`",
            "lossless": "use png as `output.format`, which loses nothing",
            "mime_type": "use `output.format`",
            "type": "use `output.format`",
        },
        "pose": {
            "end": "use `control_end` of the request itself",
            "face": "faces are not drawn from keypoints; leave it out",
            "hands": "hands are not drawn; leave it out",
            "kind": _ONE_CONTROL,
            "keypoints": "use `pose.people`",
            "preprocess": "use `photo` for a photo and `image` for a skeleton picture",
            "scale": "use `control_scale` of the request itself",
            "start": "use `control_start` of the request itself",
            "strength": "use `control_scale` of the request itself",
            "weight": "use `control_scale` of the request itself",
        },
    }
)
"""The same for the objects inside a request, beside the two tables above, which count there as well."""

_CHANGES_NO_PICTURE: Final = frozenset({"request_id", "tenant", "priority", "deadline", "progress", "labels"})
"""Fields of a request that may be written wrongly without another picture coming of it."""


def _plain(name: str) -> str:
    """The name without what spellings differ in."""
    return "".join(one for one in name.lower() if one.isalnum())


_SPELT: Final[Mapping[str, str]] = {_plain(name): name for name in (*NOT_HONOURED, *CALLED_OTHERWISE)}
_SPELT_IN_PARTS: Final[Mapping[str, Mapping[str, str]]] = {
    part: {_plain(name): remedy for name, remedy in table.items()} for part, table in IN_PARTS.items()
}


def remedy_of(name: str) -> str | None:
    """Return what to do in place of a top-level field of this name, however it is spelt; None if it is not listed."""
    listed = _SPELT.get(_plain(name)) if len(name) <= _NAME_CHARACTERS_MAX else None
    if listed is None:
        return None
    return NOT_HONOURED.get(listed) or f"use {CALLED_OTHERWISE[listed]}"


def unsupported_fields(model: type[BaseModel], document: Mapping[str, Any]) -> Iterator[UnsupportedField]:
    """Find the fields of a request's JSON document that would change the picture and are not honoured.

    `model` has the fields that are honoured. A listed field whose value asks for nothing (null, false, empty, zero
    where there is no counterpart here, what is done anyway) is left to those who report unknown fields.
    """
    own = {_plain(name): name for name in model.model_fields if name not in _CHANGES_NO_PICTURE}
    known = model.model_fields
    for name, value in document.items():
        if name in known:
            if isinstance(value, Mapping) and name not in _CHANGES_NO_PICTURE:
                yield from _in_part(name, name, value, own)
        elif not _asks_nothing(name, value) and (remedy := _remedy(name, own, "it is spelt")) is not None:
            yield UnsupportedField(bounded(name, _NAME_CHARACTERS_MAX), remedy)


def refusal_of(model: type[BaseModel], document: Mapping[str, Any]) -> str | None:
    """Return the message that refuses a document with such fields, each with its remedy; None where it has none."""
    found = list(unsupported_fields(model, document))
    if not found:
        return None
    named = "; ".join(f"{field.path}: {field.remedy}" for field in found[:FIELDS_NAMED_MAX])
    return named if len(found) <= FIELDS_NAMED_MAX else f"{named}; and {len(found) - FIELDS_NAMED_MAX} more"


def table() -> dict[str, dict[str, str]]:
    """Return the whole list for people: remedies by name, one table for the request and one for each object in it."""
    request = {**NOT_HONOURED, **{name: f"use {field}" for name, field in CALLED_OTHERWISE.items()}}
    return {"request": dict(sorted(request.items())), **{part: dict(names) for part, names in IN_PARTS.items()}}


def _in_part(part: str, path: str, value: Mapping[str, Any], own: Mapping[str, str]) -> Iterator[UnsupportedField]:
    """The same inside `adapter`, `output` or `pose`, at any depth; names that its models have are passed over."""
    for name, inner in value.items():
        inner_path = f"{path}.{name}"
        if name in _KNOWN_IN_PARTS.get(part, frozenset()):
            if isinstance(inner, Mapping):
                yield from _in_part(part, inner_path, inner, own)
            continue
        if _asks_nothing(name, inner):
            continue
        spelt = _SPELT_IN_PARTS.get(part, {}).get(_plain(name)) if len(name) <= _NAME_CHARACTERS_MAX else None
        remedy = spelt or _remedy(name, own, "it belongs to the request itself, as")
        if remedy is not None:
            yield UnsupportedField(bounded(inner_path, _NAME_CHARACTERS_MAX), remedy)


_KNOWN_IN_PARTS: Final[Mapping[str, frozenset[str]]] = {
    "adapter": frozenset({"name", "weight"}),
    "output": frozenset({"format", "quality"}),
    "pose": POSE_FIELDS,
}
"""What those objects have for fields; a test holds it against the models."""


def _remedy(name: str, own: Mapping[str, str], own_is: str) -> str | None:
    if len(name) > _NAME_CHARACTERS_MAX:
        return None
    field = own.get(_plain(name))
    return f"{own_is} `{field}`" if field is not None else remedy_of(name)


def _asks_nothing(name: str, value: Any) -> bool:
    """Whether a field of this value leaves the picture as it is."""
    if value is None or value is False or value in ([], {}):
        return True
    listed = _SPELT.get(_plain(name)) if len(name) <= _NAME_CHARACTERS_MAX else None
    if isinstance(value, str):
        text = value.strip().lower()
        return text in _NOTHING_WORDS or text in _SAME_ANYWAY.get(listed or "", ())
    if isinstance(value, bool):
        return False
    if value in _SAME_ANYWAY.get(listed or "", ()):
        return True
    return value == 0 and listed in NOT_HONOURED
