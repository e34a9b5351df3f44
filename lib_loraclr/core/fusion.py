"""The quadratic heart of every data-driven merge: keep each concept's response, change nothing on neutral inputs.

    J(dW) = sum_i w_i |(dW - dW_i) X_i|^2 + mu |dW X_0|^2 + ridge * mean(diag G) |dW|^2,   sum_i w_i = 1,
    G = sum_i w_i C_i + mu C_0,   minimum: dW = (sum_i w_i dW_i C_i) (G + ridge * mean(diag G) I)^-1

with C_i the mean second moment of concept i's inputs: a concept weighs the same however many rows its capture has.
Sources: Gu et al. 2023, Mix-of-Show, gradient fusion; Jin et al. 2023, RegMean, for the closed form. A LoRA that leaves
the layer alone takes part with target 0, which protects its features from the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lib_loraclr.core.deltas import Delta, inner
from lib_loraclr.core.linalg import solve_spd
from lib_loraclr.core.moments import SecondMoment
from lib_loraclr.core.problem import Statistics
from lib_loraclr.core.span import Span

ENERGY_FLOOR = 0.1  # smallest s_i^2 of a concept, as a share of the mean: a LoRA that hardly acts must not rule a layer


def grams(moments: Sequence[SecondMoment], device: torch.device) -> Iterator[Tensor]:
    """C_i (in, in) in float64, concept by concept on the device, so that memory stays flat in their number."""
    for moment in moments:
        yield moment.mean().to(device, torch.float64)


def energy(delta: Delta | None, gram: Tensor) -> Tensor:
    """|dW X|^2 per row, tr(dW C dW^T), a float64 scalar; 0 for None, a LoRA that leaves the layer alone."""
    return gram.new_zeros(()) if delta is None else inner(delta.after(gram), delta).clamp(min=0)


def squared_norms(energies: Tensor) -> Tensor:
    """s_i^2 (N,), the unit of squared distances: at least a tenth of the mean; the mean where a LoRA does nothing."""
    acting = energies[energies > 0]
    mean = acting.mean() if len(acting) else energies.new_ones(())
    return torch.where(energies > 0, energies.clamp(min=ENERGY_FLOOR * float(mean)), mean)


def concept_weights(span: Span, deltas: Sequence[Delta | None], statistics: Statistics, weighting: str) -> Tensor:
    """w_i (N,), float64, sum 1. `equal`; `rows`: by rows captured, as published; `relative`: by 1 / s_i^2."""
    if weighting == "equal":
        weights = torch.ones(len(deltas), dtype=torch.float64)
    elif weighting == "rows":
        weights = torch.tensor([moment.rows for moment in statistics.concepts], dtype=torch.float64)
    else:
        pairs = zip(deltas, grams(statistics.concepts, span.device), strict=True)
        weights = 1.0 / squared_norms(torch.stack([energy(delta, gram) for delta, gram in pairs])).cpu()
    total = weights.sum()
    return weights / total if float(total) > 0 else torch.full_like(weights, 1.0 / len(weights))


def regulariser(span: Span, statistics: Statistics, gram: Tensor, prior_preservation: float, ridge: float) -> Tensor:
    """mu C_0 + ridge * mean(diag(G)) I (in, in), float64, mu = `prior_preservation`, for weights of sum 1."""
    penalty = torch.zeros_like(gram)
    if statistics.neutral is not None and prior_preservation > 0:
        penalty.add_(next(grams([statistics.neutral], span.device)), alpha=prior_preservation)
    mean = float(gram.diagonal().mean() + penalty.diagonal().mean())
    penalty.diagonal().add_(ridge * mean)
    return penalty


def weighted_system(span: Span, statistics: Statistics, weights: Tensor) -> tuple[Tensor, Tensor]:
    """sum_i w_i C_i (in, in) and sum_i w_i M_i C_i (q, in) in float64, from one walk over the concepts."""
    size = span.shape.in_features
    left, right = torch.zeros(size, size, dtype=torch.float64, device=span.device), span.zeros()
    for index, gram in enumerate(grams(statistics.concepts, span.device)):
        left.add_(gram, alpha=float(weights[index]))
        right.add_(span.coordinates(index, gram), alpha=float(weights[index]))
    return left, right


def fuse(span: Span, statistics: Statistics, weights: Tensor, prior_preservation: float, ridge: float) -> Tensor:
    """Coordinates (q, in) of the minimum of J."""
    gram, right = weighted_system(span, statistics, weights)
    return solve_spd(gram + regulariser(span, statistics, gram, prior_preservation, ridge), right)


def activation_gram(
    statistics: Statistics | None, device: torch.device | str, prior_preservation: float = 0.2
) -> Tensor | None:
    """The metric in which a merged layer is truncated: mean C_i + `prior_preservation` C_0 (in, in), or None."""
    if statistics is None or not statistics.concepts:
        return None
    place = torch.device(device)
    total = sum(grams(statistics.concepts, place), torch.zeros((), dtype=torch.float64)) / len(statistics.concepts)
    return (
        total if statistics.neutral is None else total + prior_preservation * next(grams([statistics.neutral], place))
    )
