"""The deltas of one layer in one orthonormal output basis, where every merge of them lives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib_loraclr.core.deltas import Delta, Dense, LayerShape, LowRank
from lib_loraclr.core.problem import LayerProblem

Factors = tuple[Tensor | None, Tensor]


@dataclass(frozen=True)
class Span:
    """dW_i = basis @ left_i @ right_i with an orthonormal basis (out, q), so norms of coordinates are norms of deltas.

    `basis` None is the identity, where a delta is dense or the ranks fill the whole output space; `left` None likewise.
    All in float64: what a solver subtracts is nearly equal, and what it divides by is nearly singular.
    """

    shape: LayerShape
    device: torch.device
    basis: Tensor | None
    factors: tuple[Factors | None, ...]

    @classmethod
    def of(cls, problem: LayerProblem) -> Span:
        """The span of a layer's up factors by one QR; q = min(sum of ranks, out)."""
        present = [delta for delta in problem.deltas if delta is not None]
        device = present[0].device if present else torch.device("cpu")
        exact = [None if delta is None else delta.to(device, torch.float64) for delta in problem.deltas]
        ups = [delta.up for delta in exact if isinstance(delta, LowRank)]
        if len(ups) < len(present) or sum(delta.rank for delta in present) >= problem.shape.out_features:
            return cls(problem.shape, device, None, tuple(_factors(delta) for delta in exact))
        none = torch.zeros(problem.shape.out_features, 0, dtype=torch.float64, device=device)
        basis, mix = torch.linalg.qr(torch.cat([none, *ups], dim=1))
        parts = iter(mix.split([up.shape[1] for up in ups], dim=1))
        factors = tuple((next(parts), delta.down) if isinstance(delta, LowRank) else None for delta in exact)
        return cls(problem.shape, device, basis, factors)

    @property
    def size(self) -> int:
        """q, the number of coordinates of an output."""
        return self.shape.out_features if self.basis is None else self.basis.shape[1]

    def zeros(self) -> Tensor:
        """Coordinates (q, in) of the delta that changes nothing."""
        return torch.zeros(self.size, self.shape.in_features, dtype=torch.float64, device=self.device)

    def coordinates(self, index: int, gram: Tensor | None = None) -> Tensor:
        """Coordinates (q, in) of dW_i, or of dW_i C for a Gram C (in, in), multiplied on the thin side first."""
        pair = self.factors[index]
        if pair is None:
            return self.zeros()
        left, right = pair
        right = right if gram is None else right @ gram
        return right if left is None else left @ right

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
