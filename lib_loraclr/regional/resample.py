"""Linear maps along one axis: area averaging to another number of cells, and a box blur. Float64, rows sum to 1.

Both are linear and keep constants, so what adds up to one before adds up to one after.
"""

from __future__ import annotations

import torch
from torch import Tensor


def interval_overlap(first: Tensor, last: Tensor, count: int) -> Tensor:
    """Length of [first, last) in each of the cells [k, k + 1), k < count: (..., count) for bounds of shape (...)."""
    cells = torch.arange(count, dtype=torch.float64)
    ends = torch.minimum(last[..., None], cells + 1)
    return (ends - torch.maximum(first[..., None], cells)).clamp(0.0, 1.0)


def area_matrix(cells: int, fine: int) -> Tensor:
    """(cells, fine): every row averages the fine cells under one cell, by the length they share."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * (fine / cells)
    return interval_overlap(edges[:-1], edges[1:], fine) * (cells / fine)


def blur_matrix(count: int, width: float) -> Tensor:
    """(count, count): every row averages an interval of `width` cells around its own; the border cells go on outside.

    A hard edge becomes a straight ramp of that width, and two regions that met at the edge still add up to one.
    """
    if width <= 0:
        return torch.eye(count, dtype=torch.float64)
    centres = torch.arange(count, dtype=torch.float64) + 0.5
    first, last = centres - width / 2, centres + width / 2
    matrix = interval_overlap(first, last, count)
    matrix[:, 0] += (-first).clamp(0.0, width)
    matrix[:, -1] += (last - count).clamp(0.0, width)
    return matrix / width


def average(values: Tensor, height: int, width: int) -> Tensor:
    """(..., h, w) averaged to (..., height, width); exact 0 and 1 stay exact."""
    rows, columns = area_matrix(height, values.shape[-2]), area_matrix(width, values.shape[-1])
    return snap(rows @ values.to(torch.float64) @ columns.T)


def snap(values: Tensor) -> Tensor:
    """Values within 1e-7 of 0 or 1 become exactly that, the rest is cut to [0, 1]."""
    values = torch.where(values < 1e-7, torch.zeros_like(values), values)
    return torch.where(values > 1 - 1e-7, torch.ones_like(values), values)
