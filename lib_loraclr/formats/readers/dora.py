"""DoRA (arXiv 2402.09353): W' = m * (W + dW) / |W + dW|, over any family that yields a dW; here W' - W.

The shape of `dora_scale` tells the axis of the norm: (out, 1, ...) or (out,) is per output row of W + dW (LyCORIS 3),
(1, in, ...) per input channel (LyCORIS 2, A1111); PEFT's `lora_magnitude_vector` is per output in whatever shape. The
hosts disagree about the first: A1111 always takes the norm per input channel, Forge divides by |W| instead of |W + dW|.
This is what the trainers meant.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lib_loraclr.core.deltas import Delta, Dense, LayerShape
from lib_loraclr.formats.readers.parts import Parts, Update


class DoraUpdate:
    """A decomposed update: needs the base weight."""

    kind = "dora"
    needs_base = True

    def __init__(self, inner: Update) -> None:
        self.inner, self.parts = inner, inner.parts
        self.part = "dora_scale" if "dora_scale" in self.parts else "magnitude"
        shape = self.parts.shape(self.part)
        long = [axis for axis, size in enumerate(shape) if size != 1]
        if len(long) > 1 or (long and long[0] > 1):
            raise self.parts.error("bad-shape", f"'{self.parts.keys[self.part]}' {list(shape)} has no axis", self.part)
        self.per_output = self.part == "magnitude" or len(shape) == 1 or not long or long[0] == 0
        out, length = inner.size[0], shape[long[0]] if long else 1
        if self.per_output and out is not None and length != out:
            text = f"'{self.parts.keys[self.part]}' {list(shape)} does not fit {out} outputs"
            raise self.parts.error("bad-shape", text, self.part)

    @staticmethod
    def claims(parts: Parts) -> bool:
        """With a magnitude, by either name."""
        return "dora_scale" in parts or "magnitude" in parts

    @property
    def rank(self) -> int | None:
        """Rank of the undecomposed update."""
        return self.inner.rank

    @property
    def size(self) -> tuple[int | None, int | None]:
        """(out, in) of the unfolded dW."""
        return self.inner.size

    @property
    def kernel(self) -> tuple[int, ...]:
        """(kh, kw) where the file shows it."""
        return self.inner.kernel

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys in the file."""
        return self.inner.keys

    def check_fits(self, shape: LayerShape) -> None:
        """As the inner update."""
        self.inner.check_fits(shape)

    def delta(self, base: Tensor | None = None) -> Delta:
        """W' - W, dense."""
        weight = self.inner.require_base(base)
        changed = (weight.flatten(1) + self.inner.delta(weight).dense()).reshape(weight.shape)
        axes = [axis for axis in range(weight.dim()) if axis != (0 if self.per_output else 1)]
        norm = torch.linalg.vector_norm(changed, dim=axes, keepdim=True) + torch.finfo(torch.float32).eps
        magnitude = self.parts.read(self.part).flatten()
        magnitude = magnitude.reshape([-1 if axis not in axes else 1 for axis in range(weight.dim())])
        return Dense((changed * (magnitude / norm) - weight).flatten(1))
