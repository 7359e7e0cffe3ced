#!/usr/bin/env bash
# Guess: a diffusers pipeline with the TCD scheduler paints with that scheduler's own default, TCDScheduler.step(eta=0.3).
# Instead: StableDiffusionXLPipeline.__call__ has an `eta` of its own, 0.0, documented as DDIM's and ignored by others,
# and hands it to every scheduler whose step() takes an argument of that name (prepare_extra_step_kwargs). So the default
# picture is the one of eta 0, without any of TCD's noise, and the scheduler's 0.3 is reached only by writing eta=0.3.
# Why it matters here: a TCD sampler that follows the scheduler's default paints another picture than the pipeline with
# its defaults, and a comparison of the two must name eta.
# Source: diffusers 0.42.1, pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py (prepare_extra_step_kwargs) and
# schedulers/scheduling_tcd.py (step).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 torch==2.15.0
cat > "$folder/look.py" <<'PY'
import inspect

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, TCDScheduler, UNet2DConditionModel

torch.manual_seed(0)
WIDTH = 32
unet = UNet2DConditionModel(
    sample_size=8,
    block_out_channels=(32, 64),
    layers_per_block=1,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=(2, 4),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    transformer_layers_per_block=(1, 1),
    projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    cross_attention_dim=2 * WIDTH,
    norm_num_groups=8,
)
vae = AutoencoderKL(block_out_channels=(32,), norm_num_groups=8)
scheduler = TCDScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
pipeline = StableDiffusionXLPipeline(
    vae=vae,
    text_encoder=None,
    text_encoder_2=None,
    tokenizer=None,
    tokenizer_2=None,
    unet=unet,
    scheduler=scheduler,
    add_watermarker=False,
)
pipeline.set_progress_bar_config(disable=True)
prompt, pooled = torch.randn(1, 77, 2 * WIDTH), torch.randn(1, WIDTH)


def latents(**given: float) -> torch.Tensor:
    return pipeline(
        prompt_embeds=prompt,
        pooled_prompt_embeds=pooled,
        height=8,
        width=8,
        num_inference_steps=4,
        guidance_scale=0.0,
        generator=torch.Generator().manual_seed(1),
        output_type="latent",
        **given,
    ).images


print("diffusers", diffusers.__version__, "torch", torch.__version__, "transformers", transformers.__version__)
own = inspect.signature(TCDScheduler.step).parameters["eta"].default
print("TCDScheduler.step has eta =", own)
default, zero, named = latents(), latents(eta=0.0), latents(eta=own)
print("the default's distance from eta=0:", (default - zero).abs().max().item())
print(f"the default's distance from eta={own}:", (default - named).abs().max().item())
assert own == 0.3, own
assert torch.equal(default, zero)
assert (default - named).abs().max() > 0.1
PY
"$folder/venv/bin/python" "$folder/look.py"
