"""Key names of the original latent-diffusion (LDM) layout for this architecture, made from the diffusers names."""

from __future__ import annotations

import re
from string import Template

import torch
from torch import Tensor

from .model import SCALE, TEXT, UNET_WIDTHS, VAE_WIDTHS

LEVELS = len(UNET_WIDTHS)
_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
           "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip
_UNET_TOP = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
             "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_key(name: str) -> str:
    """LDM name (without `model.diffusion_model.`) of a UNet parameter; one res block a level as everywhere here."""
    stem, leaf = name.rsplit(".", 1)
    if stem in _UNET_TOP:
        return f"{_UNET_TOP[stem]}.{leaf}"
    if m := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", stem):
        index = 2 * int(m[2]) if m[1] == "resnets" else 1
        return f"middle_block.{index}.{_RESNET.get(m[3], m[3])}.{leaf}"
    m = re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.+)", stem)
    assert m, name
    side, level, part, index, rest = m[1], int(m[2]), m[3], int(m[4]), m[5]
    if part == "downsamplers":
        return f"input_blocks.{2 * level + 2}.0.op.{leaf}"
    if part == "upsamplers":
        return f"output_blocks.{2 * level + 1}.2.conv.{leaf}"
    block = f"input_blocks.{2 * level + 1 + index}" if side == "down" else f"output_blocks.{2 * level + index}"
    return f"{block}.{0 if part == 'resnets' else 1}.{_RESNET.get(rest, rest)}.{leaf}"


def vae_key(name: str) -> str:
    """LDM name (without `first_stage_model.`) of a VAE parameter."""
    stem, leaf = name.rsplit(".", 1)
    m = re.match(r"(encoder|decoder)\.(.+)", stem)
    if not m:
        return name
    side, rest = m[1], m[2].replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if b := re.match(r"mid_block\.resnets\.(\d)\.(.+)", rest):
        rest = f"mid.block_{int(b[1]) + 1}.{b[2]}"
    elif b := re.match(r"mid_block\.attentions\.0\.(.+)", rest):
        rest = f"mid.attn_1.{_VAE_ATTENTION[b[1]]}"
    elif b := re.match(r"(down|up)_blocks\.(\d)\.(resnets|downsamplers|upsamplers)\.(\d)\.(.+)", rest):
        level = int(b[2]) if b[1] == "down" else len(VAE_WIDTHS) - 1 - int(b[2])
        part = {"resnets": f"block.{b[4]}", "downsamplers": "downsample", "upsamplers": "upsample"}[b[3]]
        rest = f"{b[1]}.{level}.{part}.{b[5]}"
    return f"{side}.{rest}.{leaf}"


def text_key(name: str) -> str:
    """Name under `cond_stage_model.transformer.`; newer transformers leave out the `text_model.` level."""
    return name if name.startswith("text_model.") else f"text_model.{name}"


def to_ldm(
    unet: dict[str, Tensor], vae: dict[str, Tensor], text: dict[str, Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    """State dicts in diffusers / transformers names to one LDM state dict."""
    out = {f"model.diffusion_model.{unet_key(k)}": v.to(dtype) for k, v in unet.items()}
    for key, value in vae.items():
        # LDM writes the VAE's attention projections as 1 x 1 convolutions
        is_projection = "attentions" in key and key.endswith("weight") and value.ndim == 2
        out[f"first_stage_model.{vae_key(key)}"] = (value[:, :, None, None] if is_projection else value).to(dtype)
    for key, value in text.items():
        if not key.endswith("position_ids"):
            out[f"cond_stage_model.transformer.{text_key(key)}"] = value.to(dtype)
    out["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return {k: v.contiguous() for k, v in out.items()} | schedule_buffers()


def schedule_buffers() -> dict[str, Tensor]:
    """The schedule tensors that Stable Diffusion 1 checkpoints carry, float32 (1000,)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    previous = torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]])
    buffers = {"betas": betas, "alphas_cumprod": alphas, "alphas_cumprod_prev": previous,
               "sqrt_alphas_cumprod": alphas.sqrt(), "sqrt_one_minus_alphas_cumprod": (1 - alphas).sqrt(),
               "log_one_minus_alphas_cumprod": (1 - alphas).log(), "sqrt_recip_alphas_cumprod": (1 / alphas).sqrt(),
               "sqrt_recipm1_alphas_cumprod": (1 / alphas - 1).sqrt()}  # fmt: skip
    return {k: v.float() for k, v in buffers.items()}


def from_ldm(
    state: dict[str, Tensor], unet_names: list[str], vae: dict[str, Tensor], text_names: list[str]
) -> tuple[dict[str, Tensor], ...]:
    """The inverse of `to_ldm`; `vae` gives the shapes that its attention projections have in diffusers."""
    unet_out = {k: state[f"model.diffusion_model.{unet_key(k)}"].float() for k in unet_names}
    vae_out = {k: state[f"first_stage_model.{vae_key(k)}"].float().reshape(v.shape) for k, v in vae.items()}
    text_out = {k: state[f"cond_stage_model.transformer.{text_key(k)}"].float() for k in text_names}
    return unet_out, vae_out, text_out


_YAML = Template("""model:
  base_learning_rate: 1.0e-04
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    num_timesteps_cond: 1
    log_every_t: 200
    timesteps: 1000
    first_stage_key: "jpg"
    cond_stage_key: "txt"
    image_size: 12
    channels: 4
    cond_stage_trainable: false
    conditioning_key: crossattn
    monitor: val/loss_simple_ema
    scale_factor: $scale
    use_ema: False

    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: 12
        in_channels: 4
        out_channels: 4
        model_channels: $base
        attention_resolutions: [ 4, 2, 1 ]
        num_res_blocks: 1
        channel_mult: [ $multiples ]
        num_heads: 8
        use_spatial_transformer: True
        transformer_depth: 1
        context_dim: $context
        use_checkpoint: False
        legacy: False

    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        monitor: val/rec_loss
        ddconfig:
          double_z: true
          z_channels: 4
          resolution: 96
          in_channels: 3
          out_ch: 3
          ch: $vae_base
          ch_mult: [ $vae_multiples ]
          num_res_blocks: 1
          attn_resolutions: []
          dropout: 0.0
        lossconfig:
          target: torch.nn.Identity

    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
      params:
        version: clip
""")


def yaml_text() -> str:
    """An LDM configuration file with the widths of this model."""
    base, vae_base = UNET_WIDTHS[0], VAE_WIDTHS[0]
    assert all(width % base == 0 for width in UNET_WIDTHS)
    return _YAML.substitute(
        scale=SCALE,
        base=base,
        multiples=", ".join(str(width // base) for width in UNET_WIDTHS),
        context=TEXT["hidden_size"],
        vae_base=vae_base,
        vae_multiples=", ".join(str(width // vae_base) for width in VAE_WIDTHS),
    )
