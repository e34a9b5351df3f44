"""Streaming second moments of layer inputs: C = X^T X / rows, all that the closed forms need of the features.

The features of a layer often lie along one direction; what a merge does in the others follows from the small
eigenvalues of C. Sums in float32 bury those below 1e-7 of the largest, where the ridge begins, so that the order of the
sums changes a merged weight by percents. On the CPU moments are therefore float64. Most GPUs would take 30 times as
long, and the half precision features there are noisier than float32 sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def moment_dtype(device: torch.device | str) -> torch.dtype:
    """What moments are summed in on a device: float64 on the CPU, float32 elsewhere."""
    return torch.float64 if torch.device(device).type == "cpu" else torch.float32


@dataclass
class SecondMoment:
    """Sum of x x^T over rows x (a row is one token or one unfolded patch), with the number of rows.

    `total` is (in, in), of `moment_dtype`. Moments add up: adding two captures is adding their totals.
    """

    total: Tensor
    rows: float = 0.0

    @classmethod
    def zeros(cls, size: int, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> SecondMoment:
        """An empty moment of inputs with `size` features; `dtype` None: the device's `moment_dtype`."""
        return cls(torch.zeros(size, size, device=device, dtype=dtype or moment_dtype(device)))

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
