"""Linear systems sum_k L_k M R_k + shift M = B, by conjugate gradients with one Kronecker product as a preconditioner.

As a matrix the system has (q in)^2 entries; it is only ever applied. The preconditioner is the product of the mean of
the L_k and the mean of the R_k, exact where all L_k are equal. Source: Hestenes and Stiefel 1952.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_loraclr.core.linalg import factor_spd, solve_spd

TOLERANCE = 1e-5  # of the error left, in the preconditioner's norm: two digits finer than half precision files hold
STEPS = 200  # most steps; each applies the system once


@dataclass(frozen=True)
class TwoSided:
    """M -> sum_k L_k M R_k + shift M for symmetric positive semidefinite L_k (q, q) or None, the identity, and
    R_k (in, in). The R_k are the bulk and may stay in float32; products are made in M's precision.
    """

    terms: Sequence[tuple[Tensor | None, Tensor]]
    shift: float = 0.0

    def __call__(self, point: Tensor) -> Tensor:
        """The operator at M (q, in)."""
        total = self.shift * point
        for left, right in self.terms:
            image = point @ right.to(point)
            total += image if left is None else left @ image
        return total

    def solve(self, rhs: Tensor, start: Tensor | None = None, tolerance: float = TOLERANCE) -> Tensor:
        """M (q, in) that solves it, directly where every L is the identity.

        Every step from `start` (zero by default) lowers <M, self(M)> / 2 - <M, rhs>, so the result is no worse than the
        start even where it stops early. Raises `ArithmeticError` on NaN or Inf.
        """
        if all(left is None for left, _ in self.terms):
            return solve_spd(self._right_mean(rhs), rhs)
        left, right = factor_spd(self._left_mean(rhs)), factor_spd(self._right_mean(rhs))

        def precondition(residual: Tensor) -> Tensor:
            return torch.cholesky_solve(torch.cholesky_solve(residual, left).T, right).T

        wanted = tolerance**2 * float((rhs * precondition(rhs)).sum())
        point = torch.zeros_like(rhs) if start is None else start
        residual = rhs if start is None else rhs - self(start)
        direction = close = precondition(residual)
        size = float((residual * close).sum())
        for _ in range(STEPS):
            if size <= wanted:
                break
            image = self(direction)
            step = size / float((direction * image).sum())
            point, residual = point + step * direction, residual - step * image
            close = precondition(residual)
            before, size = size, float((residual * close).sum())
            direction = close + (size / before) * direction
        return point

    def _left_mean(self, like: Tensor) -> Tensor:
        """Mean of the L_k (q, q) by trace of R_k, of mean diagonal 1."""
        identity = torch.eye(len(like)).to(like)
        total = self.shift * like.shape[1] * identity
        for left, right in self.terms:
            total += float(right.diagonal().sum()) * (identity if left is None else left)
        mean = float(total.diagonal().mean())
        return total / mean if mean > 0 else identity

    def _right_mean(self, like: Tensor) -> Tensor:
        """Sum of the R_k (in, in) by mean diagonal of L_k, and the shift."""
        total = self.shift * torch.eye(like.shape[1]).to(like)
        for left, right in self.terms:
            total.add_(right.to(like), alpha=1.0 if left is None else float(left.diagonal().mean()))
        return total
