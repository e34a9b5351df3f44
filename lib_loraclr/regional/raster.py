"""Shapes to coverage: which share of every cell of a grid a shape covers, any grid, no seams.

The linear maps along an axis, area averaging and a box blur, are float64 and keep constants: what adds up to one before
adds up to one after.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lib_loraclr.regional.shapes import Box, Mask, Polygon, Shape


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


FINE = 4  # shapes are drawn on a grid this many times finer than the latents …
FINE_SIDES = (128, 512)  # … within these bounds for its longer side
SCANLINES = 4  # a cell of a polygon is measured along this many lines


def fine_grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the drawing grid for latents of this size; its cells are all but square."""
    longer = max(height, width)
    side = min(max(FINE * longer, FINE_SIDES[0]), FINE_SIDES[1])
    return max(1, round(side * height / longer)), max(1, round(side * width / longer))


def coverage(shape: Shape, height: int, width: int, feather: float = 0.0) -> Tensor:
    """(height, width), float64 in [0, 1]: the share of each cell that the shape covers.

    `feather` is the width of the soft edge as a share of the shorter side. A box is exact, a polygon exact along each
    of four lines a cell, a mask the average of its cells.
    """
    reach = feather * min(height, width)
    if isinstance(shape, Box):
        rows = _profile(shape.top, shape.bottom, height, reach)
        return snap(rows[:, None] * _profile(shape.left, shape.right, width, reach)[None])
    drawn = _polygon(shape, height, width) if isinstance(shape, Polygon) else average(mask_values(shape), height, width)
    if reach > 0:
        drawn = blur_matrix(height, reach) @ drawn @ blur_matrix(width, reach).T
    return snap(drawn)


def hard_box(shape: Shape, height: int, width: int) -> Tensor:
    """(height, width) of 0 and 1 as in Mix-of-Show: a box covers cells ceil(start * n) to floor(end * n), end excluded.

    Its authors know boxes only; other shapes cover the cells that they fill by at least half.
    """
    if not isinstance(shape, Box):
        return (coverage(shape, height, width) >= 0.5).to(torch.float64)
    rows = _hard_interval(shape.top, shape.bottom, height)
    columns = _hard_interval(shape.left, shape.right, width)
    return rows[:, None] * columns[None]


def mask_values(mask: Mask) -> Tensor:
    """(h, w) float64 in [0, 1] of a mask's own cells."""
    values = torch.frombuffer(bytearray(mask.values), dtype=torch.uint8)
    return values.reshape(mask.height, mask.width).to(torch.float64) / 255


def _hard_interval(first: float, last: float, count: int) -> Tensor:
    cells = torch.arange(count)
    start, end = torch.tensor([first * count, last * count], dtype=torch.float64)
    return ((cells >= torch.ceil(start)) & (cells < torch.floor(end))).to(torch.float64)


def _profile(first: float, last: float, count: int, reach: float) -> Tensor:
    """(count,): a box along one axis."""
    start, end = torch.tensor([first * count, last * count], dtype=torch.float64)
    drawn = interval_overlap(start, end, count)
    return blur_matrix(count, reach) @ drawn if reach > 0 else drawn


def _polygon(polygon: Polygon, height: int, width: int) -> Tensor:
    """Even-odd fill: along every scan line the covered share of each cell between two crossings is exact."""
    points = torch.tensor(polygon.points, dtype=torch.float64) * torch.tensor([width, height], dtype=torch.float64)
    lines = (torch.arange(height * SCANLINES, dtype=torch.float64) + 0.5) / SCANLINES
    crossings = _crossings(points, lines).clamp(0.0, float(width))
    cells = torch.arange(width, dtype=torch.float64)
    covered = torch.zeros(len(lines), width, dtype=torch.float64)
    for pair in range(0, crossings.shape[1] - 1, 2):
        left, right = crossings[:, pair : pair + 1], crossings[:, pair + 1 : pair + 2]
        covered += (torch.minimum(right, cells + 1) - torch.maximum(left, cells)).clamp(0.0, 1.0)
    return covered.reshape(height, SCANLINES, width).mean(1)


def _crossings(points: Tensor, lines: Tensor) -> Tensor:
    """(lines, k) sorted x of the crossings of every scan line with the outline, filled up with infinity; k is even."""
    start, end = points, points.roll(-1, 0)
    low, high = torch.minimum(start[:, 1], end[:, 1]), torch.maximum(start[:, 1], end[:, 1])
    crossed = (lines[:, None] >= low) & (lines[:, None] < high)
    slope = (end[:, 0] - start[:, 0]) / torch.where(end[:, 1] == start[:, 1], torch.ones(()), end[:, 1] - start[:, 1])
    at = start[:, 0] + (lines[:, None] - start[:, 1]) * slope
    most = int(crossed.sum(1).max())
    return torch.where(crossed, at, torch.full_like(at, torch.inf)).sort(1).values[:, :most]
