"""LoHa: dW = alpha / r * (A1 B1) * (A2 B2), elementwise; with Tucker cores B = t x_in b (LyCORIS `functional/loha.py`).

An elementwise product of two rank-r matrices is exactly a rank r^2 matrix (row-wise Khatri-Rao of the factors), which
is kept as factors while that is the smaller form.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib_loraclr.core.deltas import Delta, Dense, LowRank
from lib_loraclr.formats.readers.parts import Parts, Update, flat_size

_NAMES = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


class LohaUpdate(Update):
    """a (out, r), b (r, in * kh * kw); with cores t (r, r, kh, kw): a (r, out), b (r, in)."""

    kind = "loha"

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        parts.require(*_NAMES)
        parts.require_axes(*_NAMES)
        parts.require_axes("hada_t1", "hada_t2", counts=(4,))
        if "hada_t1" in parts or "hada_t2" in parts:
            parts.require("hada_t1", "hada_t2")
        self.tucker = "hada_t1" in parts
        for n in "12":
            a, b, t = f"hada_w{n}_a", f"hada_w{n}_b", f"hada_t{n}"
            if self.tucker:
                parts.require_equal("rank", (a, 0), (t, 0))
                parts.require_equal("rank", (t, 1), (b, 0))
            else:
                parts.require_equal("rank", (a, 1), (b, 0))
                parts.require_point(a)
        self.rank = parts.shape("hada_w1_b")[0]
        self.size, self.kernel = self._half("1"), parts.shape("hada_t1")[2:] if self.tucker else ()
        if self.size != self._half("2"):
            text = f"'{parts.module}' has halves of {self.size} and {self._half('2')}"
            raise parts.error("size-mismatch", text, "hada_w2_a")

    @classmethod
    def claims(cls, parts: Parts) -> bool:
        """With any of the four factors."""
        return any(name in parts for name in _NAMES)

    def _half(self, n: str) -> tuple[int, int]:
        """(out, in) of one half, unfolded."""
        a, b = self.parts.shape(f"hada_w{n}_a"), self.parts.shape(f"hada_w{n}_b")
        if self.tucker:
            return flat_size(a), flat_size(b) * math.prod(self.parts.shape(f"hada_t{n}")[2:])
        return a[0], flat_size(b)

    def delta(self, base: Tensor | None = None) -> Delta:
        """Factors of rank r1 * r2, or dense where that is no saving."""
        a1, b1 = self._factors("1")
        a2, b2 = self._factors("2")
        a1 = a1 * self.parts.scale(self.rank)
        if 2 * a1.shape[1] * a2.shape[1] > min(a1.shape[0], b1.shape[1]):
            return Dense((a1 @ b1) * (a2 @ b2))
        up = torch.einsum("op,oq->opq", a1, a2).flatten(1)
        return LowRank(up, torch.einsum("pi,qi->pqi", b1, b2).flatten(0, 1))

    def _factors(self, n: str) -> tuple[Tensor, Tensor]:
        a, b = self.parts.matrix(f"hada_w{n}_a"), self.parts.matrix(f"hada_w{n}_b")
        if not self.tucker:
            return a, b
        return a.T, torch.einsum("rskl,si->rikl", self.parts.read(f"hada_t{n}"), b).flatten(1)
