"""Tensors of a single-file LDM checkpoint, renamed for diffusers and transformers modules."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .architecture import Architecture, TextSize

_BLOCK_NAMES = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
_OPEN_CLIP = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight", "ln_final.bias": "final_layer_norm.bias",
}  # fmt: skip


def unet_tensors(tensors: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """State dict of diffusers' UNet2DConditionModel."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    chosen = {key: value for key, value in tensors.items() if key.startswith("model.diffusion_model.")}
    return convert_ldm_unet_checkpoint(chosen, dict(architecture.unet))


def vae_tensors(tensors: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """State dict of diffusers' AutoencoderKL."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    chosen = {key: value for key, value in tensors.items() if key.startswith("first_stage_model.")}
    return convert_ldm_vae_checkpoint(chosen, dict(architecture.vae or {}))


def text_tensors(tensors: Mapping[str, Tensor], size: TextSize) -> dict[str, Tensor]:
    """State dict of a CLIP text model, names starting with `text_model.` (or `text_projection.`)."""
    own = {key[len(size.prefix) :]: value for key, value in tensors.items() if key.startswith(size.prefix)}
    if not size.open_clip:
        return {f"text_model.{key}": value for key, value in own.items() if not key.endswith("position_ids")}
    found: dict[str, Tensor] = {}
    for key, value in own.items():
        if key in _OPEN_CLIP:
            found[f"text_model.{_OPEN_CLIP[key]}"] = value
        elif key == "text_projection" and size.projection:
            found["text_projection.weight"] = value.T.contiguous()
        elif key.startswith("transformer.resblocks."):
            _, _, number, rest = key.split(".", 3)
            if int(number) < size.layers:
                found.update(_open_clip_layer(f"text_model.encoder.layers.{number}", rest, value))
    return found


def _open_clip_layer(stem: str, rest: str, value: Tensor) -> dict[str, Tensor]:
    """OpenCLIP fuses q, k and v into one matrix: split it."""
    name, kind = rest.rsplit(".", 1)
    if kind.startswith("in_proj_"):
        kind = kind.removeprefix("in_proj_")
        return {f"{stem}.self_attn.{p}_proj.{kind}": part for p, part in zip("qkv", value.chunk(3), strict=True)}
    return {f"{stem}.{_BLOCK_NAMES[name]}.{kind}": value}
