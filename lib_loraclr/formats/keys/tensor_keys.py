"""Tensor keys of LoRA files -> (module key, part name): the endings of every trainer, one table."""

from __future__ import annotations

import re

_ENDINGS: dict[str, str] = {
    ".lora_up.weight": "lora_up",
    ".lora_down.weight": "lora_down",
    ".lora_mid.weight": "lora_mid",
    ".lora_B.weight": "lora_up",
    ".lora_A.weight": "lora_down",
    ".lora.up.weight": "lora_up",
    ".lora.down.weight": "lora_down",
    ".lora_linear_layer.up.weight": "lora_up",
    ".lora_linear_layer.down.weight": "lora_down",
    "_lora.up.weight": "lora_up",
    "_lora.down.weight": "lora_down",
    "_lora.lora_up.weight": "lora_up",
    "_lora.lora_down.weight": "lora_down",
    ".alpha": "alpha",
    ".lora.alpha": "alpha",
    "_lora.alpha": "alpha",
    ".lora_linear_layer.alpha": "alpha",
    ".scale": "scale",
    ".dora_scale": "dora_scale",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".hada_w1_a": "hada_w1_a",
    ".hada_w1_b": "hada_w1_b",
    ".hada_w2_a": "hada_w2_a",
    ".hada_w2_b": "hada_w2_b",
    ".hada_t1": "hada_t1",
    ".hada_t2": "hada_t2",
    ".lokr_w1": "lokr_w1",
    ".lokr_w1_a": "lokr_w1_a",
    ".lokr_w1_b": "lokr_w1_b",
    ".lokr_w2": "lokr_w2",
    ".lokr_w2_a": "lokr_w2_a",
    ".lokr_w2_b": "lokr_w2_b",
    ".lokr_t2": "lokr_t2",
    ".oft_blocks": "oft_blocks",
    ".oft_diag": "oft_diag",
    ".rescale": "rescale",
    ".a1.weight": "a1",
    ".a2.weight": "a2",
    ".b1.weight": "b1",
    ".b2.weight": "b2",
    ".on_input": "on_input",
    ".diff": "diff",
    ".diff_b": "diff_b",
    ".w_norm": "w_norm",
    ".b_norm": "b_norm",
    ".weight": "weight",
}
_LONGEST_FIRST = sorted(_ENDINGS, key=len, reverse=True)
_ADAPTER = re.compile(r"\.(lora_[AB]|lora_magnitude_vector)\.(?!weight$)[^.]+(\.weight)?$")


def split_tensor_key(key: str) -> tuple[str, str] | None:
    """(module key, part name) of a tensor key, or None if no family has such an ending."""
    key = _ADAPTER.sub(r".\1\2", key)  # PEFT keeps the adapter's name: ….lora_A.default.weight
    for ending in _LONGEST_FIRST:
        if key.endswith(ending) and len(key) > len(ending):
            return key[: -len(ending)], _ENDINGS[ending]
    return None
