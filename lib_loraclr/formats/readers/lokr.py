"""LoKr: dW = alpha / r * W1 (x) W2 (Kronecker), either half whole or as factors (LyCORIS `functional/lokr.py`).

(A B) (x) (C D) = (A (x) C)(B (x) D), so with a factored half the product stays factored, which is used while smaller.
No scale where both halves are whole: there is no rank to divide by.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib_loraclr.core.deltas import Delta, Dense, LowRank
from lib_loraclr.formats.readers.parts import Parts, Update, flat_size


class LokrUpdate(Update):
    """w1 (o1, i1) or w1_a w1_b; w2 (o2, i2[, kh, kw]) or w2_a w2_b, with core t2 (r, r, kh, kw) or without."""

    kind = "lokr"

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        for half in ("lokr_w1", "lokr_w2"):
            if half not in parts:
                parts.require(f"{half}_a", f"{half}_b")
        parts.require_axes("lokr_w1", "lokr_w1_a", "lokr_w1_b", counts=(2,))
        parts.require_axes("lokr_w2", "lokr_w2_a", "lokr_w2_b")
        parts.require_axes("lokr_t2", counts=(4,))
        self.tucker = "lokr_t2" in parts and "lokr_w2" not in parts
        if "lokr_w1" not in parts:
            parts.require_equal("rank", ("lokr_w1_a", 1), ("lokr_w1_b", 0))
            self.rank = parts.shape("lokr_w1_b")[0]
        if self.tucker:
            parts.require_equal("rank", ("lokr_w2_a", 0), ("lokr_t2", 0))
            parts.require_equal("rank", ("lokr_t2", 1), ("lokr_w2_b", 0))
        elif "lokr_w2" not in parts:
            parts.require_equal("rank", ("lokr_w2_a", 1), ("lokr_w2_b", 0))
            parts.require_point("lokr_w2_a")
        if "lokr_w2" not in parts:
            self.rank = parts.shape("lokr_w2_b")[0]
        self.size = self._size()
        spatial = "lokr_t2" if self.tucker else "lokr_w2" if "lokr_w2" in parts else "lokr_w2_b"
        self.kernel = parts.shape(spatial)[2:]

    @classmethod
    def claims(cls, parts: Parts) -> bool:
        """With anything of either half."""
        return any(part.startswith("lokr_") for part in parts.keys)

    def _size(self) -> tuple[int, int]:
        shape = self.parts.shape
        o1, i1 = shape("lokr_w1") if "lokr_w1" in self.parts else (shape("lokr_w1_a")[0], shape("lokr_w1_b")[1])
        if "lokr_w2" in self.parts:
            whole = shape("lokr_w2")
            return o1 * whole[0], i1 * flat_size(whole)
        a, b = shape("lokr_w2_a"), shape("lokr_w2_b")
        if self.tucker:
            return o1 * flat_size(a), i1 * flat_size(b) * math.prod(shape("lokr_t2")[2:])
        return o1 * a[0], i1 * flat_size(b)

    def delta(self, base: Tensor | None = None) -> Delta:
        """Factors where a half is factored and that is a saving, else dense."""
        (a1, b1), (a2, b2) = self._half1(), self._half2()
        scale = self.parts.scale(self.rank)
        inner = a1.shape[1] * a2.shape[1]
        if 2 * inner <= min(a1.shape[0] * a2.shape[0], b1.shape[1] * b2.shape[1]):
            return LowRank(torch.kron(a1 * scale, a2.contiguous()), torch.kron(b1, b2.contiguous()))
        return Dense(torch.kron((a1 @ b1) * scale, (a2 @ b2).contiguous()))

    def _half1(self) -> tuple[Tensor, Tensor]:
        parts = self.parts
        if "lokr_w1" in parts:
            return _trivial_factors(parts.read("lokr_w1"))
        return parts.read("lokr_w1_a"), parts.read("lokr_w1_b")

    def _half2(self) -> tuple[Tensor, Tensor]:
        parts = self.parts
        if "lokr_w2" in parts:
            return _trivial_factors(parts.matrix("lokr_w2"))
        a, b = parts.matrix("lokr_w2_a"), parts.matrix("lokr_w2_b")
        if self.tucker:
            return a.T, torch.einsum("rskl,si->rikl", parts.read("lokr_t2"), b).flatten(1)
        return a, b


def _trivial_factors(whole: Tensor) -> tuple[Tensor, Tensor]:
    """W = W I or I W, whichever identity is smaller."""
    out, inputs = whole.shape
    if out < inputs:
        return torch.eye(out), whole
    return whole, torch.eye(inputs)
