"""PEFT and diffusers files: written by those libraries, dW against PEFT's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
from format_models import SMALL_UNET_CONFIGS, text_model, unet
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lib_loraclr.formats import read_lora

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
SMALL_TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "vocab_size": 20}  # fmt: skip


def randomise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(4)
    for name, parameter in model.named_parameters():
        if any(word in name for word in ("lora_", "hada_", "lokr_")):
            parameter.data = 0.5 + torch.rand(parameter.shape, generator=generator)


def peft_deltas(model: nn.Module, root: str) -> dict[str, Tensor]:
    """What PEFT adds to each layer, by canonical name."""
    return {
        root + name.removeprefix("base_model.model."): module.get_delta_weight("default").detach().flatten(1)
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def assert_same_deltas(path: Path, expected: dict[str, Tensor]) -> None:
    file = read_lora(path)
    assert not file.warnings
    assert file.layers.keys() == expected.keys()
    for name, delta in expected.items():
        ours = file.layers[name].delta().dense()
        assert float((ours - delta).norm() / delta.norm()) < 1e-6, name


CONFIGS: dict[str, Any] = {
    "lora": LoraConfig(r=4, lora_alpha=6, target_modules=ATTENTION, init_lora_weights=False),
    "rank-stabilised": LoraConfig(r=4, lora_alpha=6, target_modules=ATTENTION, use_rslora=True),
    "patterns": LoraConfig(
        r=4, lora_alpha=6, target_modules=ATTENTION, rank_pattern={"attn2.to_k": 2}, alpha_pattern={"attn2.to_k": 5}
    ),
    "conv": LoraConfig(r=3, lora_alpha=6, target_modules=["conv1", "time_emb_proj", "proj_in"]),
    "loha": LoHaConfig(r=2, alpha=3, target_modules=["to_q", "conv1"]),
    "lokr": LoKrConfig(r=2, alpha=3, target_modules=["to_q", "conv1"]),
    "lokr-both": LoKrConfig(r=1, alpha=3, target_modules=["to_q", "conv1"], decompose_both=True),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_peft_adapter_folder(case: str, tmp_path: Path) -> None:
    model = get_peft_model(unet(SMALL_UNET_CONFIGS["sd1"]), CONFIGS[case])
    randomise(model)
    expected = peft_deltas(model, "unet.")
    model.save_pretrained(tmp_path)
    assert_same_deltas(tmp_path / "adapter_model.safetensors", expected)


def diffusers_file(folder: Path, **metadata: Any) -> tuple[Path, dict[str, Tensor]]:
    parts = {"unet": unet(SMALL_UNET_CONFIGS["sd1"]), "text_encoder": text_model(SMALL_TEXT)}
    config = LoraConfig(r=4, lora_alpha=6, target_modules=[*ATTENTION, "q_proj", "v_proj"])
    expected: dict[str, Tensor] = {}
    states: dict[str, dict[str, Tensor]] = {}
    for name, model in parts.items():
        wrapped = get_peft_model(model, config)
        randomise(wrapped)
        expected |= peft_deltas(wrapped, f"{name}.")
        state = get_peft_model_state_dict(wrapped)
        states[name] = {key.removeprefix("base_model.model."): tensor for key, tensor in state.items()}
    expected = {
        name.replace("text_encoder.encoder", "text_encoder.text_model.encoder"): delta
        for name, delta in expected.items()
    }
    StableDiffusionLoraLoaderMixin.save_lora_weights(
        folder, unet_lora_layers=states["unet"], text_encoder_lora_layers=states["text_encoder"], **metadata
    )
    return folder / "pytorch_lora_weights.safetensors", expected


def test_diffusers_file_with_configuration(tmp_path: Path) -> None:
    config = {"r": 4, "lora_alpha": 6, "use_rslora": False, "alpha_pattern": {}}
    path, expected = diffusers_file(
        tmp_path, unet_lora_adapter_metadata=config, text_encoder_lora_adapter_metadata=config
    )
    assert_same_deltas(path, expected)


def test_diffusers_file_without_configuration_has_scale_one(tmp_path: Path) -> None:
    path, expected = diffusers_file(tmp_path)
    assert_same_deltas(path, {name: delta * 4 / 6 for name, delta in expected.items()})


DOWN, UP = ".lora_A.weight", ".lora_B.weight"
STYLES = {
    "old diffusers": (DOWN, "_lora.down.weight", UP, "_lora.up.weight", "attn1.", "attn1.processor."),
    "old peft": (DOWN, ".lora.down.weight", UP, ".lora.up.weight", "attn1.", "attn1.processor."),
    "linear layer": (DOWN, ".lora_linear_layer.down.weight", UP, ".lora_linear_layer.up.weight"),
    "adapter name": (DOWN, ".lora_A.default.weight", UP, ".lora_B.default.weight"),
    "wrapped": ("unet.", "unet.base_model.model."),
}


@pytest.mark.parametrize("style", STYLES)
def test_older_spellings_of_the_same_file(style: str, tmp_path: Path) -> None:
    path, expected = diffusers_file(tmp_path)
    changes = STYLES[style]
    tensors: dict[str, Tensor] = {}
    for key, tensor in load_file(path).items():
        for old, new in zip(changes[::2], changes[1::2], strict=True):
            key = key.replace(old, new)
        if style == "old diffusers":
            key = key.replace("to_out.0_lora", "to_out_lora")
        tensors[key] = tensor
    save_file(tensors, tmp_path / "old.safetensors")
    assert_same_deltas(tmp_path / "old.safetensors", {name: delta * 4 / 6 for name, delta in expected.items()})


@pytest.mark.parametrize("target", ["to_q", "conv1"])
def test_dora_of_peft(target: str, tmp_path: Path) -> None:
    model = unet(SMALL_UNET_CONFIGS["sd1"])
    bases = {f"unet.{name}": module.weight.detach().clone() for name, module in model.named_modules()
             if name.endswith(target)}  # fmt: skip
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules=[target], use_dora=True))
    randomise(wrapped)
    wrapped.save_pretrained(tmp_path)
    file = read_lora(tmp_path / "adapter_model.safetensors")
    merged = wrapped.merge_and_unload()
    weights = {f"unet.{name}": module.weight.detach() for name, module in merged.named_modules()
               if name.endswith(target)}  # fmt: skip
    assert file.types == ("dora",)
    assert file.layers.keys() == bases.keys() == weights.keys()
    for name, update in file.layers.items():
        expected = (weights[name] - bases[name]).flatten(1)
        assert float((update.delta(bases[name]).dense() - expected).norm() / expected.norm()) < 2e-6, name


def test_configuration_that_is_not_json_is_ignored(tmp_path: Path) -> None:
    key = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{key}.lora_A.weight": torch.ones(2, 3), f"{key}.lora_B.weight": torch.ones(4, 2)}
    for text in ("{", "[1]", json.dumps({"unet.lora_alpha": "x", "unet.r": 2})):
        save_file(tensors, tmp_path / "a.safetensors", metadata={"lora_adapter_metadata": text})
        (update,) = read_lora(tmp_path / "a.safetensors").layers.values()
        assert torch.equal(update.delta().dense(), torch.full((4, 3), 2.0))
