"""Who acts where and when: the weights of every region at any layer size and step, a partition of unity.

With coverages m_r after feathering, overlap weights l_r, strengths rho_r, base floor beta, step windows g_r in {0, 1}:

    average, weighted:  u_r = min(1, sum_s m_s) * l_r m_r / sum_s l_s m_s
    top:                u_r = m_r * prod over s above r of (1 - m_s)
    w_r = (1 - beta) * rho_r * g_r * u_r,   w_0 = 1 - sum_r w_r  (the picture's own prompt)

u is computed on a fine drawing grid and then averaged over each cell of a layer. That is linear, so every layer gives
a region exactly its share of the picture, a cell that two neighbours halve belongs to each by half whatever their
weights, and nothing leaks to the base in between. The Mix-of-Show raster works on the layer's own grid.

Self-attention isolation: tokens of one subject do not look at tokens of another.

For the tokens E_r that belong to subject r alone:

    out[E_r] = (1 - s) attn1(x)[E_r] + s attn1(x[E_r], context = x[everything but the other subjects' own tokens])

Tokens of the background and of overlaps look at everything and are looked at by everybody. Written as attention of a
subset on a subset, it needs no mask and runs under every attention kernel.
(Idea: Bounded Attention, Dahary et al. 2024, and LoRA-Composer, Yang et al. 2024, without their latent optimisation.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib_loraclr.regional.raster import average, coverage, fine_grid, hard_box, snap
from lib_loraclr.regional.spec import Region, RegionalSpec


class RegionWeights:
    """A spec on latents of `height` x `width`. Tensors are float64 on the CPU.

    `regions` are the active ones; every tensor here has one entry for each, in that order.
    """

    def __init__(self, spec: RegionalSpec, height: int, width: int, *, hires: bool = False) -> None:
        self.spec, self.hires = spec, hires
        self.regions: tuple[Region, ...] = spec.active() if spec.hires.on or not hires else ()
        self.height, self.width = height, width
        self._fine: Tensor | None = None
        self._unscaled: dict[tuple[int, int], Tensor] = {}

    def unscaled(self, height: int, width: int) -> Tensor:
        """u: (regions, height, width), before strength and time."""
        key = height, width
        if key not in self._unscaled:
            self._unscaled[key] = self._of_layer(height, width)
        return self._unscaled[key]

    def gates(self, progress: float) -> tuple[float, ...]:
        """(1 - beta) * rho_r * g_r of every region at `progress`, the share of steps that are done, in [0, 1)."""
        factor = (1 - self.spec.base.in_regions) * (self.spec.hires.strength if self.hires else 1.0)
        everywhere = _within(self.spec.steps, progress)
        return tuple(
            factor * region.strength if everywhere and _within(region.steps, progress) else 0.0
            for region in self.regions
        )

    def at(self, height: int, width: int, progress: float) -> Tensor:
        """w: (regions, height, width). The base has `base_weight` of it."""
        gates = torch.tensor(self.gates(progress), dtype=torch.float64)
        return self.unscaled(height, width) * gates[:, None, None]

    def guidance(self, height: int, width: int, progress: float, scale: float) -> Tensor | None:
        """CFG scale of every cell, (1, 1, height, width); None where no region that acts has a scale of its own."""
        gates = self.gates(progress)
        own = [region.cfg is not None and gate > 0 for region, gate in zip(self.regions, gates, strict=True)]
        if not any(own):
            return None
        weights = self.at(height, width, progress)
        scales = torch.tensor(
            [scale if region.cfg is None else region.cfg for region in self.regions], dtype=torch.float64
        )
        mixed = base_weight(weights) * scale + (weights * scales[:, None, None]).sum(0)
        return mixed[None, None]

    @property
    def guides(self) -> bool:
        """Whether any region has its own CFG scale."""
        return any(region.cfg is not None for region in self.regions)

    def _of_layer(self, height: int, width: int) -> Tensor:
        if not self.regions:
            return torch.zeros(0, height, width, dtype=torch.float64)
        if self.spec.raster == "mix-of-show":
            return self._combined(torch.stack([hard_box(region.shape, height, width) for region in self.regions]))
        fine = self._of_fine_grid()
        shares = torch.stack([average(one, height, width) for one in fine])
        return snap(_grown(shares, fine, height, width) if self.spec.raster == "grow" else shares)

    def _of_fine_grid(self) -> Tensor:
        if self._fine is None:
            rows, columns = fine_grid(self.height, self.width)
            default = self.spec.feather
            drawn = [
                coverage(region.shape, rows, columns, default if region.feather is None else region.feather)
                for region in self.regions
            ]
            self._fine = self._combined(torch.stack(drawn))
        return self._fine

    def _combined(self, drawn: Tensor) -> Tensor:
        """u of coverages (regions, h, w) by the overlap rule."""
        if self.spec.overlap == "top":
            return self._from_the_top(drawn)
        ones = [region.weight if self.spec.overlap == "weighted" else 1.0 for region in self.regions]
        weighted = drawn * torch.tensor(ones, dtype=drawn.dtype)[:, None, None]
        total = weighted.sum(0)
        part = weighted / torch.where(total > 0, total, torch.ones_like(total))
        return snap(part * drawn.sum(0).clamp(max=1.0))

    def _from_the_top(self, drawn: Tensor) -> Tensor:
        """From the top down; of two regions with the same z the later one is on top."""
        free = torch.ones_like(drawn[0])
        shares = torch.zeros_like(drawn)
        for index in sorted(range(len(self.regions)), key=lambda k: (self.regions[k].order, k), reverse=True):
            shares[index] = drawn[index] * free
            free = free * (1 - drawn[index])
        return snap(shares)


def base_weight(weights: Tensor) -> Tensor:
    """w_0 = 1 - sum of w over the first dimension; exactly 0 or 1 where it is that but for rounding."""
    return snap(1.0 - weights.sum(0))


def _within(window: tuple[float, float], progress: float) -> bool:
    """Half-open, so that windows that meet share no step; an end of 1 means to the last step."""
    return window[0] <= progress and (progress < window[1] or window[1] >= 1.0)


def _grown(shares: Tensor, fine: Tensor, height: int, width: int) -> Tensor:
    """Regions that fill no cell by half take the largest share found under each cell; others make room."""
    small = shares.flatten(1).amax(1) < 0.5
    if not bool(small.any()):
        return shares
    grown = shares.clone()
    for index in small.nonzero().flatten().tolist():
        pooled = torch.nn.functional.adaptive_max_pool2d(fine[index][None], (height, width))
        grown[index] = pooled[0]
    crowded = grown[small].sum(0).clamp(min=1.0)
    grown[small] = grown[small] / crowded
    room, others = 1 - grown[small].sum(0), grown[~small].sum(0)
    factor = torch.where(others > room, room / others.clamp(min=1e-12), torch.ones_like(room))
    grown[~small] = grown[~small] * factor
    return grown


@dataclass(frozen=True, eq=False)
class SubjectTokens:
    """Tokens of one subject alone, and the tokens they may look at; index tensors of one layer size."""

    region: int
    tokens: Tensor
    visible: Tensor


def isolates(region_weights: RegionWeights, progress: float) -> bool:
    """Whether isolation acts at this moment."""
    rules = region_weights.spec.isolation
    if rules.strength <= 0 or (region_weights.hires and not region_weights.spec.hires.isolate):
        return False
    return rules.start <= progress and (progress < rules.end or rules.end >= 1.0)


def subjects(region_weights: RegionWeights, height: int, width: int, progress: float) -> tuple[SubjectTokens, ...]:
    """The subjects of a layer of this size; none where fewer than two have tokens of their own."""
    if not isolates(region_weights, progress) or min(height, width) < region_weights.spec.isolation.min_cells:
        return ()
    gates = region_weights.gates(progress)
    who = [r for r, region in enumerate(region_weights.regions) if region.isolate and gates[r] > 0]
    if len(who) < 2:
        return ()
    shares = region_weights.unscaled(height, width)[who].flatten(1)
    strongest = shares.amax(0)
    taken = shares.sum(0) >= 0.5  # the rest is background
    holds = taken & (shares >= 0.5 * strongest)
    alone = holds & (holds.sum(0) == 1)
    owned = alone.any(0)
    found = [
        SubjectTokens(region, mine.nonzero().flatten(), (mine | ~owned).nonzero().flatten())
        for region, mine in zip(who, alone, strict=True)
        if bool(mine.any())
    ]
    return tuple(found) if len(found) > 1 else ()


def to_device(found: tuple[SubjectTokens, ...], device: torch.device) -> tuple[SubjectTokens, ...]:
    """The same subjects with their indices elsewhere."""
    return tuple(SubjectTokens(one.region, one.tokens.to(device), one.visible.to(device)) for one in found)
