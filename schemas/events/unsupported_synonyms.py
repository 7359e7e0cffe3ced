"""Further names for what `darkroom.schemas.events.unsupported_names` lists: those of hosted services and of desktop
programs.

Each group stands under the listed name whose remedy it shares. The names are those of requests to fal.ai, Segmind,
Replicate, Stability v2beta, Together, DeepInfra, Leonardo, Runware, Novita, Amazon Bedrock and Google Vertex, and of
Draw Things, SwarmUI 0.9.8, Easy Diffusion 3.5 and Apple's ml-stable-diffusion.
Names that say nothing by themselves (`mode`, `left`, `elements`, `extras`) are left out: others' events have them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_GROUPS: Final[Mapping[str, str]] = {
    "init_image": "condition_image image_base64 init_generation_image_id init_image_id init_image_mode init_strength "
    "noise_strength seed_image starting_image step_schedule_end step_schedule_start",
    "init_image_noise": "init_image_reset_to_norm",
    "mask_image": "grow_mask in_painting_params inpaint_image_url inpaint_mask_url mask_blur_outset mask_image_base64 "
    "mask_strength out_painting_params preserve_original_after_inpaint search_prompt select_prompt strict_mask_border",
    "control": "cn_scale cn_strength control_filter_to_apply control_guidance control_image_url control_net_inputs "
    "control_net_name controlnet_unet num_controls sizing_strategy use_controlnet_model",
    "ip_adapter": "ace_plus_plus composition_fidelity face_image_url fill_image ic_light_image_url ic_light_model_url "
    "image_encoder_path image_prompt_weight image_variation_params input_face_image instant_id ip_adapter_image_url "
    "ip_adapter_model ip_adapter_url ip_adapter_weight pulid style_model use_ip_adapter",
    "loras": "extra_lora extra_lora_scale image_loras sdxl_lora use_lora_model user_elements",
    "lora_weight": "lora_alpha strength_clip strength_model",
    "embeddings": "use_embeddings_model",
    "hypernetwork": "hypernetwork_strength use_hypernetwork_model",
    "refiner": "high_noise_fraction refiner_cfg_scale refiner_hyper_tile stage_2_guidance stage_2_steps use_refiner",
    "hires_fix": "high_resolution hires_fix_height hires_fix_strength hires_fix_width latent_upscaler_steps "
    "upscale_amount use_upscale",
    "restore_faces": "codeformer_fidelity color_correction_behavior contrast contrast_ratio "
    "enable_transparent_background face_restoration high_contrast segment_model transparency use_face_correction",
    "style_preset": "alchemy expanded_domain fantasy_avatar photo_real photo_real_strength photo_real_version "
    "preset_style presets prompt_magic prompt_magic_strength prompt_magic_version style_ids style_uuid ultra",
    "enhance_prompt": "expand_prompt prompt_weighting use_prompt_weighting",
    "prompt_2": "clip_l_text open_clip_g_text positive_style_prompt prompt_3 separate_clip_l separate_open_clip_g",
    "negative_prompt_2": "negative_prompt_3 zero_negative_prompt",
    "clip_guidance_preset": "clip_weight",
    "pag": "distilled_guidance_scale flux_guidance_scale guidance_embed perturbed_attention_guidance_scale",
    "sigmas": "rho sigma_max sigma_min start_at_step",
    "eta": "stochastic_sampling_gamma",
    "model": "ckpt_path sd_version unet_name use_stable_diffusion_model use_vae_model",
    "deepcache": "accelerator_options tea_cache",
    "original_size": "crop_left crop_top negative_original_image_height negative_original_image_width "
    "original_image_height original_image_width target_image_height target_image_width",
    "parameters": "color_guided_generation_params image_generation_config instances text_to_image_params",
    "num_images": "number_results sample_count",
    "size": "img_height img_width megapixels side_length",
    "controlnet_conditioning_scale": "condition_scale control_alpha",
    "control_guidance_start": "start_percent",
    "control_guidance_end": "end_percent",
}

SYNONYMS: Final[Mapping[str, str]] = MappingProxyType(
    {name: listed for listed, names in _GROUPS.items() for name in names.split()}
)
"""The listed name by the name that other tools give the same thing."""
