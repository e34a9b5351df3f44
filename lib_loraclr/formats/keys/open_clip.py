"""The OpenCLIP text encoder (SD2, SDXL's second): LDM checkpoint tensors <-> transformers tensors.

OpenCLIP keeps Q, K, V as one matrix and the text projection transposed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_FIXED = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_FIXED_BACK = {ours: theirs for theirs, ours in _FIXED.items()}
_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_LAYER_BACK = {ours: theirs for theirs, ours in _LAYER.items()}
_THEIRS = re.compile(r"transformer\.resblocks\.(\d+)\.(.+?)(?:\.(weight|bias)|\.in_proj_(weight|bias))")
_OURS = re.compile(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_QKV = ("q_proj", "k_proj", "v_proj")


def open_clip_to_transformers(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(transformers tensors, those without a place there) of OpenCLIP ones (without their checkpoint prefix)."""
    result: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _THEIRS.fullmatch(name)
        if name in _FIXED:
            result[_FIXED[name]] = tensor
        elif name == "text_projection":
            result["text_projection.weight"] = tensor.T.contiguous()
        elif match and match.group(4):
            layer = f"text_model.encoder.layers.{match.group(1)}.self_attn"
            for part, piece in zip(_QKV, tensor.chunk(3), strict=True):
                result[f"{layer}.{part}.{match.group(4)}"] = piece.clone()
        elif match and match.group(2) in _LAYER:
            result[f"text_model.encoder.layers.{match.group(1)}.{_LAYER[match.group(2)]}.{match.group(3)}"] = tensor
        else:
            rest[name] = tensor
    return result, rest


def transformers_to_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back. Raises KeyError for a name that OpenCLIP does not have."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _OURS.fullmatch(name)
        if name == "text_projection.weight":
            result["text_projection"] = tensor.T.contiguous()
        elif match and match.group(2) == "self_attn.q_proj":
            pieces = [tensors[name.replace("q_proj", part)] for part in _QKV]
            result[f"transformer.resblocks.{match.group(1)}.attn.in_proj_{match.group(3)}"] = torch.cat(pieces)
        elif match and match.group(2) in ("self_attn.k_proj", "self_attn.v_proj"):
            continue
        elif match:
            result[f"transformer.resblocks.{match.group(1)}.{_LAYER_BACK[match.group(2)]}.{match.group(3)}"] = tensor
        else:
            result[_FIXED_BACK[name]] = tensor
    return result
