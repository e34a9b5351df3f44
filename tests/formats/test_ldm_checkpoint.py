"""Single-file checkpoints: split and joined, with diffusers' own converters as the independent oracle."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers.loaders import single_file_utils as oracle
from format_models import SMALL_UNET_CONFIGS, text_model, text_state, unet, vae

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.keys.unet_layout import SD1, SDXL, UNetLayout
from lib_loraclr.formats.ldm import LdmCheckpoint, join_checkpoint, read_checkpoint, split_checkpoint
from lib_loraclr.formats.safetensors_io import write_safetensors

SMALL_TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "vocab_size": 20, "projection_dim": 16}  # fmt: skip


def checkpoint(kind: str) -> LdmCheckpoint:
    torch.manual_seed(0)
    family = kind if kind in ("sd2", "sdxl") else "sd1"
    model = unet(SMALL_UNET_CONFIGS[kind])
    modules = [name for name, _ in model.named_modules()]
    layout = UNetLayout.from_diffusers(modules)
    assert layout is not None
    second = text_state(text_model(SMALL_TEXT, projection=True)) if family == "sdxl" else {}
    first = text_state(text_model(SMALL_TEXT))
    return LdmCheckpoint(family, layout, dict(model.state_dict()), dict(vae().state_dict()), first, second)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("kind", SMALL_UNET_CONFIGS)
def test_joined_checkpoint_is_what_diffusers_converts_back(kind: str) -> None:
    start = checkpoint(kind)
    single = join_checkpoint(start)
    config = SMALL_UNET_CONFIGS[kind]
    defaults = {"layers_per_block": 2, "addition_embed_type": None, "class_embed_type": None, "num_class_embeds": None}
    assert same(oracle.convert_ldm_unet_checkpoint(dict(single), defaults | config), start.unet)
    blocks = {"down_block_types": ["x"] * 4, "up_block_types": ["x"] * 4}
    assert same(oracle.convert_ldm_vae_checkpoint(dict(single), blocks), start.vae)
    if start.family == "sd2":
        model = SimpleNamespace(config=SimpleNamespace(hidden_size=16))
        found = oracle.convert_open_clip_checkpoint(model, dict(single), prefix="cond_stage_model.model.")
        assert same(found, start.text_encoder)
    else:
        assert same(oracle.convert_ldm_clip_checkpoint(dict(single)), start.text_encoder)
    if start.family == "sdxl":
        model = SimpleNamespace(config=SimpleNamespace(hidden_size=16))
        found = oracle.convert_open_clip_checkpoint(model, dict(single), prefix="conditioner.embedders.1.model.")
        assert same(found, start.text_encoder_2)


@pytest.mark.parametrize("kind", SMALL_UNET_CONFIGS)
def test_split_undoes_join_and_finds_the_layout(kind: str) -> None:
    start = checkpoint(kind)
    single = join_checkpoint(start) | {"betas": torch.arange(3.0)}
    found = split_checkpoint(single)
    assert (found.family, found.layout) == (start.family, start.layout)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        assert same(getattr(found, part), getattr(start, part)), part
    assert list(found.other) == ["betas"]
    assert same(join_checkpoint(found), single)


def test_standard_layouts() -> None:
    for kind, layout in (("sd1", SD1), ("sdxl", SDXL)):
        assert checkpoint(kind).layout == layout


def test_attention_of_the_vae_is_a_convolution_in_the_file() -> None:
    single = join_checkpoint(checkpoint("sd1"))
    assert single["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (16, 16, 1, 1)
    linear = {key: t[:, :, 0, 0] if "attn_1" in key and t.dim() == 4 else t for key, t in single.items()}
    assert same(split_checkpoint(linear).vae, split_checkpoint(single).vae)


def test_position_ids_and_sd2_projection_survive_the_round_trip() -> None:
    single = join_checkpoint(checkpoint("sd1"))
    single["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(4)
    assert same(join_checkpoint(split_checkpoint(single)), single)
    single = join_checkpoint(checkpoint("sd2")) | {"cond_stage_model.model.text_projection": torch.randn(3, 5)}
    split = split_checkpoint(single)
    assert "text_projection.weight" not in split.text_encoder
    assert same(join_checkpoint(split), single)


def test_a_lora_or_half_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    single = join_checkpoint(checkpoint("sd1"))
    write_safetensors(path, {key: t for key, t in single.items() if not key.startswith("first_stage")}, {})
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    assert caught.value.code == "not-a-checkpoint"
    assert "half.safetensors" in caught.value.message
    assert "VAE" in caught.value.message
    assert caught.value.file == str(path)
