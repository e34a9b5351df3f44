"""Key maps: every layer of the real models (on the meta device) to and from every key style."""

from __future__ import annotations

import re

import pytest
import torch
from diffusers.loaders import single_file_utils
from format_models import SMALL_UNET_CONFIGS, UNET_CONFIGS, layer_shapes, unet

from lib_loraclr.formats.keys.keymap import KeyMap
from lib_loraclr.formats.keys.names import flatten, unflatten
from lib_loraclr.formats.keys.unet_layout import SD1, SDXL, UNetLayout

SHAPES = {family: layer_shapes(family) for family in UNET_CONFIGS}


def sd_scripts_keys(family: str) -> set[str]:
    """The keys that sd-scripts trains with conv layers on, by its own rule: prefix + name with dots as underscores.

    Linear and convolution layers inside Transformer2DModel, ResnetBlock2D, Downsample2D, Upsample2D; CLIPAttention and
    CLIPMLP. For SDXL its UNet has the module names of the original code base.
    """
    keys: set[str] = set()
    for name in SHAPES[family]:
        component, _, path = name.partition(".")
        if component == "unet":
            if re.search(r"attentions|resnets|downsamplers|upsamplers", path):
                keys.add(f"lora_unet_{flatten(ldm_name('sdxl', path) if family == 'sdxl' else path)}")
        elif ".layers." in path:
            prefix = {"text_encoder": "lora_te1" if family == "sdxl" else "lora_te", "text_encoder_2": "lora_te2"}
            keys.add(f"{prefix[component]}_{flatten(path)}")
    return keys


def ldm_name(family: str, path: str) -> str:
    name = UNetLayout.of_family(family).to_ldm(path)
    assert name
    return name


def test_number_of_layers_is_that_of_known_full_coverage_files() -> None:
    # kohya LoRA of SD1.5: 192 UNet layers with attention only, 72 in the text encoder (counted in published files).
    keys = sd_scripts_keys("sd1")
    assert sum("attentions" in key for key in keys) == 192
    assert sum(key.startswith("lora_te_") for key in keys) == 72
    # SDXL: 722 UNet layers with attention only, 72 + 192 in the text encoders.
    keys = sd_scripts_keys("sdxl")
    assert sum(key.startswith("lora_unet") and re.search(r"proj_|transformer", key) is not None for key in keys) == 722
    assert sum(key.startswith("lora_te1_") for key in keys) == 72
    assert sum(key.startswith("lora_te2_") for key in keys) == 192


@pytest.mark.parametrize("known", [True, False], ids=["model known", "by grammar"])
@pytest.mark.parametrize("family", UNET_CONFIGS)
def test_every_sd_scripts_key_maps_to_a_module_and_back(family: str, known: bool) -> None:
    keymap = KeyMap.from_layers(SHAPES[family]) if known else KeyMap.of_family(family)
    keys = sd_scripts_keys(family)
    names = {key: keymap.canonical(key) for key in keys}
    assert [key for key, name in names.items() if name not in SHAPES[family]] == []
    assert len(set(names.values())) == len(keys)
    sdxl = family == "sdxl"
    assert all(keymap.kohya(name, sdxl=sdxl, ldm=sdxl) == key for key, name in names.items() if name)


@pytest.mark.parametrize("family", UNET_CONFIGS)
def test_every_layer_survives_every_style(family: str) -> None:
    """Also layers that sd-scripts leaves out: conv_in, time embedding, add embedding, text projection."""
    keymap = KeyMap.of_family(family)
    exact = KeyMap.from_layers(SHAPES[family])
    for name in SHAPES[family]:
        path = name.partition(".")[2]
        flat = flatten(path)
        styles = [keymap.kohya(name, sdxl=family == "sdxl", ldm=False), name, f"base_model.model.{name}"]
        if name.startswith("unet."):
            ldm = keymap.layout.to_ldm(path)
            assert ldm
            styles += [f"lycoris_{flat}", f"lora_unet_{flatten(ldm)}", f"diffusion_model.{ldm}", f"oft_unet_{flat}"]
            styles += [f"lora_unet.{path}", path, f"model.diffusion_model.{ldm}", f"lycoris_unet_{flat}"]
        elif name.startswith("text_encoder."):
            styles += [f"lora_te1_{flat}", f"lora_te_{flat}", f"text_encoder.{path.removeprefix('text_model.')}"]
            styles += [f"lycoris_{flat}", f"clip_l.{path}", f"lora_te1.{path}", f"lycoris_text_encoder_{flat}"]
        else:
            styles += [f"clip_g.transformer.{path}", f"lycoris_text_encoder_2_{flat}"]
        for style in styles:
            assert keymap.canonical(style) == name, style
            assert exact.canonical(style) == name, style


