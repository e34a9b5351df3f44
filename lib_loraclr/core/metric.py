"""The metric of a layer's outputs in the coordinates of a span."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lib_loraclr.core.problem import OutputMetric
from lib_loraclr.core.span import Span


@dataclass(frozen=True)
class SpanMetric:
    """P_i = U^T A_i U (q, q) of every concept and P_0 of neutral inputs, float64: |U M x|_A^2 = |M x|_P^2."""

    concepts: Sequence[Tensor]
    neutral: Tensor

    @classmethod
    def of(cls, span: Span, metric: OutputMetric) -> SpanMetric:
        """One A (out, out) is held at a time, besides N matrices of the span's size."""
        concepts = [span.project(metric.concept(index, span.device)) for index in range(len(span.factors))]
        return cls(concepts, span.project(metric.neutral(span.device)))

    def energies(self, index: int, gram: Tensor, points: Tensor) -> Tensor:
        """tr(P_i M C M^T) for M (..., q, in) and a Gram C (in, in) -> (...)."""
        return ((self.concepts[index] @ points @ gram) * points).sum(dim=(-2, -1))
