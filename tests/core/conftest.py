"""A small world of overlapping concepts: rows of inputs are kept, so that tests can judge moments by rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lib_loraclr.core.deltas import Delta, LayerShape, LowRank
from lib_loraclr.core.moments import SecondMoment
from lib_loraclr.core.problem import LayerProblem, Statistics


@dataclass
class World:
    """`rows[i]`, `held_out[i]`, `neutral`: inputs (rows, in); `problem` holds their moments and the deltas."""

    problem: LayerProblem
    rows: list[Tensor]
    held_out: list[Tensor]
    neutral: Tensor

    def responses(self, i: int, j: int, inputs: list[Tensor] | None = None) -> Tensor:
        """dW_j X_i as rows, float64."""
        delta, rows = self.problem.deltas[j], (inputs or self.rows)[i].double()
        return (
            rows @ dense(delta).T if delta is not None else rows.new_zeros(len(rows), self.problem.shape.out_features)
        )


def dense(delta: Delta) -> Tensor:
    """dW (out, in) in float64, multiplied in float64."""
    return delta.up.double() @ delta.down.double() if isinstance(delta, LowRank) else delta.weight.double()


def moment(rows: Tensor) -> SecondMoment:
    """The second moment of rows (n, in), in the rows' dtype."""
    total = SecondMoment.zeros(rows.shape[1], dtype=rows.dtype)
    total.add(rows)
    return total


def build(
    count: int = 4,
    rank: int = 3,
    size: int = 24,
    out: int = 20,
    rows: int = 200,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    name: str = "unet.layer",
) -> World:
    """Concepts share most input directions and each has a few of its own, which is where its LoRA mostly acts."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    common = draw(size, size) * torch.logspace(0, -1, size, dtype=dtype)
    inputs, held_out, deltas = [], [], []
    for _ in range(count):
        own = draw(2, size)
        inputs.append(draw(rows, size) @ common * 0.5 + draw(rows, 2) @ own)
        held_out.append(draw(rows, size) @ common * 0.5 + draw(rows, 2) @ own)
        deltas.append(LowRank(draw(out, rank) * 0.3, (draw(rank, size) * 0.5 + draw(rank, 2) @ own) * 0.1))
    neutral = draw(rows, size) @ common * 0.5
    statistics = Statistics([moment(x) for x in inputs], moment(neutral), [moment(x) for x in held_out])
    return World(LayerProblem(name, LayerShape(out, size), deltas, statistics), inputs, held_out, neutral)


@pytest.fixture
def world() -> Callable[..., World]:
    """Factory of worlds; see `build`."""
    return build


@pytest.fixture
def true() -> Callable[[Delta], Tensor]:
    """dW in float64."""
    return dense
