"""OFT and BOFT: W' = R W with R orthogonal, block diagonal (OFT) or a product of butterfly stages (BOFT).

kohya `networks/oft.py`, LyCORIS `functional/diag_oft.py` and `boft.py` (arXiv 2306.07280, 2311.06243). R is the Cayley
transform (I + Q)(I - Q)^-1 of Q = P - P^T; `alpha` bounds |Q| by alpha * out. The oldest LyCORIS files (`oft_diag`)
store R itself. `rescale` multiplies the rows afterwards.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib_loraclr.core.deltas import Dense
from lib_loraclr.formats.readers.parts import Parts, Update


class OftUpdate(Update):
    """oft_blocks (n, b, b), or (m, n, b, b) for BOFT; oft_diag (n, b, b)."""

    needs_base = True

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.part = "oft_blocks" if "oft_blocks" in parts else "oft_diag"
        shape = parts.shape(self.part)
        if len(shape) not in (3, 4) or shape[-1] != shape[-2] or 0 in shape:
            text = f"'{parts.keys[self.part]}' {list(shape)} is not a row of square blocks"
            raise parts.error("bad-shape", text, self.part)
        self.kind = "boft" if len(shape) == 4 else "oft"
        self.rank = shape[-1]
        self.size = (shape[-3] * shape[-1], None)
        stages = shape[0] if len(shape) == 4 else 1
        if self.kind == "boft" and (shape[-1] % 2 or self.size[0] % (2 ** (stages - 1) * shape[-1])):
            text = f"'{parts.keys[self.part]}' {list(shape)} has more stages than its outputs allow"
            raise parts.error("bad-shape", text, self.part)
        if "rescale" in parts and math.prod(parts.shape("rescale")) != self.size[0]:
            text = f"'{parts.keys['rescale']}' {list(parts.shape('rescale'))} does not fit {self.size[0]} outputs"
            raise parts.error("bad-shape", text, "rescale")

    @classmethod
    def claims(cls, parts: Parts) -> bool:
        """With rotation blocks."""
        return "oft_blocks" in parts or "oft_diag" in parts

    def delta(self, base: Tensor | None = None) -> Dense:
        """R W - W, dense."""
        weight = self.require_base(base).flatten(1)
        rotations = self._rotations(weight.shape[0])
        turned = weight if self.kind == "boft" else _block_rotate(rotations.mT, weight)
        if self.kind == "boft":
            for stage, blocks in enumerate(rotations):
                turned = _butterfly(turned, blocks, stage)
        if "rescale" in self.parts:
            turned = turned * self.parts.read("rescale").reshape(-1, 1)
        return Dense(turned - weight)

    def _rotations(self, out: int) -> Tensor:
        blocks = self.parts.read(self.part)
        if self.part == "oft_diag":
            return blocks
        skew = blocks - blocks.mT
        bound = (self.parts.scalar("alpha") or 0.0) * out
        norm = float(torch.linalg.vector_norm(skew)) + 1e-8
        if 0 < bound < norm:
            skew = skew * (bound / norm)
        eye = torch.eye(skew.shape[-1])
        return torch.linalg.solve(eye - skew, eye + skew, left=False)


def _block_rotate(blocks: Tensor, weight: Tensor) -> Tensor:
    """blocks (n, b, b) times the n groups of b rows of weight (n * b, in)."""
    return (blocks @ weight.reshape(blocks.shape[0], blocks.shape[1], -1)).reshape(weight.shape)


def _butterfly(weight: Tensor, blocks: Tensor, stage: int) -> Tensor:
    """One stage: rows are paired at distance 2^stage * b / 2, rotated block by block, and put back."""
    half = 2**stage * (blocks.shape[-1] // 2)
    columns = weight.shape[1]
    paired = weight.reshape(-1, 2, half, columns).transpose(1, 2).reshape(-1, columns)
    turned = _block_rotate(blocks, paired)
    return turned.reshape(-1, half, 2, columns).transpose(1, 2).reshape(-1, columns)
