"""Sizes of a Stable Diffusion checkpoint, read off its tensor shapes and, where there is one, its `.yaml`.

Shapes say almost everything. What they cannot say (number of heads, schedule, prediction type, native size) comes from
the LDM-style yaml beside the checkpoint or from the family's standard settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.keys.family import family_of_checkpoint

Shapes = Mapping[str, tuple[int, ...]]

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP_TOKENS = 49408


@dataclass(frozen=True)
class TextSize:
    """One text encoder. `layers` counts the layers that are run; `open_clip` tells the key layout."""

    open_clip: bool
    width: int
    inner: int
    layers: int
    heads: int
    vocabulary: int
    positions: int
    projection: int | None


@dataclass(frozen=True)
class Architecture:
    """Everything that is needed to build the modules; `unet` and `vae` are diffusers constructor arguments."""

    family: str
    unet: dict[str, Any]
    vae: dict[str, Any]
    text: tuple[TextSize, ...]
    prediction: str | None  # "epsilon", "v" or None: not known from shapes and yaml
    native_size: int
    latent_scale: float
    beta_range: tuple[float, float]
    train_steps: int


def family_of(shapes: Shapes, file: str) -> str:
    """ "sd1", "sd2" or "sdxl", by the text encoder that the checkpoint carries."""
    if not any(key.startswith(UNET) for key in shapes):
        if any(re.search(r"lora_(up|down|A|B)\b|\.hada_|\.lokr_|\.oft_", key) for key in shapes):
            raise InputError(
                "lora-as-checkpoint", f"{file} is a LoRA, but a checkpoint (a whole model) is needed here.",
                file=file, key=next(iter(shapes)),
            )  # fmt: skip
        raise InputError(
            "not-a-checkpoint",
            f"{file} is not a single-file Stable Diffusion checkpoint: it has no tensor named {UNET}….", file=file,
            key=next(iter(shapes), None),
        )  # fmt: skip
    family = family_of_checkpoint(shapes)
    if family != "unknown":
        return family
    raise InputError(
        "unsupported-checkpoint",
        f"{file} has a UNet but no text encoder of the SD1, SD2 or SDXL layout (no tensor named "
        f"cond_stage_model.… or conditioner.embedders.1.…).", file=file, key="cond_stage_model",
    )  # fmt: skip


def read_architecture(shapes: Shapes, config: Mapping[str, Any] | None, file: str, config_file: str) -> Architecture:
    """Sizes from shapes, checked against the yaml; raises InputError where the two disagree."""
    family = family_of(shapes, file)
    params = _params(config) if config is not None else {}
    unet_yaml = _params(params.get("unet_config"))
    try:
        unet = _unet(shapes, family, unet_yaml)
        vae = _vae(shapes)
        text = _text(shapes, family)
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(
            "incomplete-checkpoint", f"{file} lacks tensors of a {family} checkpoint: {error.args[0]}.", file=file,
            key=str(error.args[0]),
        ) from error  # fmt: skip
    _check_yaml(unet, unet_yaml, file, config_file)
    prediction = {"eps": "epsilon", "v": "v"}.get(params.get("parameterization", ""))
    if prediction is None and family != "sd2" and not any(key == "v_pred" for key in shapes):
        prediction = "epsilon"
    if any(key == "v_pred" for key in shapes):
        prediction = "v"
    native = {"sd1": 512, "sd2": 768 if prediction == "v" else 512, "sdxl": 1024}[family]
    if isinstance(params.get("image_size"), int):
        native = params["image_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
    return Architecture(
        family, unet, vae, text, prediction, native,
        float(params.get("scale_factor", 0.13025 if family == "sdxl" else 0.18215)),
        (float(params.get("linear_start", 0.00085)), float(params.get("linear_end", 0.012))),
        int(params.get("timesteps", 1000)),
    )  # fmt: skip


def _params(node: Any) -> dict[str, Any]:
    if isinstance(node, Mapping) and "model" in node:
        node = node["model"]
    params = node.get("params") if isinstance(node, Mapping) else None
    return dict(params) if isinstance(params, Mapping) else {}


def _unet(shapes: Shapes, family: str, yaml: Mapping[str, Any]) -> dict[str, Any]:
    """Walk the input blocks: a block is a residual block with or without a transformer, or a downsampling."""
    widths, blocks, depths = [], [0], [0]
    for index in range(1, 1 + max(_numbers(shapes, UNET + r"input_blocks\.(\d+)\."))):
        stem = f"{UNET}input_blocks.{index}."
        if f"{stem}0.op.weight" in shapes:
            blocks.append(0)
            depths.append(0)
            continue
        blocks[-1] += 1
        depths[-1] = _depth(shapes, f"{stem}1.")
        widths[len(blocks) - 1 :] = [shapes[f"{stem}0.out_layers.3.weight"][0]]
    if len(set(blocks)) != 1:
        raise ValueError(f"an equal number of blocks in every level of {UNET}input_blocks")
    middle = _depth(shapes, f"{UNET}middle_block.1.")
    context = next((s[1] for key, s in shapes.items() if key.endswith("attn2.to_k.weight")), None)
    projection = next((s for key, s in shapes.items() if key.endswith("input_blocks.1.1.proj_in.weight")), None)
    projection = projection or next(s for key, s in shapes.items() if key.endswith("proj_in.weight"))
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    per_level = [depth or 1 for depth in depths[:-1]] + [depths[-1] or middle]
    label = shapes.get(f"{UNET}label_emb.0.0.weight")
    return {
        "in_channels": shapes[f"{UNET}input_blocks.0.0.weight"][1],
        "out_channels": shapes[f"{UNET}out.2.weight"][0],
        "block_out_channels": tuple(widths),
        "layers_per_block": blocks[0],
        "down_block_types": tuple(down),
        "up_block_types": tuple(kind.replace("Down", "Up") for kind in reversed(down)),
        "transformer_layers_per_block": tuple(per_level),
        "cross_attention_dim": context,
        "use_linear_projection": len(projection) == 2,
        "attention_head_dim": _heads(widths, family, yaml),  # diffusers' name for the number of heads
        "addition_embed_type": "text_time" if label else None,
        "addition_time_embed_dim": 256 if label else None,
        "projection_class_embeddings_input_dim": label[1] if label else None,
    }


def _heads(widths: list[int], family: str, yaml: Mapping[str, Any]) -> tuple[int, ...]:
    """Number of attention heads per level: 8 in SD1, heads of 64 channels in SD2 and SDXL."""
    size = int(yaml.get("num_head_channels", -1 if family == "sd1" or int(yaml.get("num_heads", -1)) > 0 else 64))
    if size > 0:
        return tuple(max(1, width // size) for width in widths)
    return (int(yaml.get("num_heads", 8)),) * len(widths)


def _depth(shapes: Shapes, stem: str) -> int:
    found = _numbers(shapes, re.escape(stem) + r"transformer_blocks\.(\d+)\.")
    return 1 + max(found) if found else 0


def _numbers(shapes: Shapes, pattern: str) -> set[int]:
    compiled = re.compile(pattern)
    found = (compiled.match(key) for key in shapes)
    return {int(match.group(1)) for match in found if match}


def _vae(shapes: Shapes) -> dict[str, Any]:
    """Sizes of the autoencoder."""
    levels = 1 + max(_numbers(shapes, VAE + r"encoder\.down\.(\d+)\.block"))
    widths = tuple(shapes[f"{VAE}encoder.down.{i}.block.0.conv2.weight"][0] for i in range(levels))
    return {
        "in_channels": shapes[f"{VAE}encoder.conv_in.weight"][1],
        "out_channels": shapes[f"{VAE}decoder.conv_out.weight"][0],
        "latent_channels": shapes[f"{VAE}decoder.conv_in.weight"][1],
        "block_out_channels": widths,
        "layers_per_block": 1 + max(_numbers(shapes, VAE + r"encoder\.down\.0\.block\.(\d+)\.")),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }


def _text(shapes: Shapes, family: str) -> tuple[TextSize, ...]:
    """SD1: CLIP. SD2: OpenCLIP without its last layer. SDXL: both, the second with a projection."""
    if family == "sd1":
        return (_clip(shapes, "cond_stage_model.transformer."),)
    if family == "sd2":
        return (_open_clip(shapes, "cond_stage_model.model.", dropped=1),)
    return _clip(shapes, "conditioner.embedders.0.transformer."), _open_clip(shapes, "conditioner.embedders.1.model.")


def _clip(shapes: Shapes, prefix: str) -> TextSize:
    if f"{prefix}text_model.final_layer_norm.weight" in shapes:
        prefix += "text_model."
    vocabulary, width = shapes[f"{prefix}embeddings.token_embedding.weight"]
    return TextSize(
        False, width, shapes[f"{prefix}encoder.layers.0.mlp.fc1.weight"][0],
        1 + max(_numbers(shapes, re.escape(prefix) + r"encoder\.layers\.(\d+)\.")), max(8, width // 64), vocabulary,
        shapes[f"{prefix}embeddings.position_embedding.weight"][0], None,
    )  # fmt: skip


def _open_clip(shapes: Shapes, prefix: str, dropped: int = 0) -> TextSize:
    vocabulary, width = shapes[f"{prefix}token_embedding.weight"]
    projection = None if dropped else shapes[f"{prefix}text_projection"][1]
    return TextSize(
        True, width, shapes[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"][0],
        1 + max(_numbers(shapes, re.escape(prefix) + r"transformer\.resblocks\.(\d+)\.")) - dropped,
        max(8, width // 64), vocabulary, shapes[f"{prefix}positional_embedding"][0], projection,
    )  # fmt: skip


def _check_yaml(unet: Mapping[str, Any], yaml: Mapping[str, Any], file: str, config_file: str) -> None:
    """A yaml that belongs to another checkpoint is the usual mistake: say which number and which tensor disagree."""
    first, base = unet["block_out_channels"][0], f"{UNET}input_blocks.0.0.weight"
    found = {
        "model_channels": (first, base),
        "in_channels": (unet["in_channels"], base),
        "out_channels": (unet["out_channels"], f"{UNET}out.2.weight"),
        "num_res_blocks": (unet["layers_per_block"], f"{UNET}input_blocks"),
        "channel_mult": ([width / first for width in unet["block_out_channels"]], f"{UNET}input_blocks"),
        "context_dim": (unet["cross_attention_dim"], f"{UNET}…attn2.to_k.weight"),
    }
    for name, (actual, key) in found.items():
        told = yaml.get(name)
        told = list(told) if isinstance(told, (list, tuple)) else told
        if told is not None and told != actual:
            raise InputError(
                "config-mismatch", f"{config_file} says {name} {told}, but {file} has {actual} ({key}).", file=file,
                key=key,
            )  # fmt: skip
