"""Gradient fusion in closed form: the LoRA that best reproduces every concept's response on its own inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lib_loraclr.core.deltas import zero
from lib_loraclr.core.fidelity import kept_on
from lib_loraclr.core.fusion import concept_weights, fuse
from lib_loraclr.core.methods.base import Field, LayerProblem, LayerSolution, MergeMethod, Retired, Statistics
from lib_loraclr.core.span import Span

FUSION_OPTIONS: tuple[Field, ...] = (
    Field(
        "prior_preservation",
        0.1,
        "Weight of 'no change' on class-word and empty prompts, against 1 for all concepts.",
        0.0,
        10.0,
        aliases=("anchor",),
    ),
    Field("ridge", 1e-4, "Stabiliser, as a share of the mean diagonal of the second moments.", 0.0, 10.0),
    Field("balance", 0, "Rounds of reweighting that lift the concept that is kept worst.", 0, 20),
    Field("rounds", 3, "Refinement rounds: capture again with the merged model running, add to all before.", 0, 10),
)
RETIRED = (
    Retired("negatives", "swap", "the paper's negatives are gone (docs/method.md)."),
    Retired("metric", "output", "the attention metric is gone (docs/method.md)."),
)
WEIGHTINGS = ("equal", "rows", "relative")
PUBLISHED: dict[str, Any] = {"prior_preservation": 0.0, "ridge": 1e-8, "balance": 0, "rounds": 0, "weighting": "rows"}
BALANCE_STEP = 0.5  # exponent of the multiplicative update; 1 overshoots when two concepts compete


def statistics_of(problem: LayerProblem) -> Statistics:
    """The statistics that a data-driven method cannot do without; ValueError where the caller forgot them."""
    if problem.statistics is None:
        raise ValueError(f"layer {problem.name} has no statistics")
    return problem.statistics


def balanced_fusion(
    span: Span, problem: LayerProblem, weights: Tensor, options: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """Closed form, then rounds of w_i *= (lost_i / mean lost)^1/2; the round that keeps the worst concept best wins.

    What is kept is measured as in the report. Returns coordinates (q, in) and the weights (N,) that made them.
    """
    statistics = statistics_of(problem)
    coordinates = fuse(span, statistics, weights, options["prior_preservation"], options["ridge"])
    best, best_worst = (coordinates, weights), -float("inf")
    for turn in range(options["balance"] + 1 if options["balance"] else 0):
        if turn:
            coordinates = fuse(span, statistics, weights, options["prior_preservation"], options["ridge"])
        kept = kept_on(problem.deltas, span.delta(coordinates), statistics.concepts)
        worst = float(kept.nan_to_num(1.0).min())
        if worst > best_worst:
            best, best_worst = (coordinates, weights), worst
        lost = (1.0 - kept.nan_to_num(1.0)).clamp(min=1e-6)
        weights = weights * (lost / lost.mean()) ** BALANCE_STEP
        weights = weights / weights.sum()
    return best


class GradientFusion(MergeMethod):
    """argmin_dW sum_i w_i |(dW - dW_i) X_i|^2 with neutral anchor and ridge; exactly low rank, without iteration."""

    name = "gradient-fusion"
    title = "Gradient fusion (Mix-of-Show)"
    label = "gradient fusion"
    place = 7
    summary = "Solves for the one LoRA whose effect on each concept's features is closest to that concept's own LoRA."
    reference = "Gu et al. 2023, Mix-of-Show, section 3.3, solved in closed form; Jin et al. 2023, RegMean"
    needs_statistics = True
    options: tuple[Field, ...] = (
        *FUSION_OPTIONS,
        Field("weighting", "equal", "Concepts weigh equally, by rows captured, or by own effect.", choices=WEIGHTINGS),
        Field("published", False, "As published: no anchor, no refinement, no balance, weights by rows."),
    )
    retired = RETIRED

    def settle(self, options: dict[str, Any]) -> dict[str, Any]:
        """`published` decides over all others."""
        return {**options, **PUBLISHED} if options["published"] else options

    def solve(self, problem: LayerProblem, options: Mapping[str, Any], *, seed: int = 0) -> LayerSolution:
        """dW = (sum_i w_i dW_i C_i) G^-1 in the span of the up factors: rank at most the sum of ranks.

        info has the weights.
        """
        if all(delta is None for delta in problem.deltas):
            return LayerSolution(zero(problem.shape))
        span = Span.of(problem)
        weights = concept_weights(span, problem.deltas, statistics_of(problem), options["weighting"])
        coordinates, weights = balanced_fusion(span, problem, weights, options)
        info = {"weights": [round(weight, 6) for weight in weights.tolist()]}
        return LayerSolution(span.delta(coordinates), info)
