"""Mean of the true deltas (FedAvg)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib_loraclr.core.deltas import add, zero
from lib_loraclr.core.methods.base import Field, LayerProblem, LayerSolution, MergeMethod


class Average(MergeMethod):
    """dW = 1/N sum_i dW_i. A LoRA that leaves the layer alone counts as zero, as averaging whole models does."""

    name = "average"
    title = "Average"
    label = "average"
    place = 2
    summary = "Averages the LoRAs. Each keeps 1/N of its strength."
    reference = "McMahan et al. 2017, FedAvg: dW = 1/N sum_i dW_i"
    needs_statistics = False
    options: tuple[Field, ...] = (
        Field(
            "over",
            "all",
            "Divide by all LoRAs, or only by those that change the layer.",
            choices=("all", "present"),
            title="Divide by",
        ),
    )

    def solve(self, problem: LayerProblem, options: Mapping[str, Any], *, seed: int = 0) -> LayerSolution:
        """Concatenated factors, each scaled by 1/N."""
        present = [delta for delta in problem.deltas if delta is not None]
        if not present:
            return LayerSolution(zero(problem.shape))
        count = len(present) if options["over"] == "present" else len(problem.deltas)
        return LayerSolution(add([delta.scaled(1.0 / count) for delta in present]))
