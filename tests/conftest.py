"""Fixtures: tiny randomly initialised checkpoints in the original (LDM) single-file layout, written once per run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor


class LdmTensors:
    """Random tensors under LDM key names; the loops follow the published architecture, block by block."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.tensors: dict[str, Tensor] = {}

    def weight(self, name: str, *shape: int, gain: float = 1.0) -> None:
        fan_in = max(1, torch.Size(shape[1:]).numel())
        self.tensors[name] = torch.randn(shape, generator=self.generator) * gain * fan_in**-0.5

    def layer(self, name: str, *shape: int, bias: bool = True) -> None:
        self.weight(f"{name}.weight", *shape)
        if bias:
            self.tensors[f"{name}.bias"] = torch.randn(shape[0], generator=self.generator) * 0.05

    def norm(self, name: str, width: int) -> None:
        self.tensors[f"{name}.weight"] = 1 + 0.1 * torch.randn(width, generator=self.generator)
        self.tensors[f"{name}.bias"] = 0.1 * torch.randn(width, generator=self.generator)

    def residual(self, stem: str, before: int, after: int, time: int) -> None:
        self.norm(f"{stem}.in_layers.0", before)
        self.layer(f"{stem}.in_layers.2", after, before, 3, 3)
        self.layer(f"{stem}.emb_layers.1", after, time)
        self.norm(f"{stem}.out_layers.0", after)
        self.layer(f"{stem}.out_layers.3", after, after, 3, 3)
        if before != after:
            self.layer(f"{stem}.skip_connection", after, before, 1, 1)

    def transformer(self, stem: str, width: int, context: int, depth: int, linear: bool) -> None:
        kernel = () if linear else (1, 1)
        self.norm(f"{stem}.norm", width)
        self.layer(f"{stem}.proj_in", width, width, *kernel)
        self.layer(f"{stem}.proj_out", width, width, *kernel)
        for number in range(depth):
            block = f"{stem}.transformer_blocks.{number}"
            for attention, source in (("attn1", width), ("attn2", context)):
                self.layer(f"{block}.{attention}.to_q", width, width, bias=False)
                self.layer(f"{block}.{attention}.to_k", width, source, bias=False)
                self.layer(f"{block}.{attention}.to_v", width, source, bias=False)
                self.layer(f"{block}.{attention}.to_out.0", width, width)
            self.layer(f"{block}.ff.net.0.proj", 8 * width, width)
            self.layer(f"{block}.ff.net.2", width, 4 * width)
            for norm in ("norm1", "norm2", "norm3"):
                self.norm(f"{block}.{norm}", width)

    def unet(
        self, base: int, multiples: list[int], depths: list[int], context: int, linear: bool, adm: int = 0
    ) -> None:
        """One residual block a level, `depths[level]` transformer blocks behind it; the last number in the middle."""
        top, time = "model.diffusion_model", 4 * base
        self.layer(f"{top}.time_embed.0", time, base)
        self.layer(f"{top}.time_embed.2", time, time)
        if adm:
            self.layer(f"{top}.label_emb.0.0", time, adm)
            self.layer(f"{top}.label_emb.0.2", time, time)
        self.layer(f"{top}.input_blocks.0.0", base, 4, 3, 3)
        width, skips, number = base, [base], 1
        for level, multiple in enumerate(multiples):
            self.residual(f"{top}.input_blocks.{number}.0", width, base * multiple, time)
            width = base * multiple
            if depths[level]:
                self.transformer(f"{top}.input_blocks.{number}.1", width, context, depths[level], linear)
            skips.append(width)
            number += 1
            if level + 1 < len(multiples):
                self.layer(f"{top}.input_blocks.{number}.0.op", width, width, 3, 3)
                skips.append(width)
                number += 1
        self.residual(f"{top}.middle_block.0", width, width, time)
        self.transformer(f"{top}.middle_block.1", width, context, max(1, depths[-1]), linear)
        self.residual(f"{top}.middle_block.2", width, width, time)
        number = 0
        for level, multiple in reversed(list(enumerate(multiples))):
            for last in (False, True):
                stem = f"{top}.output_blocks.{number}"
                self.residual(f"{stem}.0", width + skips.pop(), base * multiple, time)
                width = base * multiple
                if depths[level]:
                    self.transformer(f"{stem}.1", width, context, depths[level], linear)
                if last and level:
                    self.layer(f"{stem}.{2 if depths[level] else 1}.conv", width, width, 3, 3)
                number += 1
        self.norm(f"{top}.out.0", width)
        self.layer(f"{top}.out.2", 4, width, 3, 3)

    def vae_residual(self, stem: str, before: int, after: int) -> None:
        self.norm(f"{stem}.norm1", before)
        self.layer(f"{stem}.conv1", after, before, 3, 3)
        self.norm(f"{stem}.norm2", after)
        self.layer(f"{stem}.conv2", after, after, 3, 3)
        if before != after:
            self.layer(f"{stem}.nin_shortcut", after, before, 1, 1)

    def vae(self, widths: list[int]) -> None:
        top, last = "first_stage_model", widths[-1]
        for side in ("encoder", "decoder"):
            for name in ("mid.block_1", "mid.block_2"):
                self.vae_residual(f"{top}.{side}.{name}", last, last)
            self.norm(f"{top}.{side}.mid.attn_1.norm", last)
            for name in ("q", "k", "v", "proj_out"):
                self.layer(f"{top}.{side}.mid.attn_1.{name}", last, last, 1, 1)
        self.layer(f"{top}.encoder.conv_in", widths[0], 3, 3, 3)
        self.layer(f"{top}.decoder.conv_in", last, 4, 3, 3)
        before = widths[0]
        for level, width in enumerate(widths):
            self.vae_residual(f"{top}.encoder.down.{level}.block.0", before, width)
            if level + 1 < len(widths):
                self.layer(f"{top}.encoder.down.{level}.downsample.conv", width, width, 3, 3)
            before = width
        for level, width in reversed(list(enumerate(widths))):
            self.vae_residual(f"{top}.decoder.up.{level}.block.0", before, width)
            self.vae_residual(f"{top}.decoder.up.{level}.block.1", width, width)
            if level:
                self.layer(f"{top}.decoder.up.{level}.upsample.conv", width, width, 3, 3)
            before = width
        self.norm(f"{top}.encoder.norm_out", last)
        self.layer(f"{top}.encoder.conv_out", 8, last, 3, 3)
        self.norm(f"{top}.decoder.norm_out", widths[0])
        self.layer(f"{top}.decoder.conv_out", 3, widths[0], 3, 3)
        self.layer(f"{top}.quant_conv", 8, 8, 1, 1)
        self.layer(f"{top}.post_quant_conv", 4, 4, 1, 1)

    def clip(self, prefix: str, width: int, layers: int) -> None:
        """The text model under transformers' names, as SD1 checkpoints carry it."""
        top = f"{prefix}.text_model"
        self.weight(f"{top}.embeddings.token_embedding.weight", 49408, width, gain=width**0.5)
        self.weight(f"{top}.embeddings.position_embedding.weight", 77, width)
        self.tensors[f"{top}.embeddings.position_ids"] = torch.arange(77)[None]
        for number in range(layers):
            layer = f"{top}.encoder.layers.{number}"
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                self.layer(f"{layer}.self_attn.{name}", width, width)
            self.layer(f"{layer}.mlp.fc1", 4 * width, width)
            self.layer(f"{layer}.mlp.fc2", width, 4 * width)
            self.norm(f"{layer}.layer_norm1", width)
            self.norm(f"{layer}.layer_norm2", width)
        self.norm(f"{top}.final_layer_norm", width)

    def open_clip(self, prefix: str, width: int, layers: int) -> None:
        """The text model under OpenCLIP's names, with fused q, k, v."""
        self.weight(f"{prefix}.token_embedding.weight", 49408, width, gain=width**0.5)
        self.weight(f"{prefix}.positional_embedding", 77, width)
        for number in range(layers):
            block = f"{prefix}.transformer.resblocks.{number}"
            self.weight(f"{block}.attn.in_proj_weight", 3 * width, width)
            self.tensors[f"{block}.attn.in_proj_bias"] = 0.05 * torch.randn(3 * width, generator=self.generator)
            self.layer(f"{block}.attn.out_proj", width, width)
            self.layer(f"{block}.mlp.c_fc", 4 * width, width)
            self.layer(f"{block}.mlp.c_proj", width, 4 * width)
            self.norm(f"{block}.ln_1", width)
            self.norm(f"{block}.ln_2", width)
        self.norm(f"{prefix}.ln_final", width)
        self.weight(f"{prefix}.text_projection", width, width)
        self.tensors[f"{prefix}.logit_scale"] = torch.tensor(4.6)

    def save(self, path: Path) -> Path:
        from safetensors.torch import save_file

        save_file({key: value.contiguous() for key, value in self.tensors.items()}, path)
        return path


