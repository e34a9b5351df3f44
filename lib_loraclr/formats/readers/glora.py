"""GLoRA: dW = alpha / r * (W A + B), A and B of rank r (LyCORIS `modules/glora.py`, arXiv 2306.07967).

Current LyCORIS: A = a1 a2, B = b1 b2. Old files swap the names: A = a2 a1, B = b2 b1; the thin axis tells which.
A1111 leaves the scale out; LyCORIS, which trains it, and Forge apply it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lib_loraclr.core.deltas import Delta, Dense, LowRank
from lib_loraclr.formats.readers.parts import Parts, Update, flat_size


class GloraUpdate(Update):
    """a (in, r) (r, in), b (out, r) (r, in[, kh, kw])."""

    kind = "glora"
    needs_base = True

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        parts.require("a1", "a2", "b1", "b2")
        parts.require_axes("a1", "a2", "b1", "b2")
        shape = parts.shape("b1")
        old = shape[0] < shape[1]
        self.left, self.right = ("2", "1") if old else ("1", "2")
        for side in "ab":
            parts.require_equal("rank", (f"{side}{self.left}", 1), (f"{side}{self.right}", 0))
        for part in (f"a{self.left}", f"a{self.right}", f"b{self.left}"):
            parts.require_point(part)
        down = parts.shape(f"b{self.right}")
        channels = (f"a{self.left}", 0), (f"a{self.right}", 1)
        for channel in channels:
            parts.require_equal("size", channel, (f"b{self.right}", 1))
        self.rank, self.kernel = down[0], down[2:]
        self.size = (parts.shape(f"b{self.left}")[0], flat_size(down))

    @classmethod
    def claims(cls, parts: Parts) -> bool:
        """With any of the four factors."""
        return any(name in parts for name in ("a1", "a2", "b1", "b2"))

    def delta(self, base: Tensor | None = None) -> Delta:
        """Factors of rank 2 r for a linear layer, dense for a convolution (A acts on channels only)."""
        weight, scale = self.require_base(base), self.parts.scale(self.rank)
        a_up, a_down, b_up, b_down = (
            self.parts.matrix(f"{side}{n}") for side in "ab" for n in (self.left, self.right)
        )  # fmt: skip
        if weight.dim() == 2:
            return LowRank(torch.cat([weight @ a_up, b_up], 1) * scale, torch.cat([a_down, b_down]))
        through_a = torch.einsum("oi...,ir,rj->oj...", weight, a_up, a_down)
        return Dense((through_a.flatten(1) + b_up @ b_down) * scale)
