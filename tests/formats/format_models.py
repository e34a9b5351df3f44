"""Small and meta-device models in the families' architectures, and their configurations, for the tests here."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

CROSS_DOWN, PLAIN_DOWN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"

UNET_CONFIGS: dict[str, dict[str, Any]] = {
    "sd1": {
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "sd2": {
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": (PLAIN_DOWN, CROSS_DOWN, CROSS_DOWN),
        "up_block_types": (CROSS_UP, CROSS_UP, PLAIN_UP),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
SMALL = {
    "block_out_channels": (8, 16, 16, 16),
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
}
SMALL_UNET_CONFIGS: dict[str, dict[str, Any]] = {
    "sd1": SMALL,
    "sd2": SMALL | {"use_linear_projection": True},
    "sdxl": UNET_CONFIGS["sdxl"]
    | SMALL
    | {
        "block_out_channels": (8, 16, 16),
        "transformer_layers_per_block": (1, 2, 2),
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 36,
    },
    "narrow": SMALL
    | {
        "block_out_channels": (8, 16, 16),
        "layers_per_block": 1,
        "down_block_types": (CROSS_DOWN, CROSS_DOWN, CROSS_DOWN),
        "up_block_types": (CROSS_UP, CROSS_UP, CROSS_UP),
    },
    "narrow-plain-end": SMALL
    | {
        "block_out_channels": (8, 16, 16),
        "layers_per_block": 1,
        "down_block_types": (CROSS_DOWN, CROSS_DOWN, PLAIN_DOWN),
        "up_block_types": (PLAIN_UP, CROSS_UP, CROSS_UP),
    },
}
TEXT_CONFIGS: dict[str, dict[str, int]] = {
    "sd1": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "sd2": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
    "sdxl-2": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20},
}


def unet(config: dict[str, Any], device: str = "cpu") -> UNet2DConditionModel:
    """A UNet with random weights (none on "meta")."""
    with torch.device(device):
        return UNet2DConditionModel(**config)


def vae(device: str = "cpu", layers: int = 1) -> AutoencoderKL:
    """A four-level VAE with attention in the middle."""
    with torch.device(device):
        return AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=layers,
            norm_num_groups=4,
        )


def text_model(config: dict[str, int], *, projection: bool = False, device: str = "cpu") -> torch.nn.Module:
    """A CLIP text model, with or without text projection."""
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    with torch.device(device):
        return kind(CLIPTextConfig(**config))


def text_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """State dict with `text_model.` in front, which transformers 5 leaves out for models without projection."""
    state = model.state_dict()
    return {
        name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}": tensor
        for name, tensor in state.items()
    }


@functools.cache
def layer_shapes(family: str) -> dict[str, tuple[int, ...]]:
    """Canonical names and weight shapes of all linear and convolution layers of a full-size family, on "meta"."""
    models = {"unet": unet(UNET_CONFIGS[family], "meta")}
    models["text_encoder"] = text_model(TEXT_CONFIGS["sd1" if family == "sdxl" else family], device="meta")
    if family == "sdxl":
        models["text_encoder_2"] = text_model(TEXT_CONFIGS["sdxl-2"], projection=True, device="meta")
    shapes: dict[str, tuple[int, ...]] = {}
    for component, model in models.items():
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                bare = component.startswith("text") and name.startswith("encoder.")
                shapes[f"{component}.{'text_model.' if bare else ''}{name}"] = tuple(module.weight.shape)
    return shapes