YAML = """model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    timesteps: 1000
    image_size: 8
    scale_factor: 0.18215
    {parameterization}
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        in_channels: 4
        out_channels: 4
        model_channels: {base}
        attention_resolutions: {resolutions}
        num_res_blocks: 1
        channel_mult: {multiples}
        {heads}
        use_spatial_transformer: True
        transformer_depth: 1
        context_dim: {context}
"""


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the checkpoints of this run."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="session")
def tiny_sd1(checkpoints: Path) -> Path:
    """SD1 layout, three levels (32, 64, 64), native size 64, with its yaml."""
    build = LdmTensors(1)
    build.unet(32, [1, 2, 2], [1, 1, 0], context=32, linear=False)
    build.vae([32, 32, 32, 32])
    build.clip("cond_stage_model.transformer", 32, 2)
    text = YAML.format(
        base=32, resolutions=[1, 2], multiples=[1, 2, 2], heads="num_heads: 8", context=32, parameterization=""
    )
    (checkpoints / "tiny_sd1.yaml").write_text(text)
    return build.save(checkpoints / "tiny_sd1.safetensors")


@pytest.fixture(scope="session")
def tiny_sd2(checkpoints: Path) -> Path:
    """SD2 layout with v prediction and linear projections; one OpenCLIP text encoder of three layers."""
    build = LdmTensors(2)
    build.unet(32, [1, 2], [1, 1], context=64, linear=True)
    build.vae([32, 32, 32, 32])
    build.open_clip("cond_stage_model.model", 64, 3)
    text = YAML.format(
        base=32, resolutions=[1, 2], multiples=[1, 2], heads="num_head_channels: 16", context=64,
        parameterization='parameterization: "v"',
    )  # fmt: skip
    (checkpoints / "tiny_sd2.yaml").write_text(text)
    return build.save(checkpoints / "tiny_sd2.safetensors")


@pytest.fixture(scope="session")
def tiny_sdxl(checkpoints: Path) -> Path:
    """SDXL layout without a yaml: two text encoders, pooled text, transformers of depth 2 in the second level."""
    build = LdmTensors(3)
    build.unet(64, [1, 2], [0, 2], context=32 + 64, linear=True, adm=64 + 6 * 256)
    build.vae([32, 32, 32, 32])
    build.clip("conditioner.embedders.0.transformer", 32, 2)
    build.open_clip("conditioner.embedders.1.model", 64, 2)
    return build.save(checkpoints / "tiny_sdxl.safetensors")
