"""Weighted sum of the true deltas: what stacking the LoRAs in a prompt does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib_loraclr.core.deltas import add, zero
from lib_loraclr.core.methods.base import Field, LayerProblem, LayerSolution, MergeMethod


class Sum(MergeMethod):
    """dW = sum_i dW_i, exact by concatenating factors."""

    name = "sum"
    title = "Weighted sum"
    label = "stacked sum"
    place = 1
    summary = "Adds the LoRAs as a prompt with all of them would. Exact; concepts bleed into each other."
    reference = "dW = sum_i dW_i"
    needs_statistics = False
    options: tuple[Field, ...] = ()

    def solve(self, problem: LayerProblem, options: Mapping[str, Any], *, seed: int = 0) -> LayerSolution:
        """Concatenated factors; dense where an input is dense or the ranks exceed the matrix."""
        present = [delta for delta in problem.deltas if delta is not None]
        return LayerSolution(add(present) if present else zero(problem.shape))
