"""Full-size SD1.5, SD2.1 and SDXL: sizes read off shapes (meta tensors, no memory) against the published ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lib_loraclr.formats.keys.unet_layout import UNetLayout
from lib_loraclr.formats.ldm import LdmCheckpoint, join_checkpoint
from lib_loraclr.hosts.standalone.architecture import TextSize, read_architecture

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {
        "block_out_channels": (320, 640, 1280, 1280), "down_block_types": (CROSS, CROSS, CROSS, PLAIN),
        "cross_attention_dim": 768, "attention_head_dim": (8, 8, 8, 8), "use_linear_projection": False,
    },
    "sd2": {
        "block_out_channels": (320, 640, 1280, 1280), "down_block_types": (CROSS, CROSS, CROSS, PLAIN),
        "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280), "down_block_types": (PLAIN, CROSS, CROSS),
        "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20), "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2, 10), "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
TEXTS: dict[str, list[dict[str, Any]]] = {
    "sd1": [CLIP_L],
    "sd2": [{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}],
    "sdxl": [
        CLIP_L,
        {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
         "projection_dim": 1280},
    ],
}  # fmt: skip
VAE = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4}


def full_size(family: str) -> dict[str, tuple[int, ...]]:
    """Shapes of a whole checkpoint in the original layout, from models built as published."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    unet = dict(UNETS[family])
    unet["up_block_types"] = tuple(kind.replace("Down", "Up") for kind in reversed(unet["down_block_types"]))
    vae = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4, **VAE}
    with torch.device("meta"):
        models: list[Any] = [UNet2DConditionModel(**unet), AutoencoderKL(**vae)]
        for number, size in enumerate(TEXTS[family]):
            kind = CLIPTextModelWithProjection if number else CLIPTextModel
            models.append(kind(CLIPTextConfig(vocab_size=49408, **size)))
    states = [{k: v for k, v in model.state_dict().items() if not k.endswith("position_ids")} for model in models]
    texts = [{k if k.startswith("text_") else f"text_model.{k}": v for k, v in state.items()} for state in states[2:]]
    layout = UNetLayout.from_diffusers(states[0])
    assert layout is not None
    tensors = join_checkpoint(LdmCheckpoint(family, layout, states[0], states[1], *texts))
    return {key: tuple(value.shape) for key, value in tensors.items()}


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_published_sizes_are_recognised(family: str) -> None:
    found = read_architecture(full_size(family), None, "model.safetensors", "model.yaml")
    assert found.family == family
    for name, value in UNETS[family].items():
        assert found.unet[name] == value, name
    assert found.unet["layers_per_block"] == 2
    for name, value in VAE.items():
        assert found.vae[name] == value, name
    expected = []
    for number, size in enumerate(TEXTS[family]):
        opened = family == "sd2" or number == 1
        layers = size["num_hidden_layers"] - (family == "sd2")  # its last layer is not run
        expected.append(
            TextSize(opened, size["hidden_size"], size["intermediate_size"], layers, size["num_attention_heads"], 49408,
                     77, size.get("projection_dim"))
        )  # fmt: skip
    assert list(found.text) == expected
    assert found.latent_scale == (0.13025 if family == "sdxl" else 0.18215)
    assert found.prediction == (None if family == "sd2" else "epsilon")
    assert found.native_size == {"sd1": 512, "sd2": 512, "sdxl": 1024}[family]


def test_a_checkpoint_that_says_v_prediction() -> None:
    shapes = full_size("sdxl") | {"v_pred": (0,)}
    assert read_architecture(shapes, None, "model.safetensors", "model.yaml").prediction == "v"
