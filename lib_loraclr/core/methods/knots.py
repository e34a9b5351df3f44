"""KnOTS: align the deltas by a joint SVD, run TIES on the aligned parts, reconstruct."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lib_loraclr.core.methods.base import Field, LayerProblem, LayerSolution, MergeMethod
from lib_loraclr.core.methods.ties import DENSITY, SCALE, ties_merge
from lib_loraclr.core.span import Span


class Knots(MergeMethod):
    """[dW_1 .. dW_N] = U S [V_1 .. V_N]^T; TIES merges the parts S V_i^T, and U times the result is a LoRA again.

    S V_i^T = U^T dW_i, so only the left singular vectors are needed: eigenvectors of sum_i dW_i dW_i^T, found in the
    span of the up factors. Parts keep S, so that trimming goes by what an entry contributes.
    """

    name = "knots"
    title = "KnOTS"
    label = "KnOTS"
    place = 6
    summary = "Rotates the LoRAs into their common directions before merging them with TIES."
    reference = "Stoica et al. 2024, KnOTS, section 4"
    needs_statistics = False
    options: tuple[Field, ...] = (DENSITY, SCALE)

    def solve(self, problem: LayerProblem, options: Mapping[str, Any], *, seed: int = 0) -> LayerSolution:
        """Rank at most the sum of the inputs' ranks, exactly: no truncation."""
        span = Span.of(problem)
        parts = [span.coordinates(index) for index, delta in enumerate(problem.deltas) if delta is not None]
        if not parts:
            return LayerSolution(span.delta(span.zeros()))
        spread = torch.stack([part @ part.T for part in parts]).sum(dim=0)
        rotation = torch.linalg.eigh(spread).eigenvectors
        merged = ties_merge([rotation.T @ part for part in parts], options["density"])
        return LayerSolution(span.delta(rotation @ (merged * options["scale"])))
