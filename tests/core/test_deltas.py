from __future__ import annotations

import torch
import torch.nn.functional as F

from lib_loraclr.core.deltas import Dense, LayerShape, LowRank, add, inner


def _random(out: int, rank: int, size: int, seed: int) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(out, rank, generator=generator), torch.randn(rank, size, generator=generator))


def test_addition_never_has_cross_terms():
    # up1 down1 + up2 down2 = [[1*3]] + [[2*5]] = 13; adding factors would give (1 + 2) * (3 + 5) = 24.
    one, two = (LowRank(torch.tensor([[u]] * 2), torch.tensor([[d] * 2])) for u, d in [(1.0, 3.0), (2.0, 5.0)])
    total = add([one, two])
    assert isinstance(total, LowRank)
    assert total.rank == 2
    assert torch.equal(total.dense(), torch.full((2, 2), 13.0))


def test_sum_is_dense_where_a_term_is_or_the_rank_is_full():
    assert isinstance(add([_random(4, 2, 6, 0), Dense(torch.ones(4, 6))]), Dense)
    assert isinstance(add([_random(4, 3, 6, 0), _random(4, 2, 6, 1)]), Dense)
    assert isinstance(add([_random(4, 2, 6, 0), _random(4, 2, 6, 1)]), LowRank)


def test_adding_leaves_the_inputs_alone():
    first = Dense(torch.ones(2, 2))
    add([first, first])
    assert torch.equal(first.weight, torch.ones(2, 2))


def test_inner_product_equals_the_dense_one_for_all_kinds():
    a, b = _random(7, 2, 5, 0), _random(7, 3, 5, 1)
    oracle = float((a.dense().double() * b.dense().double()).sum())
    for left in (a, Dense(a.dense())):
        for right in (b, Dense(b.dense())):
            assert abs(float(inner(left, right)) - oracle) < 1e-4


def test_tucker_convolution_equals_three_convolutions():
    generator = torch.Generator().manual_seed(0)
    down, mid, up = (torch.randn(*s, generator=generator) for s in [(2, 3), (4, 2, 3, 3), (5, 4)])
    picture = torch.randn(1, 3, 6, 6, generator=generator)
    chain = F.conv2d(F.conv2d(F.conv2d(picture, down[:, :, None, None]), mid), up[:, :, None, None])
    shape = LayerShape.of((5, 3, 3, 3))
    weight = LowRank.from_tucker(up, mid, down).dense().reshape(shape.weight_shape)
    assert shape.in_features == 27
    assert torch.allclose(F.conv2d(picture, weight), chain, atol=1e-4)
