"""Streaming second moments of layer inputs: C = X^T X / rows, all that the closed forms need of the features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class SecondMoment:
    """Sum of x x^T over rows x (a row is one token or one unfolded patch), with the number of rows.

    `total` is (in, in), float32 or float64. Moments add up: adding two captures is adding their totals.
    """

    total: Tensor
    rows: float = 0.0

    @classmethod
    def zeros(
        cls, size: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> SecondMoment:
        """An empty moment of inputs with `size` features."""
        return cls(torch.zeros(size, size, device=device, dtype=dtype))

    def add(self, inputs: Tensor) -> None:
        """Accumulate inputs (..., in); every leading index is a row."""
        rows = inputs.detach().reshape(-1, inputs.shape[-1]).to(self.total.device, self.total.dtype)
        self.total.addmm_(rows.T, rows)
        self.rows += rows.shape[0]

    def mean(self) -> Tensor:
        """C = total / rows (zero when nothing was added)."""
        return self.total / max(self.rows, 1.0)

    def plus(self, other: SecondMoment) -> SecondMoment:
        """Moment of both captures together (dataset aggregation)."""
        return SecondMoment(self.total + other.total.to(self.total), self.rows + other.rows)
