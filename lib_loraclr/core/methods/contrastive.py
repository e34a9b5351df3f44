"""Contrastive merge: gradient fusion plus a push away from what the other LoRAs would have done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lib_loraclr.core.contrast import ContrastiveObjective, descend
from lib_loraclr.core.deltas import zero
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.fusion import concept_weights, energy, grams, metric_regulariser, units, weighted_system
from lib_loraclr.core.methods.base import LayerProblem, LayerSolution, MergeMethod, Option
from lib_loraclr.core.methods.gradient_fusion import (
    FUSION_OPTIONS,
    WEIGHTINGS,
    balanced_fusion,
    chosen_metric,
    statistics_of,
)
from lib_loraclr.core.metric import SpanMetric
from lib_loraclr.core.moments import SecondMoment
from lib_loraclr.core.span import Span


class Contrastive(MergeMethod):
    """Minimises gradient fusion's loss plus hinges on the distance to wrong concepts, in units of each own response."""

    name = "contrastive"
    summary = "Gradient fusion that also pushes each concept away from the others; for merges that are not distilled."
    reference = "Simsar et al. 2025, LoRACLR, equations 4 to 6, in relative units and on second moments"
    needs_statistics = True
    options: tuple[Option, ...] = (
        Option("margin", 1.5, "Distance to wrong concepts to reach, in units of the concept's own response.", 0.0, 4.0),
        Option("weight", 1.0, "Weight of the push against that of the fit.", 0.0, 10.0),
        Option("negatives", "swap", "Wrong responses: other LoRAs on the same inputs, or as in the paper.",
               choices=("swap", "paper")),
        Option("against", "nearest", "Push away from the nearest wrong concept or all.", choices=("nearest", "all")),
        Option("shrink", 0.001, "Weight of the update's norm (lambda of the paper), LoRAs' norm as unit.", 0.0, 1.0),
        Option("steps", 12, "Most descent steps a layer.", 0, 200),
        *FUSION_OPTIONS,
        Option("weighting", "equal", "Concepts weigh equally, by rows captured, or by own effect.", choices=WEIGHTINGS),
    )  # fmt: skip

    def settle(self, options: dict[str, Any]) -> dict[str, Any]:
        """Raises InputError for paper negatives in the attention metric."""
        if options["metric"] != "output" and options["negatives"] == "paper":
            message = "The paper's negatives have no attention metric; use swap negatives or the metric 'output'."
            raise InputError("bad-option", message, key="metric")
        return options

    def solve(self, problem: LayerProblem, options: Mapping[str, Any], *, seed: int = 0) -> LayerSolution:
        """Closed form first, then descent; info has the loss history and the share of active hinges."""
        if all(delta is None for delta in problem.deltas):
            return LayerSolution(zero(problem.shape))
        problem = _in_memory(problem)
        span, statistics = Span.of(problem), statistics_of(problem)
        metric, about = chosen_metric(span, problem, options)
        weights = concept_weights(span, problem.deltas, statistics, options["weighting"], metric)
        start, weights = balanced_fusion(span, problem, weights, options, metric)
        objective = contrastive_objective(span, problem, weights, options, metric)
        found = descend(objective, start, options["steps"])
        info = {
            "loss": found.history,
            "active_hinges_at_start": objective.active_share(found.first),
            "active_hinges": objective.active_share(found.last),
            **about,
        }
        return LayerSolution(span.delta(found.point), info)


def contrastive_objective(
    span: Span,
    problem: LayerProblem,
    weights: Tensor,
    options: Mapping[str, Any],
    metric: SpanMetric | None = None,
) -> ContrastiveObjective:
    """The objective of a layer, scaled so that a merge that does nothing costs 1 for the fit."""
    statistics, device = statistics_of(problem), span.device
    targets = torch.stack([span.coordinates(index) for index in range(len(problem.deltas))])
    own = _energies(problem, targets, metric)
    squared = units(own.diagonal()).cpu()
    weights = weights / (weights * squared).sum()
    left, _ = weighted_system(span, statistics, weights)
    touched = torch.tensor([delta is not None for delta in problem.deltas])
    anchor = options["anchor"] * float(weights.sum())
    norm = float(targets[touched].square().sum() / touched.sum()) ** 0.5
    return ContrastiveObjective(
        grams=[moment.mean().to(device) for moment in statistics.concepts],
        targets=targets,
        own=own,
        weights=weights.to(device),
        units=squared.to(device),
        penalty=metric_regulariser(span, statistics, left, anchor, options["ridge"], metric),
        pairs=(touched[:, None] & touched[None, :] & ~torch.eye(len(touched), dtype=torch.bool)).to(device),
        margin=options["margin"],
        pull=options["weight"] / len(touched),
        nearest=options["against"] == "nearest",
        shrink=options["shrink"] / norm if norm > 0 else 0.0,
        crossed=_crossed(span, problem) if options["negatives"] == "paper" else None,
        metrics=None if metric is None else metric.concepts,
    )


def _energies(problem: LayerProblem, targets: Tensor, metric: SpanMetric | None) -> Tensor:
    """|dW_j X_i|^2 (N, N) [i, j], in the metric where there is one."""
    walk = grams(statistics_of(problem).concepts, targets.device)
    if metric is not None:
        return torch.stack([metric.energies(index, gram, targets) for index, gram in enumerate(walk)])
    return torch.stack([torch.stack([energy(delta, gram) for delta in problem.deltas]) for gram in walk])


def _in_memory(problem: LayerProblem) -> LayerProblem:
    """The layer with its moments read once: every step of the descent needs all of them."""
    statistics = statistics_of(problem)
    moments = [SecondMoment(moment.total, moment.rows) for moment in statistics.concepts]
    return replace(problem, statistics=replace(statistics, concepts=moments))


def _crossed(span: Span, problem: LayerProblem) -> list[list[Tensor | None]]:
    """M_i C_ij (q, in) for all pairs; InputError where the capture has no cross moments."""
    cross = statistics_of(problem).cross
    if cross is None:
        raise InputError("no-cross-moments", "Paper negatives need cross moments, which this capture does not have.")
    count = len(problem.deltas)
    table: list[list[Tensor | None]] = [[None] * count for _ in range(count)]
    for i in range(count):
        for j in range(count):
            if i != j and problem.deltas[i] is not None and problem.deltas[j] is not None:
                gram = cross[(i, j)] if (i, j) in cross else cross[(j, i)].T
                table[i][j] = span.coordinates(i, gram.to(span.device, torch.float64))
    return table
