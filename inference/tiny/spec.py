"""The tiny model's configuration: SDXL's own structure with every number made small.

Kept from SDXL: three resolution levels with attention on the lower two, linear projections, text-and-time
conditioning, two text encoders whose penultimate layers are concatenated, a VAE of factor 8, a ControlNet with a
four-level conditioning embedding, and the `leading` schedule with an offset of 1. Made small: 64 pixels
(latent 8), 32 to 64 channels, one residual block a level, about 3.3 million parameters in all.
"""

from __future__ import annotations

from typing import Any, Final

CROSS_ATTENTION_WIDTH: Final = 64
TEXT_WIDTH: Final = 32
TIME_ID_WIDTH: Final = 8

_BLOCKS: Final[dict[str, Any]] = {
    "block_out_channels": [32, 64, 64],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "transformer_layers_per_block": [1, 1, 2],
    "attention_head_dim": [2, 4, 4],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": TIME_ID_WIDTH,
    # Six time ids, each in a sinusoidal embedding, beside the pooled text embedding.
    "projection_class_embeddings_input_dim": 6 * TIME_ID_WIDTH + TEXT_WIDTH,
    "cross_attention_dim": CROSS_ATTENTION_WIDTH,
}

_TEXT: Final[dict[str, Any]] = {
    # 256 bytes, 256 bytes that end a word, and the two special tokens.
    "vocab_size": 514,
    "bos_token_id": 512,
    "eos_token_id": 513,
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 64,
    "projection_dim": TEXT_WIDTH,
    "num_attention_heads": 4,
    # The embeddings are the penultimate layer's, so the last one only feeds the pooled embedding.
    "num_hidden_layers": 3,
    "max_position_embeddings": 77,
}

SPEC: Final[dict[str, Any]] = {
    "format": 1,
    "seed": 20260714,
    "unet": {
        **_BLOCKS,
        "sample_size": 8,
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    },
    "controlnet": {**_BLOCKS, "conditioning_embedding_out_channels": [8, 16, 32, 32]},
    "vae": {
        "block_out_channels": [16, 16, 32, 32],
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "latent_channels": 4,
        "sample_size": 64,
        "scaling_factor": 0.13025,
        "force_upcast": True,
    },
    "text_encoder": {**_TEXT, "hidden_act": "quick_gelu"},
    "text_encoder_2": {**_TEXT, "hidden_act": "gelu"},
    "tokenizer": {"pad_token": "<|endoftext|>"},
    "tokenizer_2": {"pad_token": "!"},
    "scheduler": {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "steps_offset": 1,
        "timestep_spacing": "leading",
    },
    # Factors on freshly drawn weights. Without them a random UNet predicts next to nothing, a random VAE paints an
    # even grey, and a random pose encoder lets nothing of the pose through.
    "unet_output_gain": 4.0,
    "vae_output_gain": 1.5,
    "pose_encoder_gain": 3.0,
}
