"""Weighted sum, cut to a rank by singular value decomposition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib_loraclr.core.deltas import add, zero
from lib_loraclr.core.methods.base import Field, LayerProblem, LayerSolution, MergeMethod
from lib_loraclr.core.rank import truncate


class Svd(MergeMethod):
    """The best approximation of sum_i dW_i at a rank (Eckart and Young)."""

    name = "svd"
    title = "SVD of the sum"
    label = "SVD"
    place = 3
    summary = "Adds the LoRAs and keeps the strongest directions of the sum."
    reference = "dW = best rank-k approximation of sum_i dW_i"
    needs_statistics = False
    options: tuple[Field, ...] = (Field("rank", 0, "Rank to keep; 0 takes the largest rank among the LoRAs.", low=0),)

    def solve(self, problem: LayerProblem, options: Mapping[str, Any], *, seed: int = 0) -> LayerSolution:
        """The truncated sum, factored."""
        present = [delta for delta in problem.deltas if delta is not None]
        if not present:
            return LayerSolution(zero(problem.shape))
        rank = options["rank"] or max(delta.rank for delta in present)
        return LayerSolution(truncate(add(present), rank))
