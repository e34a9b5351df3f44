"""OpenCLIP text encoders (SD2, SDXL's second) with q, k and v as layers of their own.

torch's MultiheadAttention multiplies with one fused weight and never calls a layer, so no hook could reach q, k or v.
While a job runs the blocks compute the same sums layer by layer, on (batch, tokens, width), with the same weights.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

PARTS = ("q_proj", "k_proj", "v_proj")


class FusedPart(nn.Module):
    """q, k or v of a fused attention: a view of its weight, wherever that is at the time of the call."""

    def __init__(self, attention: nn.MultiheadAttention, number: int) -> None:
        super().__init__()
        self._attention = [attention]  # in a list: it stays a part of the model, not of this module
        self._number = number
        self.in_features = self.out_features = int(attention.embed_dim)
        self.num_heads = int(attention.num_heads)

    @property
    def weight(self) -> Tensor:
        """(width, width)."""
        return self._part(self._attention[0].in_proj_weight)

    @property
    def network_weights_backup(self) -> Tensor | None:
        """What `weight` was before the Lora extension added to it; it keeps (fused, output) for the whole attention."""
        backup: Any = getattr(self._attention[0], "network_weights_backup", None)
        return None if backup is None else self._part(backup[0])

    @property
    def bias(self) -> Tensor | None:
        """(width,)."""
        bias: Any = self._attention[0].in_proj_bias
        return None if bias is None else self._part(bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """One third of the fused product."""
        return F.linear(inputs, self.weight, self.bias)

    def _part(self, fused: Tensor) -> Tensor:
        return fused[self._number * self.out_features : (self._number + 1) * self.out_features]


def open_clip_layers(number: int, transformer: Any) -> dict[str, nn.Module]:
    """Canonical name -> layer of text encoder `number`, for `separated`."""
    stem = "text_encoder" if number == 0 else f"text_encoder_{number + 1}"
    layers: dict[str, nn.Module] = {}
    for index, block in enumerate(transformer.resblocks):
        name = f"{stem}.text_model.encoder.layers.{index}"
        layers |= {f"{name}.self_attn.{part}": FusedPart(block.attn, k) for k, part in enumerate(PARTS)}
        layers[f"{name}.self_attn.out_proj"] = block.attn.out_proj
        layers[f"{name}.mlp.fc1"], layers[f"{name}.mlp.fc2"] = block.mlp.c_fc, block.mlp.c_proj
    return layers


@contextmanager
def separated(number: int, transformer: Any, layers: dict[str, nn.Module]) -> Generator[None]:
    """Scope in which the blocks of `transformer` call `layers`; their own code is back afterwards."""
    stem = "text_encoder" if number == 0 else f"text_encoder_{number + 1}"
    before: list[tuple[Any, Any]] = []
    try:
        for index, block in enumerate(transformer.resblocks):
            name = f"{stem}.text_model.encoder.layers.{index}.self_attn"
            before.append((block, block.__dict__.get("forward")))
            block.forward = _block(block, [layers[f"{name}.{part}"] for part in (*PARTS, "out_proj")])
        yield
    finally:
        for block, forward in before:
            del block.forward
            if forward is not None:
                block.forward = forward


def _block(block: Any, layers: list[nn.Module]) -> Any:
    heads, turned = int(block.attn.num_heads), not block.attn.batch_first

    def attend(inputs: Tensor, mask: Tensor | None) -> Tensor:
        split = [layer(inputs).unflatten(-1, (heads, -1)).transpose(1, 2) for layer in layers[:3]]
        mask = None if mask is None else mask.to(split[0].device, split[0].dtype)
        mixed = F.scaled_dot_product_attention(*split, attn_mask=mask)
        return layers[3](mixed.transpose(1, 2).flatten(2))

    def forward(q_x: Tensor, k_x: None = None, v_x: None = None, attn_mask: Tensor | None = None) -> Tensor:
        x = q_x.transpose(0, 1) if turned else q_x
        x = x + block.ls_1(attend(block.ln_1(x), attn_mask))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
        return x.transpose(0, 1) if turned else x

    return forward
