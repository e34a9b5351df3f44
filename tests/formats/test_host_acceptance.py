"""Files that we write have no key that A1111 or Forge cannot place, and each key goes to the layer it is for."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import pytest
import torch
from format_models import SMALL_UNET_CONFIGS, UNET_CONFIGS, layer_shapes, unet
from host_key_rules import A1111, FORGE_LIMIT, Forge, a1111_version, forge_version
from safetensors import safe_open

from lib_loraclr.core.deltas import LayerShape, LowRank
from lib_loraclr.formats import merged_metadata, write_lora
from lib_loraclr.formats.keys.unet_layout import UNetLayout

TEXT_LAYERS = {
    "sd1": {"text_encoder": 12},
    "sd2": {"text_encoder": 24},
    "sdxl": {"text_encoder": 12, "text_encoder_2": 32},
    "narrow": {"text_encoder": 2},
}
VERSIONS = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL", "narrow": "SD1"}


@functools.cache
def model(kind: str) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """(weight shapes by canonical name, LDM module -> diffusers module) of a model's UNet, norms included."""
    network = unet(SMALL_UNET_CONFIGS[kind] if kind == "narrow" else UNET_CONFIGS[kind], "meta")
    names = [name for name, module in network.named_modules() if getattr(module, "weight", None) is not None]
    layout = UNetLayout.from_diffusers(names)
    assert layout is not None
    modules = {ldm: name for name in names if (ldm := layout.to_ldm(name))}
    assert len(modules) == len(names)
    if kind != "narrow":
        return layer_shapes(kind), modules
    shapes = {f"unet.{name}": tuple(network.get_submodule(name).weight.shape) for name in names}
    shapes = {name: shape for name, shape in shapes.items() if len(shape) > 1}
    text = [f"text_encoder.text_model.encoder.layers.{i}.{part}" for i in range(2)
            for part in ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")]  # fmt: skip
    return shapes | dict.fromkeys(text, (8, 8)), modules


@pytest.mark.parametrize("kind", VERSIONS)
def test_every_key_of_a_full_merge_is_placed(kind: str, tmp_path: Path) -> None:
    shapes, modules = model(kind)
    family = "sd1" if kind == "narrow" else kind
    layers = {name: LowRank(torch.ones(s[0], 1), torch.ones(1, math.prod(s[1:]))) for name, s in shapes.items()}
    norm = "unet.down_blocks.0.resnets.0.norm1"
    vectors = {f"{norm}.weight": torch.ones(8), "unet.conv_in.bias": torch.ones(8),
               "text_encoder.text_model.encoder.layers.0.layer_norm1.weight": torch.ones(8)}  # fmt: skip
    written = write_lora(
        tmp_path / "m.safetensors",
        layers,
        {name: LayerShape.of(shape) for name, shape in shapes.items()},
        family=family,
        dtype="fp16",
        metadata=merged_metadata("m", family, [], {"method": "sum"}),
        vectors=vectors,
        model_layers=list(shapes),
    )
    assert written.left_out == ("text_encoder.text_model.encoder.layers.0.layer_norm1",)
    with safe_open(written.path, "pt") as file:
        keys, metadata = list(file.keys()), file.metadata()
    assert a1111_version(metadata) == forge_version(metadata) == VERSIONS[kind]

    a1111 = A1111(family, modules, TEXT_LAYERS[kind])
    forge = Forge(family, modules, TEXT_LAYERS[kind])
    for host, found, unmatched in (("a1111", *a1111.placed(keys)), ("forge", *forge.placed(keys))):
        # A1111 has no module for SDXL's text projection and ignores it; Forge has
        allowed = {key for key in keys if "te2_text_projection" in key and host == "a1111"}
        assert set(unmatched) == allowed
        assert len(allowed) <= 3 < FORGE_LIMIT
        targets = {target.replace(".", "_") for target in found.values() if "diffusion_model" in target}
        expected = {ldm for ldm, ours in modules.items() if f"unet.{ours}" in {*shapes, norm}}
        assert targets == {"diffusion_model_" + name.replace(".", "_") for name in expected}


@pytest.mark.parametrize("kind", VERSIONS)
def test_each_layer_arrives_at_its_own_module(kind: str, tmp_path: Path) -> None:
    shapes, modules = model(kind)
    family = "sd1" if kind == "narrow" else kind
    a1111, forge = A1111(family, modules, TEXT_LAYERS[kind]), Forge(family, modules, TEXT_LAYERS[kind])
    chosen = [name for name in shapes if name.startswith("unet.")][:: 7 if kind == "narrow" else 60]
    for name in chosen:
        shape = LayerShape.of(shapes[name])
        delta = LowRank(torch.ones(shape.out_features, 1), torch.ones(1, shape.in_features))
        path = tmp_path / "one.safetensors"
        write_lora(path, {name: delta}, {name: shape}, family=family, dtype="fp16", metadata={}, model_layers=shapes,
                   overwrite=True)  # fmt: skip
        with safe_open(path, "pt") as file:
            keys = list(file.keys())
        target = next(ldm for ldm, ours in modules.items() if name == f"unet.{ours}").replace(".", "_")
        for found, unmatched in (a1111.placed(keys), forge.placed(keys)):
            assert not unmatched
            assert [module.replace(".", "_") for module in found.values()] == [f"diffusion_model_{target}"]


def test_the_rules_can_fail() -> None:
    """A1111 misplaces diffusers names of a model with one residual block a level; that is why we write LDM names."""
    _, modules = model("narrow")
    a1111 = A1111("sd1", modules, TEXT_LAYERS["narrow"])
    assert a1111.module("lora_unet_down_blocks_1_attentions_0_proj_in") is None
    assert a1111.module("lora_unet_input_blocks_3_1_proj_in") == "diffusion_model_input_blocks_3_1_proj_in"
    assert a1111.module("lora_te_text_model_encoder_layers_0_nonsense") is None
    with pytest.raises(AssertionError, match="A1111 raises"):
        a1111.placed(["lora_unet_conv_in.diff_b"])
    assert Forge("sd1", modules, {}).placed(["lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"])[1]