@pytest.mark.parametrize("family", UNET_CONFIGS)
def test_attention_processor_names(family: str) -> None:
    for name in SHAPES[family]:
        old = re.sub(r"(attn[12])\.", r"\1.processor.", name).removesuffix(".0") if "attn" in name else name
        if ".attn" in name and "unet" in name:
            assert KeyMap.of_family(family).canonical(old) == name


def test_flattening_is_undone_for_every_layer() -> None:
    for family, shapes in SHAPES.items():
        for name in shapes:
            path = name.partition(".")[2]
            assert unflatten(flatten(path)) == path
            if name.startswith("unet."):
                ldm = UNetLayout.of_family(family).to_ldm(path)
                assert ldm
                assert unflatten(flatten(ldm)) == ldm
    assert unflatten("down_blocks_0_nonsense") is None
    assert unflatten("") is None


@pytest.mark.parametrize("family", UNET_CONFIGS)
def test_block_numbers_are_those_of_diffusers_converter(family: str) -> None:
    """Numbered tensors under our LDM names, sent through diffusers' own converter, arrive at the layer they are for."""
    paths = [name.removeprefix("unet.") for name in SHAPES[family] if name.startswith("unet.")]
    numbered = {
        f"model.diffusion_model.{ldm_name(family, path)}.weight": torch.tensor(i) for i, path in enumerate(paths)
    }
    biases = {key.replace(".weight", ".bias"): tensor for key, tensor in numbered.items()}
    norms = {f"model.diffusion_model.out.0.{end}": torch.tensor(-1) for end in ("weight", "bias")}
    config = {"layers_per_block": 2, "addition_embed_type": None, "class_embed_type": None, "num_class_embeds": None}
    found = single_file_utils.convert_ldm_unet_checkpoint(numbered | biases | norms, config | UNET_CONFIGS[family])
    assert {path: int(found[f"{path}.weight"]) for path in paths} == {path: i for i, path in enumerate(paths)}


def test_block_numbers_of_published_files() -> None:
    assert SDXL.to_ldm("down_blocks.1.attentions.0.proj_in") == "input_blocks.4.1.proj_in"
    assert SDXL.to_ldm("up_blocks.1.upsamplers.0.conv") == "output_blocks.5.2.conv"
    assert SD1.to_ldm("up_blocks.0.upsamplers.0.conv") == "output_blocks.2.1.conv"
    assert SD1.to_ldm("down_blocks.2.downsamplers.0.conv") == "input_blocks.9.0.op"


@pytest.mark.parametrize("kind", ["narrow", "narrow-plain-end"])
def test_block_numbers_of_a_lora_give_a_narrow_model_away(kind: str) -> None:
    names = [
        name for name, module in unet(SMALL_UNET_CONFIGS[kind], "meta").named_modules() if hasattr(module, "weight")
    ]
    layout = UNetLayout.from_diffusers(names)
    assert layout is not None
    attention = [name for name in names if re.search(r"attn\d\.to_([qkv]|out\.0)$", name)]
    keys = [KeyMap(layout).kohya(f"unet.{name}", sdxl=False, ldm=True) for name in attention]
    guessed = KeyMap.guess(keys, "unknown")
    assert [guessed.canonical(key) for key in keys] == [f"unet.{name}" for name in attention]


def test_names_of_other_models_are_refused() -> None:
    exact = KeyMap.from_layers(SHAPES["sd1"])
    for key in (
        "lora_unet_double_blocks_0_img_attn_qkv",
        "lora_unet_down_blocks_3_attentions_0_proj_in",  # SD1 has no attention there
        "lora_unet_input_blocks_3_1_proj_in",
        "lora_te_text_model_encoder_layers_12_mlp_fc1",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
        "transformer.single_blocks.0.linear1",
        "",
        "lora_unet_",
    ):
        assert exact.canonical(key) is None, key
    with pytest.raises(ValueError, match="no kohya key"):
        exact.kohya("vae.encoder.conv_in", sdxl=False, ldm=False)


def test_a_model_of_unknown_kind_matches_by_its_own_names() -> None:
    keymap = KeyMap.from_layers(["transformer.blocks.0.qkv"])
    assert keymap.canonical("transformer_blocks_0_qkv") == "transformer.blocks.0.qkv"


def test_text_layers_keep_the_name_that_the_model_gives_them() -> None:
    """transformers 5 has no `text_model` in a plain CLIPTextModel; files always do."""
    name = "text_encoder.encoder.layers.0.mlp.fc1"
    keymap = KeyMap.from_layers([name])
    assert keymap.canonical("lora_te_text_model_encoder_layers_0_mlp_fc1") == name
    assert keymap.kohya(name, sdxl=False, ldm=False) == "lora_te_text_model_encoder_layers_0_mlp_fc1"
