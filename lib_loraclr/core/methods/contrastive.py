"""Contrastive merge: gradient fusion plus a push away from what the other LoRAs would have done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lib_loraclr.core.contrast import ContrastiveObjective, descend
from lib_loraclr.core.deltas import zero
from lib_loraclr.core.fusion import concept_weights, energy, grams, regulariser, squared_norms, weighted_system
from lib_loraclr.core.methods.base import Field, LayerProblem, LayerSolution, MergeMethod
from lib_loraclr.core.methods.gradient_fusion import (
    FUSION_OPTIONS,
    RETIRED,
    WEIGHTINGS,
    balanced_fusion,
    statistics_of,
)
from lib_loraclr.core.moments import SecondMoment
from lib_loraclr.core.span import Span


class Contrastive(MergeMethod):
    """Minimises gradient fusion's loss plus hinges on the distance to wrong concepts, in units of each own response."""

    name = "contrastive"
    title = "Contrastive (LoRACLR)"
    label = "contrastive"
    place = 8
    summary = "Gradient fusion that also pushes each concept away from the others; for merges that are not distilled."
    reference = "Simsar et al. 2025, LoRACLR, equations 4 to 6, in relative units and on second moments"
    needs_statistics = True
    options: tuple[Field, ...] = (
        Field("margin", 1.5, "Distance to wrong concepts to reach, in units of the concept's own response.", 0.0, 4.0),
        Field("weight", 1.0, "Weight of the push against that of the fit.", 0.0, 10.0),
        Field("against", "nearest", "Push away from the nearest wrong concept or all.", choices=("nearest", "all")),
        Field("norm_penalty", 0.001, "Weight of the update's norm (lambda of the paper), LoRAs' norm as unit.", 0, 1,
              aliases=("shrink",)),
        Field("steps", 12, "Most descent steps a layer.", 0, 200),
        *FUSION_OPTIONS,
        Field("weighting", "equal", "Concepts weigh equally, by rows captured, or by own effect.", choices=WEIGHTINGS),
    )  # fmt: skip
    retired = RETIRED

    def solve(self, problem: LayerProblem, options: Mapping[str, Any], *, seed: int = 0) -> LayerSolution:
        """Closed form first, then descent; info has the loss history and the share of active hinges."""
        if all(delta is None for delta in problem.deltas):
            return LayerSolution(zero(problem.shape))
        problem = _in_memory(problem)
        span, statistics = Span.of(problem), statistics_of(problem)
        weights = concept_weights(span, problem.deltas, statistics, options["weighting"])
        start, weights = balanced_fusion(span, problem, weights, options)
        objective = contrastive_objective(span, problem, weights, options)
        descent = descend(objective, start, options["steps"])
        info = {
            "loss": descent.history,
            "active_hinges_at_start": objective.active_share(descent.first),
            "active_hinges": objective.active_share(descent.last),
        }
        return LayerSolution(span.delta(descent.point), info)


def contrastive_objective(
    span: Span, problem: LayerProblem, weights: Tensor, options: Mapping[str, Any]
) -> ContrastiveObjective:
    """The objective of a layer, scaled so that a merge that does nothing costs 1 for the fit."""
    statistics, device = statistics_of(problem), span.device
    targets = torch.stack([span.coordinates(index) for index in range(len(problem.deltas))])
    energies = _energies(problem, device)
    response_norms = squared_norms(energies.diagonal()).cpu()
    weights = weights / (weights * response_norms).sum()
    left, _ = weighted_system(span, statistics, weights)
    touched = torch.tensor([delta is not None for delta in problem.deltas])
    prior_preservation = options["prior_preservation"] * float(weights.sum())
    norm = float(targets[touched].square().sum() / touched.sum()) ** 0.5
    return ContrastiveObjective(
        grams=[moment.mean().to(device) for moment in statistics.concepts],
        targets=targets,
        energies=energies,
        weights=weights.to(device),
        response_norms=response_norms.to(device),
        penalty=regulariser(span, statistics, left, prior_preservation, options["ridge"]),
        pairs=(touched[:, None] & touched[None, :] & ~torch.eye(len(touched), dtype=torch.bool)).to(device),
        margin=options["margin"],
        hinge_weight=options["weight"] / len(touched),
        nearest=options["against"] == "nearest",
        norm_penalty=options["norm_penalty"] / norm if norm > 0 else 0.0,
    )


def _energies(problem: LayerProblem, device: torch.device) -> Tensor:
    """|dW_j X_i|^2 (N, N) [i, j]."""
    walk = grams(statistics_of(problem).concepts, device)
    return torch.stack([torch.stack([energy(delta, gram) for delta in problem.deltas]) for gram in walk])


def _in_memory(problem: LayerProblem) -> LayerProblem:
    """The layer with its moments read once: every step of the descent needs all of them."""
    statistics = statistics_of(problem)
    moments = [SecondMoment(moment.total, moment.rows) for moment in statistics.concepts]
    return replace(problem, statistics=replace(statistics, concepts=moments))
