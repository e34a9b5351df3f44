"""Which part of the canvas is a subject's own picture, and how the answers for these parts are put together.

    out(i) = w_0(i) UNet(x, C)(i) + sum over r of w_r(i) UNet(x[crop r], C_r)(i)

with the layout's own weights. A crop is the box around the cells that belong to a region, grown to a size that the
UNet can halve as often as it does, and to no less than half the canvas's shorter side, because a model that was
trained on whole pictures knows nothing of smaller ones. The faint end of a soft edge may stay outside of the crop;
its weight goes to the crops that do reach there, and else to the canvas, so the weights add up to one as ever.
(Idea: MultiDiffusion, Bar-Tal et al. 2023, and Mixture of Diffusers, Jiménez 2023.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib_loraclr.regional.layout import Layout, base_weight

OWN = 0.25  # share of a region's strongest cell from which on a cell is its own


@dataclass(frozen=True)
class Crop:
    """Cells [top, bottom) x [left, right) of the canvas, which are the picture of one region of the layout."""

    region: int
    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left

    def of(self, values: Tensor) -> Tensor:
        """This part of (..., height, width), a view."""
        return values[..., self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True, eq=False)
class Crops:
    """The crops of one moment: `weights[k]` (height, width) of crop k, zero outside of it, `rest` the canvas's own."""

    crops: tuple[Crop, ...]
    weights: Tensor
    rest: Tensor

    @property
    def covering(self) -> bool:
        """Whether nothing is left for the canvas's own answer."""
        return not bool(self.rest.any())


def wants_solo(layout: Layout) -> bool:
    """Whether subjects of this layout ever are pictures of their own."""
    return layout.spec.isolation.separate_until > 0 and (layout.spec.hires.isolate or not layout.hires)


def solo_acts(layout: Layout, progress: float) -> bool:
    """Whether they are at this moment."""
    share = layout.spec.isolation.separate_until
    return wants_solo(layout) and (progress < share or share >= 1.0)


def crops_of(layout: Layout, progress: float, reduction: int) -> Crops | None:
    """The crops of a canvas of the layout's size; None where no region has one that is smaller than the canvas.

    `reduction`: cells of the canvas, along one side, to a cell of the UNet's deepest layer.
    """
    if not solo_acts(layout, progress):
        return None
    height, width = layout.height, layout.width
    shares, gates = layout.shares(height, width), layout.gates(progress)
    found = [
        _crop(number, shares[number], reduction)
        for number, region in enumerate(layout.regions)
        if region.isolate and gates[number] > 0 and bool(shares[number].any())
    ]
    crops = tuple(crop for crop in found if crop.size != (height, width))
    if not crops:
        return None
    weights = layout.weights(height, width, progress)[[crop.region for crop in crops]]
    inside = torch.zeros_like(weights)
    for number, crop in enumerate(crops):
        crop.of(inside[number]).copy_(crop.of(weights[number]))
    kept, whole = inside.sum(0), weights.sum(0)
    inside = inside * torch.where(kept > 0, whole / kept.clamp(min=1e-12), torch.ones_like(kept))
    return Crops(crops, inside, base_weight(inside))


def _crop(region: int, shares: Tensor, reduction: int) -> Crop:
    own = shares >= OWN * shares.max()
    least = (min(shares.shape) + 1) // 2
    rows, columns = (
        _span(own.any(axis).nonzero().flatten().tolist(), shares.shape[1 - axis], reduction, least) for axis in (1, 0)
    )
    return Crop(region, *rows, *columns)


def _span(cells: list[int], side: int, reduction: int, least: int) -> tuple[int, int]:
    """First cell and end, around `cells` in order, of a multiple of `reduction`; the whole side where that is less."""
    used = cells[-1] + 1 - cells[0]
    length = -(-max(used, least) // reduction) * reduction
    if length >= side:
        return 0, side
    start = min(max(0, cells[0] - (length - used) // 2), side - length)
    return start, start + length
