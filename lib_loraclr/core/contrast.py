"""The contrastive objective on second moments, its gradient, and a descent that never lets it rise.

Unknown: coordinates M (q, in) of dW in the span of the up factors; M_i are those of dW_i. With s_i = |dW_i X_i|,

    L(M) = sum_i w_i |(M - M_i) X_i|^2 + <M E, M> + shrink |M| + sum_ij h_ij max(0, margin - d_ij)^2
    swap negatives:   d_ij = |(M - M_j) X_i| / s_i            what LoRA j would do to concept i's features
    paper negatives:  d_ij = |M_i X_i - M X_j| / s_i          targets against predictions on lock-step captures

Everything is a trace with C_i = X_i^T X_i / rows (and C_ij for paper negatives), because |A X_i|^2 = tr(A C_i A^T).
In an output metric every norm of concept i, its unit s_i too, is |A X_i|_P^2 = tr(P_i A C_i A^T) (swap negatives only:
paper negatives compare responses of two concepts, which have no common metric).
Source: LoRACLR (Simsar et al. 2025), equations 4 to 6, in units of each concept's own response; without units a margin
is never reached, because feature distances are in the hundreds (see docs).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_loraclr.core.two_sided import TwoSided

TINY = 1e-12  # squared relative distance below which a direction has no meaning


@dataclass(frozen=True)
class Evaluation:
    """The objective at one M: its value, P_i M C_i (N, q, in), relative distances d (N, N) and hinge gaps (N, N)."""

    value: float
    images: Tensor
    distances: Tensor
    gaps: Tensor


@dataclass(frozen=True)
class ContrastiveObjective:
    """`grams[i]` C_i (in, in); `targets` M_i (N, q, in); `own[i, j]` |M_j X_i|^2; `weights` w_i and `units` s_i^2 (N,);
    `penalty` E, so that M costs <M, E(M)>; `pairs` (N, N) bool: which negatives count; `pull` the weight of one
    concept's hinges; `nearest`: only its nearest negative, else the mean over all; `crossed[i][j]` M_i C_ij (q, in),
    given for paper negatives only; `metrics[i]` P_i (q, q), None the identity. All float64 but the Grams, which are the
    bulk and may stay in float32.
    """

    grams: Sequence[Tensor]
    targets: Tensor
    own: Tensor
    weights: Tensor
    units: Tensor
    penalty: TwoSided
    pairs: Tensor
    margin: float
    pull: float
    nearest: bool = True
    shrink: float = 0.0
    crossed: Sequence[Sequence[Tensor | None]] | None = None
    metrics: Sequence[Tensor] | None = None

    def evaluate(self, point: Tensor) -> Evaluation:
        """Value and the products that the gradient needs, at M (q, in); N products of (q, in) by (in, in)."""
        images = torch.stack([self._weighed(i, point @ gram) for i, gram in enumerate(self._exact_grams())])
        energy = (images * point).sum(dim=(1, 2))
        across = images.flatten(1) @ self.targets.flatten(1).T
        swapped = energy[:, None] - 2 * across + self.own
        squared = swapped if self.crossed is None else self._paper_energies(point, energy)
        distances = (squared / self.units[:, None]).clamp(min=TINY).sqrt()
        gaps = torch.where(self._counted(distances), (self.margin - distances).clamp(min=0), 0.0)
        fit = (self.weights * swapped.diagonal()).sum() + (self.penalty(point) * point).sum()
        value = fit + (self._hinge_weights() * gaps**2).sum() + self.shrink * point.norm()
        return Evaluation(float(value), images, distances, gaps)

    def gradient(self, point: Tensor, at: Evaluation) -> Tensor:
        """dL/dM (q, in), by hand.

        With a_ij = -h_ij gap_ij / (d_ij s_i^2), the derivative of a hinge by its squared distance, swap negatives give
        2 sum_ij a_ij P_i (M - M_j) C_i and paper negatives 2 sum_ij a_ij (M C_j - M_i C_ij).
        """
        pulls = -self._hinge_weights() * at.gaps / (at.distances * self.units[:, None])
        total = self.penalty(point)
        own = torch.diag(self.weights)
        if self.crossed is None:
            own, on_images = own + pulls, self.weights + pulls.sum(dim=1)
        else:
            on_images = self.weights + pulls.sum(dim=0)
            for i, j in pulls.nonzero().tolist():
                crossed = self.crossed[i][j]
                total -= float(pulls[i, j]) * crossed if crossed is not None else 0.0
        total += torch.tensordot(on_images, at.images, dims=1)
        for i, gram in enumerate(self._exact_grams()):
            total -= self._weighed(i, torch.tensordot(own[i], self.targets, dims=1) @ gram)
        total *= 2
        norm = float(point.norm())
        return total + (self.shrink / norm) * point if self.shrink and norm > 0 else total

    def curvature(self, point: Tensor, at: Evaluation) -> TwoSided:
        """A such that <Z - M, A(Z - M)> bounds the second-order part of L(Z) while the same hinges are active: an
        active hinge lies below |r - margin r_0 / |r_0||^2 with r its residual and r_0 that at M.
        """
        active = self._hinge_weights() * (at.gaps > 0) / self.units[:, None]
        added = self.weights + active.sum(dim=1 if self.crossed is None else 0)
        norm = float(point.norm())
        shift = self.penalty.shift + (self.shrink / (2 * norm) if self.shrink and norm > 0 else 0.0)
        terms = list(self.penalty.terms)
        if self.metrics is not None:
            terms += [(weight * left, gram) for weight, left, gram in zip(added, self.metrics, self.grams, strict=True)]
            return TwoSided(terms, shift)
        matrix = torch.zeros_like(self.grams[0], dtype=point.dtype)
        for weight, gram in zip(added.tolist(), self._exact_grams(), strict=True):
            matrix.add_(gram, alpha=weight)
        return TwoSided([*terms, (None, matrix)], shift)

    def active_share(self, at: Evaluation) -> float:
        """Share of the negatives that count (one per concept, or all pairs) closer than the margin."""
        counted = self._counted(at.distances)
        return float(((at.gaps > 0) & counted).sum() / counted.sum().clamp(min=1))

    def _exact_grams(self) -> Iterator[Tensor]:
        return (gram.to(self.targets) for gram in self.grams)

    def _weighed(self, index: int, responses: Tensor) -> Tensor:
        return responses if self.metrics is None else self.metrics[index] @ responses

    def _counted(self, distances: Tensor) -> Tensor:
        if not self.nearest or len(distances) < 2:
            return self.pairs
        closest = torch.where(self.pairs, distances, float("inf")).argmin(dim=1, keepdim=True)
        return self.pairs & torch.zeros_like(self.pairs).scatter(1, closest, True)

    def _hinge_weights(self) -> Tensor:
        per_concept = 1 if self.nearest else self.pairs.sum(dim=1, keepdim=True).clamp(min=1)
        return self.pull * self.pairs.double() / per_concept

    def _paper_energies(self, point: Tensor, energy: Tensor) -> Tensor:
        squared = self.own.diagonal()[:, None] + energy[None, :]
        for i, row in enumerate(self.crossed or ()):
            for j, crossed in enumerate(row):
                if crossed is not None:
                    squared[i, j] -= 2 * (crossed * point).sum()
        return squared


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
        move = objective.curvature(point, at).solve(objective.gradient(point, at)) / 2
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
