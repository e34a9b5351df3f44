"""Parameter names of the VAE: original (LDM) code base <-> diffusers.

LDM counts decoder levels from the output, diffusers from the latent; the rest is renaming.
"""

from __future__ import annotations

import re

_WORDS: tuple[tuple[str, str], ...] = (
    (r"mid\.block_1\.", "mid_block.resnets.0."),
    (r"mid\.block_2\.", "mid_block.resnets.1."),
    (r"mid\.attn_1\.norm\.", "mid_block.attentions.0.group_norm."),
    (r"mid\.attn_1\.proj_out\.", "mid_block.attentions.0.to_out.0."),
    (r"mid\.attn_1\.([qkv])\.", r"mid_block.attentions.0.to_\1."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.downsample\.conv\.", ".downsamplers.0.conv."),
    (r"\.upsample\.conv\.", ".upsamplers.0.conv."),
    (r"down\.(\d+)\.block\.", r"down_blocks.\1.resnets."),
    (r"up\.(\d+)\.block\.", r"up_blocks.\1.resnets."),
    (r"down\.(\d+)\.", r"down_blocks.\1."),
    (r"up\.(\d+)\.", r"up_blocks.\1."),
)
_WORDS_BACK: tuple[tuple[str, str], ...] = (
    (r"mid_block\.resnets\.0\.", "mid.block_1."),
    (r"mid_block\.resnets\.1\.", "mid.block_2."),
    (r"mid_block\.attentions\.0\.group_norm\.", "mid.attn_1.norm."),
    (r"mid_block\.attentions\.0\.to_out\.0\.", "mid.attn_1.proj_out."),
    (r"mid_block\.attentions\.0\.to_([qkv])\.", r"mid.attn_1.\1."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.downsamplers\.0\.conv\.", ".downsample.conv."),
    (r"\.upsamplers\.0\.conv\.", ".upsample.conv."),
    (r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block."),
    (r"up_blocks\.(\d+)\.resnets\.", r"up.\1.block."),
    (r"down_blocks\.(\d+)\.", r"down.\1."),
    (r"up_blocks\.(\d+)\.", r"up.\1."),
)
_DECODER_LEVEL = re.compile(r"^decoder\.(up|up_blocks)\.(\d+)\.")


def vae_levels(names: list[str]) -> int:
    """Number of decoder levels among parameter names of either style."""
    found = [int(match.group(2)) for match in map(_DECODER_LEVEL.match, names) if match]
    return max(found, default=-1) + 1


def vae_to_diffusers(name: str, levels: int) -> str:
    """Diffusers name of an LDM VAE parameter (without its checkpoint prefix)."""
    return _rename(_mirror(name, levels), _WORDS)


def vae_to_ldm(name: str, levels: int) -> str:
    """LDM name of a diffusers VAE parameter."""
    return _rename(_mirror(name, levels), _WORDS_BACK)


def is_attention_matrix(name: str) -> bool:
    """Whether a diffusers VAE parameter is one of the attention's matrices: 1x1 convolutions in LDM files."""
    return re.search(r"attentions\.\d+\.to_(?:[qkv]|out\.0)\.weight$", name) is not None


def _mirror(name: str, levels: int) -> str:
    return _DECODER_LEVEL.sub(lambda m: f"decoder.{m.group(1)}.{levels - 1 - int(m.group(2))}.", name)


def _rename(name: str, words: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in words:
        name = re.sub(pattern, replacement, name)
    return name
