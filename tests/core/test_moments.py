"""Sums of x x^T: what is summed, and that small directions survive beside a large one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lib_loraclr.core.deltas import LayerShape, LowRank
from lib_loraclr.core.methods import METHODS, complete_options
from lib_loraclr.core.moments import SecondMoment, moment_dtype
from lib_loraclr.core.problem import LayerProblem, Statistics

WIDTH = 48


def moment_of(rows: Tensor, parts: int) -> SecondMoment:
    moment = SecondMoment.zeros(rows.shape[1])
    for part in rows.split(-(-len(rows) // parts)):
        moment.add(part)
    return moment


def one_direction(seed: int, small: float = 1e-3) -> Tensor:
    """Rows (4000, in) in float32: nearly all along one direction, a thousandth in six others, nothing elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(WIDTH, 7, generator=generator).double()).Q.T
    sizes = torch.randn(4000, 7, generator=generator).double() * small
    sizes[:, 0] = 10 + torch.rand(4000, generator=generator).double()
    return (sizes @ directions).float()


def test_mean_by_hand() -> None:
    moment = SecondMoment.zeros(2)
    moment.add(torch.tensor([[[1.0, 2.0]], [[3.0, 0.0]]]))
    assert moment.rows == 2
    assert moment.mean().tolist() == [[5.0, 1.0], [1.0, 2.0]]


def test_float64_where_it_is_affordable() -> None:
    assert moment_dtype("cpu") == torch.float64
    assert moment_dtype(torch.device("cuda", 1)) == torch.float32
    assert moment_dtype("mps") == torch.float32  # has no float64


@pytest.mark.parametrize("parts", [1, 40])
def test_small_directions_survive_beside_a_large_one(parts: int) -> None:
    rows = one_direction(1)
    found = torch.linalg.eigvalsh(moment_of(rows, parts).mean()).flip(0)
    exact = torch.linalg.svdvals(rows.double()) ** 2 / len(rows)  # of the rows themselves, never squared
    assert torch.allclose(found[:7], exact[:7], rtol=1e-6)
    assert float(found[7:].abs().max()) < 1e-12 * float(found[0])


def test_a_merge_does_not_depend_on_the_order_of_the_sums() -> None:
    generator = torch.Generator().manual_seed(3)
    deltas = [
        LowRank(torch.randn(32, 2, generator=generator), torch.randn(2, WIDTH, generator=generator)) for _ in range(2)
    ]
    options = complete_options("gradient-fusion", {})

    def merged(parts: int) -> Tensor:
        statistics = Statistics([moment_of(one_direction(seed), parts) for seed in (1, 2)])
        problem = LayerProblem("n", LayerShape(32, WIDTH), deltas, statistics)
        return METHODS["gradient-fusion"].solve(problem, options).delta.dense()

    once, often = merged(1), merged(40)
    assert (once - often).norm() <= 1e-6 * once.norm()
