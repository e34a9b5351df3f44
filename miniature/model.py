"""The architecture: Stable Diffusion 1 with small widths. All widths are multiples of 32 (GroupNorm 32), 8 heads."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

SIZE = 96
LATENT = SIZE // 8
SCALE = 0.18215
UNET_WIDTHS = (64, 128, 128)  # the LDM code multiplies: each must be a whole multiple of the first
VAE_WIDTHS = (32, 32, 64, 64)
TEXT = {
    "vocab_size": 49408, "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4,
    "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "projection_dim": 192,
    "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407,
}  # fmt: skip


def build_vae() -> AutoencoderKL:
    """AutoencoderKL, f = 8, 4 latent channels, attention in the middle."""
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, sample_size=SIZE, layers_per_block=1, norm_num_groups=32,
        block_out_channels=VAE_WIDTHS, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=SCALE,
    )  # fmt: skip


def build_unet() -> UNet2DConditionModel:
    """UNet2DConditionModel with a transformer in every level; `attention_head_dim` is the number of heads (SD1)."""
    return UNet2DConditionModel(
        sample_size=LATENT, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=UNET_WIDTHS,
        down_block_types=("CrossAttnDownBlock2D",) * 3, up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=TEXT["hidden_size"], attention_head_dim=8, use_linear_projection=False,
    )  # fmt: skip


def build_text() -> CLIPTextModel:
    """CLIP text model with the standard vocabulary and a narrow width: wider than the captions have words, though, so
    that words can be independent of each other, as they can be in real Stable Diffusion."""
    model = CLIPTextModel(CLIPTextConfig(**TEXT))
    # Words that no caption uses keep these vectors: they must be as large as the trained ones to be told apart. Two
    # values alone, since they fill half of the checkpoint and random bits pack sixteen times better than random floats.
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        table.copy_((torch.randint(0, 2, table.shape) * 2 - 1) * 0.2)
    final = model.text_model.final_layer_norm if hasattr(model, "text_model") else model.final_layer_norm
    # Hosts divide by the mean of the output for emphasis: it must not be zero.
    torch.nn.init.constant_(final.bias, 0.02)
    return model


def alphas_cumprod(steps: int = 1000, start: float = 0.00085, end: float = 0.012) -> torch.Tensor:
    """Cumulative products of the scaled-linear schedule, float64 (steps,)."""
    betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)
