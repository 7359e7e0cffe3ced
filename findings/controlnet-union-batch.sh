#!/usr/bin/env bash
# Guess: the transformer of diffusers' ControlNetUnionModel lets the control pictures of ONE image attend to each other
#   (it is given a sequence of one token a picture, and one of the latents), and images of a batch are independent.
# Instead: it is given (batch, tokens, width), and torch.nn.MultiheadAttention takes the sequence first where
#   batch_first is not set. So it attends across the BATCH, and a picture's residuals depend on the other pictures of its
#   batch; the tokens of one image never see each other. Pipelines do not show it: they run equal control pictures.
# Matters here: Darkroom batches rows of different requests, so each token has to be a sequence of its own.
# Source: diffusers 0.42.1, models/controlnets/controlnet_union.py, ResidualAttentionBlock and forward; torch's
#   documentation of MultiheadAttention (batch_first=False).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet diffusers==0.42.1 torch==2.15.0 transformers==5.23.0
cat > "$folder/look.py" <<'PYTHON'
import sys

import diffusers
import torch

print("diffusers", diffusers.__version__, "torch", torch.__version__)
torch.manual_seed(0)
union = diffusers.ControlNetUnionModel(
    block_out_channels=(32, 64), layers_per_block=1, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    cross_attention_dim=32, attention_head_dim=8, norm_num_groups=8, addition_time_embed_dim=8,
    conditioning_embedding_out_channels=(16, 32), num_trans_channel=32, num_proj_channel=32, num_trans_head=4,
).eval()
with torch.no_grad():
    for parameter in union.parameters():
        if parameter.abs().max() == 0:
            parameter.normal_(std=1.0)


def residual(pictures, kinds):
    """Return the middle residual of each image of a batch; `pictures` are by kind, (batch, 3, 16, 16)."""
    batch = len(pictures[0])
    draw = torch.Generator().manual_seed(1)
    sample = torch.randn(1, 4, 8, 8, generator=draw).expand(batch, -1, -1, -1)
    text = torch.randn(1, 7, 32, generator=draw).expand(batch, -1, -1)
    types = torch.zeros(batch, 6)
    types[:, kinds] = 1
    with torch.no_grad():
        return union(
            sample, torch.full((batch,), 400.0), text, controlnet_cond=pictures, control_type=types,
            control_type_idx=kinds, conditioning_scale=[1.0] * len(kinds), return_dict=False,
        )[1]


one, other = torch.rand(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
alone = residual([one], [3])
beside_itself = residual([torch.cat([one, one])], [3])[:1]
beside_another = residual([torch.cat([one, other])], [3])[:1]
same, moved = ((alone - each).abs().max().item() for each in (beside_itself, beside_another))
print(f"largest change of one image's residual beside an equal image: {same:.1e}, beside another image: {moved:.1e}")
sys.exit(0 if moved > 50 * same else 1)
PYTHON
"$folder/venv/bin/python" "$folder/look.py"
