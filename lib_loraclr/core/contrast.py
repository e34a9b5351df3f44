"""The contrastive objective on second moments, its gradient, and a descent that never lets it rise.

Unknown: coordinates M (q, in) of dW in the span of the up factors; M_i are those of dW_i. With s_i = |dW_i X_i|,

    L(M) = sum_i w_i |(M - M_i) X_i|^2 + <M E, M> + norm_penalty |M| + sum_ij h_ij max(0, margin - d_ij)^2
    d_ij = |(M - M_j) X_i| / s_i            what LoRA j would do to concept i's features

Everything is a trace with C_i = X_i^T X_i / rows, because |A X_i|^2 = tr(A C_i A^T).
Source: LoRACLR (Simsar et al. 2025), equations 4 to 6, with other negatives and in units of each concept's own
response; without units a margin is never reached, because feature distances are in the hundreds (see docs).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_loraclr.core.linalg import solve_spd

TINY = 1e-12  # squared relative distance below which a direction has no meaning


@dataclass(frozen=True)
class Evaluation:
    """The objective at one M: its value, M C_i (N, q, in), relative distances d (N, N) and hinge gaps (N, N)."""

    value: float
    images: Tensor
    distances: Tensor
    gaps: Tensor


@dataclass(frozen=True)
class ContrastiveObjective:
    """`grams[i]` C_i (in, in); `targets` M_i (N, q, in); `energies[i, j]` |M_j X_i|^2; `weights` w_i (N,);
    `response_norms` s_i^2 (N,); `penalty` E (in, in); `pairs` (N, N) bool: which negatives count; `hinge_weight` of one
    concept's hinges; `nearest`: only its nearest negative, else the mean over all; `norm_penalty` of |M|. All float64
    but the Grams, which are the bulk and may stay in float32.
    """

    grams: Sequence[Tensor]
    targets: Tensor
    energies: Tensor
    weights: Tensor
    response_norms: Tensor
    penalty: Tensor
    pairs: Tensor
    margin: float
    hinge_weight: float
    nearest: bool = True
    norm_penalty: float = 0.0

    def evaluate(self, point: Tensor) -> Evaluation:
        """Value and the products that the gradient needs, at M (q, in); N products of (q, in) by (in, in)."""
        images = torch.stack([point @ gram for gram in self._exact_grams()])
        energy = (images * point).sum(dim=(1, 2))
        across = images.flatten(1) @ self.targets.flatten(1).T
        squared = energy[:, None] - 2 * across + self.energies
        distances = (squared / self.response_norms[:, None]).clamp(min=TINY).sqrt()
        gaps = torch.where(self._counted(distances), (self.margin - distances).clamp(min=0), 0.0)
        fit = (self.weights * squared.diagonal()).sum() + ((point @ self.penalty) * point).sum()
        value = fit + (self._hinge_weights() * gaps**2).sum() + self.norm_penalty * point.norm()
        return Evaluation(float(value), images, distances, gaps)

    def gradient(self, point: Tensor, at: Evaluation) -> Tensor:
        """dL/dM (q, in), by hand.

        The hinges give 2 sum_ij a_ij (M - M_j) C_i with a_ij = -h_ij gap_ij / (d_ij s_i^2), the derivative of a hinge
        by its squared distance.
        """
        hinges = -self._hinge_weights() * at.gaps / (at.distances * self.response_norms[:, None])
        on_targets, on_images = torch.diag(self.weights) + hinges, self.weights + hinges.sum(dim=1)
        total = point @ self.penalty
        total += torch.tensordot(on_images, at.images, dims=1)
        for i, gram in enumerate(self._exact_grams()):
            total -= torch.tensordot(on_targets[i], self.targets, dims=1) @ gram
        total *= 2
        norm = float(point.norm())
        return total + (self.norm_penalty / norm) * point if self.norm_penalty and norm > 0 else total

    def curvature(self, point: Tensor, at: Evaluation) -> Tensor:
        """A (in, in) such that <(Z - M) A, Z - M> bounds the second-order part of L(Z) while the same hinges are
        active: an active hinge lies below |r - margin r_0 / |r_0||^2 with r its residual and r_0 that at M.
        """
        active = self._hinge_weights() * (at.gaps > 0) / self.response_norms[:, None]
        curved = torch.zeros_like(self.penalty)
        for weight, gram in zip((self.weights + active.sum(dim=1)).tolist(), self._exact_grams(), strict=True):
            curved.add_(gram, alpha=weight)
        norm = float(point.norm())
        shift = self.norm_penalty / (2 * norm) if self.norm_penalty and norm > 0 else 0.0
        return (shift * torch.eye(len(curved)).to(curved)).add_(self.penalty).add_(curved)

    def active_share(self, at: Evaluation) -> float:
        """Share of the negatives that count (one per concept, or all pairs) closer than the margin."""
        counted = self._counted(at.distances)
        return float(((at.gaps > 0) & counted).sum() / counted.sum().clamp(min=1))

    def _exact_grams(self) -> Iterator[Tensor]:
        return (gram.to(self.targets) for gram in self.grams)

    def _counted(self, distances: Tensor) -> Tensor:
        if not self.nearest or len(distances) < 2:
            return self.pairs
        closest = torch.where(self.pairs, distances, float("inf")).argmin(dim=1, keepdim=True)
        return self.pairs & torch.zeros_like(self.pairs).scatter(1, closest, True)

    def _hinge_weights(self) -> Tensor:
        per_concept = 1 if self.nearest else self.pairs.sum(dim=1, keepdim=True).clamp(min=1)
        return self.hinge_weight * self.pairs.double() / per_concept


@dataclass(frozen=True)
class Descent:
    """The last M (q, in), the history of L, strictly decreasing, and the evaluations at both ends."""

    point: Tensor
    history: list[float]
    first: Evaluation
    last: Evaluation


def descend(objective: ContrastiveObjective, start: Tensor, steps: int, tolerance: float = 1e-4) -> Descent:
    """Majorise-minimise steps M - 1/2 gradient curvature^-1, halved until L falls; stops when a step gains little."""
    point = start
    first = at = objective.evaluate(start)
    history = [at.value]
    for _ in range(steps):
        move = solve_spd(objective.curvature(point, at), objective.gradient(point, at)) / 2
        for halving in range(12):
            candidate = point - move * 0.5**halving
            there = objective.evaluate(candidate)
            if there.value < at.value:
                break
        else:
            break
        point, at = candidate, there
        history.append(at.value)
        if history[-2] - history[-1] < tolerance * history[-2]:
            break
    return Descent(point, history, first, at)
