"""What one LoRA adds to one layer, as a matrix in factored or dense form.

A convolution is its unfolded matrix: weight (out, in, kh, kw) becomes (out, in * kh * kw). Alpha, rank scale and
user weight are folded in, so a delta is always the true dW that the host adds to the weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerShape:
    """Shape of one layer: `kernel` is None for a linear layer, (kh, kw) for a convolution."""

    out_features: int
    in_channels: int
    kernel: tuple[int, int] | None = None

    @classmethod
    def of(cls, weight_shape: torch.Size | tuple[int, ...]) -> LayerShape:
        """Shape of a weight tensor (out, in) or (out, in, kh, kw)."""
        if len(weight_shape) == 2:
            return cls(weight_shape[0], weight_shape[1])
        out, channels, kh, kw = weight_shape
        return cls(out, channels, (kh, kw))

    @property
    def in_features(self) -> int:
        """Columns of the unfolded matrix."""
        return self.in_channels * (self.kernel[0] * self.kernel[1] if self.kernel else 1)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the layer's weight tensor."""
        return (self.out_features, self.in_channels, *(self.kernel or ()))


@dataclass(frozen=True)
class LowRank:
    """dW = up @ down with up (out, r) and down (r, in)."""

    up: Tensor
    down: Tensor

    @classmethod
    def from_tucker(cls, up: Tensor, mid: Tensor, down: Tensor) -> LowRank:
        """LoCon with a Tucker core: up (out, r), mid (r, s, kh, kw), down (s, in) -> rank r on the unfolded matrix."""
        spread = torch.einsum("rskl,si->rikl", mid, down)
        return cls(up, spread.reshape(mid.shape[0], -1).contiguous())

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the unfolded matrix."""
        return self.up.shape[0], self.down.shape[1]

    @property
    def rank(self) -> int:
        """Number of columns of `up`."""
        return self.up.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the factors lie."""
        return self.up.device

    def dense(self) -> Tensor:
        """dW as one (out, in) matrix."""
        return self.up @ self.down

    def scaled(self, weight: float) -> LowRank:
        """weight * dW."""
        return LowRank(self.up * weight, self.down)

    def after(self, gram: Tensor) -> LowRank:
        """dW C for a Gram C (in, in) of the layer's inputs, multiplied in the Gram's precision."""
        return LowRank(self.up.to(gram.dtype), self.down.to(gram.dtype) @ gram)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> LowRank:
        """The same delta elsewhere."""
        return LowRank(self.up.to(device, dtype), self.down.to(device, dtype))


@dataclass(frozen=True)
class Dense:
    """dW as one (out, in) matrix, for LoHa, LoKr, OFT, DoRA and full differences."""

    weight: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the unfolded matrix."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def rank(self) -> int:
        """The largest rank the matrix can have."""
        return min(self.weight.shape)

    @property
    def device(self) -> torch.device:
        """Where the matrix lies."""
        return self.weight.device

    def dense(self) -> Tensor:
        """dW as one (out, in) matrix."""
        return self.weight

    def scaled(self, weight: float) -> Dense:
        """weight * dW."""
        return Dense(self.weight * weight)

    def after(self, gram: Tensor) -> Dense:
        """dW C for a Gram C (in, in) of the layer's inputs, multiplied in the Gram's precision."""
        return Dense(self.weight.to(gram.dtype) @ gram)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Dense:
        """The same delta elsewhere."""
        return Dense(self.weight.to(device, dtype))


Delta = LowRank | Dense


def add(deltas: Sequence[Delta]) -> Delta:
    """The exact sum of at least one delta: factors are concatenated, never added (no cross terms).

    Dense where a term is dense or where the ranks add up to more than the matrix can have.
    """
    factored = [delta for delta in deltas if isinstance(delta, LowRank)]
    if len(factored) < len(deltas) or sum(delta.rank for delta in factored) > min(deltas[0].shape):
        total = deltas[0].dense().clone()
        for delta in deltas[1:]:
            total += delta.dense()
        return Dense(total)
    return LowRank(torch.cat([d.up for d in factored], dim=1), torch.cat([d.down for d in factored], dim=0))


def stack(parts: Sequence[Mapping[str, Delta]]) -> dict[str, Delta]:
    """Layer name -> the exact sum of the parts that have it: what LoRA tags side by side in a prompt do."""
    by_layer: dict[str, list[Delta]] = {}
    for part in parts:
        for name, delta in part.items():
            by_layer.setdefault(name, []).append(delta)
    return {name: deltas[0] if len(deltas) == 1 else add(deltas) for name, deltas in by_layer.items()}


def inner(a: Delta, b: Delta) -> Tensor:
    """<a, b> = sum of a * b over all entries, a float64 scalar; from factors by r x r products."""
    a, b = a.to(a.device, torch.float64), b.to(a.device, torch.float64)
    if isinstance(a, LowRank) and isinstance(b, LowRank):
        return ((a.up.T @ b.up) * (a.down @ b.down.T)).sum()
    if isinstance(b, LowRank):
        a, b = b, a
    return ((a.up.T @ b.dense()) * a.down if isinstance(a, LowRank) else a.weight * b.dense()).sum()


def zero(shape: LayerShape) -> LowRank:
    """The delta that changes nothing, at rank 1 so that every file can hold it."""
    return LowRank(torch.zeros(shape.out_features, 1), torch.zeros(1, shape.in_features))
