"""IA3: dW = W * w along the input or the output channels (LyCORIS `modules/ia3.py`, arXiv 2205.05638)."""

from __future__ import annotations

import math

from torch import Tensor

from lib_loraclr.core.deltas import Dense
from lib_loraclr.formats.readers.parts import Parts, Update


class Ia3Update(Update):
    """weight with one long axis, on_input a flag."""

    kind = "ia3"
    needs_base = True

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        parts.require("weight", "on_input")
        self.on_input = bool(parts.scalar("on_input"))
        shape = parts.shape("weight")
        self.length = math.prod(shape)
        if self.length == 0 or sum(size > 1 for size in shape) > 1:
            raise parts.error("bad-shape", f"'{parts.keys['weight']}' {list(shape)} is not a vector", "weight")
        self.size = (None, None) if self.on_input else (self.length, None)

    @classmethod
    def claims(cls, parts: Parts) -> bool:
        """With the flag, which no other family has."""
        return "on_input" in parts

    def delta(self, base: Tensor | None = None) -> Dense:
        """W * w, dense."""
        weight = self.require_base(base)
        axis = 1 if self.on_input else 0
        if weight.shape[axis] != self.length:
            text = f"'{self.parts.keys['weight']}' has {self.length} values for {weight.shape[axis]} channels"
            raise self.parts.error("shape-mismatch", text, "weight")
        shape = [1] * weight.dim()
        shape[axis] = -1
        return Dense((weight * self.parts.read("weight").reshape(shape)).flatten(1))
