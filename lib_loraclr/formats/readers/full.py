"""Full difference: `diff` is dW itself (LyCORIS `modules/full.py`)."""

from __future__ import annotations

from torch import Tensor

from lib_loraclr.core.deltas import Dense
from lib_loraclr.formats.readers.parts import Parts, Update, flat_size


class FullUpdate(Update):
    """diff (out, in[, kh, kw])."""

    kind = "full"

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        parts.require_axes("diff")
        shape = parts.shape("diff")
        self.size, self.kernel = (shape[0], flat_size(shape)), shape[2:]

    @classmethod
    def claims(cls, parts: Parts) -> bool:
        """With a difference of two axes or more (a vector is not a layer's matrix)."""
        return "diff" in parts and len(parts.shape("diff")) >= 2

    def delta(self, base: Tensor | None = None) -> Dense:
        """The difference, unfolded."""
        return Dense(self.parts.matrix("diff"))
