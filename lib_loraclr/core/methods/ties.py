"""TIES: trim small entries, elect a sign per entry, average those that agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lib_loraclr.core.deltas import Dense, zero
from lib_loraclr.core.methods.base import Field, LayerProblem, LayerSolution, MergeMethod
from lib_loraclr.core.rank import to_total_rank

DENSITY = Field("density", 0.2, "Share of each LoRA's largest entries to keep.", low=0.0, high=1.0)
SCALE = Field("scale", 1.0, "Factor on the merged result.")


def trimmed(matrix: Tensor, density: float) -> Tensor:
    """The `density` share of entries with the largest magnitude, zero elsewhere (ties at the threshold are kept)."""
    keep = round(density * matrix.numel())
    if keep >= matrix.numel():
        return matrix
    if keep == 0:
        return torch.zeros_like(matrix)
    magnitude = matrix.abs()
    threshold = magnitude.flatten().kthvalue(matrix.numel() - keep + 1).values
    return matrix * ((magnitude >= threshold) & (magnitude > 0))


def ties_merge(parts: Sequence[Tensor], density: float) -> Tensor:
    """Trim, elect the sign with the larger total mass per entry, average the entries of that sign.

    `parts` may compute its items on access: it is walked twice and one part at a time is held.
    """
    mass = sum(trimmed(part, density) for part in parts)
    sign = torch.sign(torch.as_tensor(mass))
    total, count = torch.zeros_like(sign), torch.zeros_like(sign)
    for part in parts:
        kept = trimmed(part, density)
        agrees = (torch.sign(kept) == sign) & (kept != 0)
        total += kept * agrees
        count += agrees
    return total / count.clamp(min=1)


class _DenseParts(Sequence[Tensor]):
    """The dense deltas of a layer, computed when asked for, so that memory does not grow with their number."""

    def __init__(self, problem: LayerProblem) -> None:
        self._deltas = [delta for delta in problem.deltas if delta is not None]

    def __len__(self) -> int:
        return len(self._deltas)

    def __getitem__(self, index: Any) -> Any:
        return self._deltas[index].dense()


class Ties(MergeMethod):
    """TIES merging on the true deltas (factors have arbitrary signs, so electing signs on them means nothing)."""

    name = "ties"
    title = "TIES"
    label = "TIES"
    place = 4
    summary = "Keeps each LoRA's largest entries and lets the majority decide the sign of every entry."
    reference = "Yadav et al. 2023, TIES-Merging, section 4"
    needs_statistics = False
    options: tuple[Field, ...] = (
        DENSITY,
        SCALE,
        Field("rank", 0, "Rank of the result; 0 takes the sum of the LoRAs' ranks.", low=0),
    )

    def solve(self, problem: LayerProblem, options: Mapping[str, Any], *, seed: int = 0) -> LayerSolution:
        """TIES on (out, in) matrices, then the best approximation at the rank asked for."""
        parts = _DenseParts(problem)
        if not parts:
            return LayerSolution(zero(problem.shape))
        merged = Dense(ties_merge(parts, options["density"]) * options["scale"])
        return LayerSolution(to_total_rank(merged, problem.deltas, options["rank"]))
