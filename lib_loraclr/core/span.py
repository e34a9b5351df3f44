"""The deltas of one layer in one orthonormal output basis, where every merge of them lives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib_loraclr.core.deltas import Delta, Dense, LayerShape, LowRank
from lib_loraclr.core.linalg import orthonormal
from lib_loraclr.core.problem import LayerProblem

Factors = tuple[Tensor | None, Tensor]


@dataclass(frozen=True)
class Span:
    """dW_i = basis @ left_i @ right_i with an orthonormal basis (out, q), so norms of coordinates are norms of deltas.

    `basis` None is the identity, where a delta is dense or the ranks fill the whole output space; `left` None likewise.
    """

    shape: LayerShape
    basis: Tensor | None
    factors: tuple[Factors | None, ...]
    like: Tensor  # gives dtype and device

    @classmethod
    def of(cls, problem: LayerProblem) -> Span:
        """The span of a layer's up factors by one QR; q = min(sum of ranks, out)."""
        present = [delta for delta in problem.deltas if delta is not None]
        like = present[0].down if present and isinstance(present[0], LowRank) else None
        if like is None:
            like = present[0].dense() if present else torch.zeros(0)
        total = sum(delta.rank for delta in present)
        if not all(isinstance(delta, LowRank) for delta in present) or total >= problem.shape.out_features:
            return cls(problem.shape, None, tuple(_factors(delta) for delta in problem.deltas), like)
        ups = [delta.up for delta in present if isinstance(delta, LowRank)]
        basis, mix = (
            orthonormal(torch.cat(ups, dim=1)) if ups else (like.new_zeros(problem.shape.out_features, 0), like)
        )
        factors: list[Factors | None] = []
        start = 0
        for delta in problem.deltas:
            if isinstance(delta, LowRank):
                factors.append((mix[:, start : start + delta.rank], delta.down))
                start += delta.rank
            else:
                factors.append(None)
        return cls(problem.shape, basis, tuple(factors), like)

    @property
    def size(self) -> int:
        """q, the number of coordinates of an output."""
        return self.shape.out_features if self.basis is None else self.basis.shape[1]

    def zeros(self) -> Tensor:
        """Coordinates (q, in) of the delta that changes nothing."""
        return self.like.new_zeros(self.size, self.shape.in_features)

    def coordinates(self, index: int, gram: Tensor | None = None) -> Tensor:
        """Coordinates (q, in) of dW_i, or of dW_i C for a Gram C (in, in), multiplied on the thin side first."""
        pair = self.factors[index]
        if pair is None:
            return self.zeros()
        left, right = pair
        right = right if gram is None else right @ gram
        return right if left is None else left @ right

    def project(self, delta: Delta) -> Tensor:
        """Coordinates (q, in) of the part of any delta that lies in the span."""
        if self.basis is None:
            return delta.dense()
        if isinstance(delta, LowRank):
            return (self.basis.T @ delta.up) @ delta.down
        return self.basis.T @ delta.weight

    def delta(self, coordinates: Tensor) -> Delta:
        """The delta with these coordinates (q, in): factored, dense where factors would exceed the matrix's rank."""
        if self.basis is None:
            return Dense(coordinates)
        if self.size > min(self.shape.out_features, self.shape.in_features):
            return Dense(self.basis @ coordinates)
        return LowRank(self.basis, coordinates)


def _factors(delta: Delta | None) -> Factors | None:
    if delta is None:
        return None
    return (delta.up, delta.down) if isinstance(delta, LowRank) else (None, delta.weight)
