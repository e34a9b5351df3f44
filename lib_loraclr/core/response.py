"""dW x for a delta at a layer: what a LoRA adds to the layer's output, without touching its weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lib_loraclr.core.deltas import Delta, LowRank
from lib_loraclr.core.errors import InputError


class Response:
    """Computes `weight * dW x` in the input's dtype and on its device; factors are cast once for each.

    Raises InputError "shape-mismatch" if the delta does not fit the layer called `name`.
    """

    def __init__(self, name: str, module: nn.Module, delta: Delta, weight: float = 1.0) -> None:
        if delta.shape != unfolded_shape(module):
            raise InputError(
                "shape-mismatch",
                f"The update of {name} is {delta.shape}, but the layer is {unfolded_shape(module)}.",
                key=name,
            )
        self.factors = (delta.down, delta.up * weight) if isinstance(delta, LowRank) else (delta.weight * weight,)
        self.cast: tuple[Tensor, ...] = ()

    def __call__(self, module: nn.Module, hidden: Tensor) -> Tensor:
        """The layer's change for its input `hidden`, shaped as its output."""
        if not self.cast or self.cast[0].device != hidden.device or self.cast[0].dtype != hidden.dtype:
            self.cast = tuple(factor.to(hidden.device, hidden.dtype) for factor in self.factors)
        return respond(module, hidden, self.cast)


def respond(module: nn.Module, hidden: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """dW x with `factors` (down (r, in), up (out, r)) or (dW,), in the input's dtype and on its device."""
    first, rest = factors[0], factors[1:]
    if not is_convolution(module):
        change = F.linear(hidden, first)
        return F.linear(change, rest[0]) if rest else change
    kernel = pair(module.kernel_size)
    spread = first.reshape(first.shape[0], -1, *kernel)
    layout: Any = (module.stride, module.padding, module.dilation)
    change = F.conv2d(hidden, spread, None, *layout)
    return F.conv2d(change, rest[0][:, :, None, None]) if rest else change


def is_convolution(module: nn.Module) -> bool:
    """Whether the layer slides a kernel; quantised hosts have classes of their own, so the class does not tell."""
    return hasattr(module, "kernel_size")


def pair(value: Any) -> tuple[int, int]:
    """A convolution's setting as (vertical, horizontal)."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def unfolded_shape(module: nn.Module) -> tuple[int, int]:
    """(out, in) of the unfolded weight, without the weight itself where it may be packed."""
    if is_convolution(module):
        height, width = pair(module.kernel_size)
        channels: Any = module.in_channels
        out: Any = module.out_channels
        return int(out), int(channels) * height * width
    if hasattr(module, "in_features"):
        features: tuple[Any, Any] = (module.out_features, module.in_features)
        return int(features[0]), int(features[1])
    weight: Any = module.weight
    return int(weight.shape[0]), int(weight.shape[1])
