"""Flat names (`down_blocks_0_attentions_1_proj_in`) to dotted module paths and back.

Flattening loses which underscores were dots. The names of the models that exist are built from a fixed set of words,
so a longest-match tokeniser over those words undoes it without knowing the model.
"""

from __future__ import annotations

import re

DIFFUSERS_WORDS = """
    down_blocks|up_blocks|mid_block|resnets|attentions|downsamplers|upsamplers|transformer_blocks|attn1|attn2|to_q|to_k
    to_v|to_out|ff|net|proj|proj_in|proj_out|norm|norm1|norm2|norm3|conv|conv1|conv2|conv_in|conv_out|conv_shortcut
    conv_norm_out|time_emb_proj|time_embedding|add_embedding|linear_1|linear_2
    text_model|encoder|layers|self_attn|q_proj|k_proj|v_proj|out_proj|mlp|fc1|fc2|layer_norm1|layer_norm2
    final_layer_norm|embeddings|token_embedding|position_embedding|text_projection
"""
LDM_WORDS = """
    input_blocks|middle_block|output_blocks|in_layers|out_layers|emb_layers|skip_connection|time_embed|label_emb|op|out
    transformer_blocks|attn1|attn2|to_q|to_k|to_v|to_out|ff|net|proj|proj_in|proj_out|norm|norm1|norm2|norm3|conv
"""


def _tokeniser(words: str) -> re.Pattern[str]:
    longest_first = sorted(re.findall(r"\w+", words), key=len, reverse=True)
    return re.compile(rf"({'|'.join(longest_first)}|\d+)(?:_|$)")


_DIFFUSERS, _LDM = _tokeniser(DIFFUSERS_WORDS), _tokeniser(LDM_WORDS)
_LDM_STARTS = ("input_blocks_", "middle_block_", "output_blocks_", "time_embed_", "label_emb_", "out_")


def flatten(path: str) -> str:
    """`a.b_c.0` -> `a_b_c_0`."""
    return path.replace(".", "_")


def unflatten(flat: str) -> str | None:
    """The dotted path of a flat diffusers, transformers or LDM UNet name; None if a word is unknown."""
    tokeniser = _LDM if is_ldm(flat) else _DIFFUSERS
    words: list[str] = []
    position = 0
    while position < len(flat):
        match = tokeniser.match(flat, position)
        if match is None:
            return None
        words.append(match.group(1))
        position = match.end()
    return ".".join(words) if words else None


def is_ldm(name: str) -> bool:
    """Whether a UNet name, flat or dotted, is one of the original (LDM) code base."""
    return flatten(name).startswith(_LDM_STARTS)
