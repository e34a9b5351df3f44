from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lib_loraclr.core.deltas import Dense, LayerShape, LowRank
from lib_loraclr.core.methods import METHODS, complete_options
from lib_loraclr.core.methods.ties import ties_merge, trimmed
from lib_loraclr.core.problem import LayerProblem


def solve(problem, method, seed=0, **options):
    return METHODS[method].solve(problem, complete_options(method, options), seed=seed).delta


def scalar_problem(*values: float) -> LayerProblem:
    """1 x 1 layers of rank 1 are numbers."""
    deltas = [LowRank(torch.tensor([[v]]), torch.ones(1, 1)) for v in values]
    return LayerProblem("scalar", LayerShape(1, 1), deltas)


def matrix_problem(*matrices: list[list[float]]) -> LayerProblem:
    deltas = [Dense(torch.tensor(m)) for m in matrices]
    return LayerProblem("dense", LayerShape(*deltas[0].shape), deltas)


@pytest.mark.parametrize("ranks", [(1, 2, 3), (2, 8, 9)])
def test_sum_is_exact_for_mixed_ranks_signs_and_zero_weight(ranks, true):
    generator = torch.Generator().manual_seed(0)
    deltas = [
        LowRank(torch.randn(16, r, generator=generator), torch.randn(r, 40, generator=generator)).scaled(w)
        for r, w in zip(ranks, (1.0, -0.7, 0.0), strict=True)
    ]
    problem = LayerProblem("a", LayerShape(16, 40), [*deltas, None])
    merged = solve(problem, "sum")
    oracle = sum(true(delta) for delta in deltas)
    assert isinstance(merged, LowRank) == (sum(ranks) <= 16)
    assert (true(merged) - oracle).norm() <= 1e-6 * oracle.norm()


def test_sum_with_a_dense_input(true):
    generator = torch.Generator().manual_seed(1)
    low = LowRank(torch.randn(6, 2, generator=generator), torch.randn(2, 5, generator=generator))
    full = Dense(torch.randn(6, 5, generator=generator))
    merged = solve(LayerProblem("a", LayerShape(6, 5), [low, full]), "sum")
    assert (true(merged) - true(low) - full.weight).norm() <= 1e-6 * merged.weight.norm()


def test_average_divides_by_all_or_by_those_present():
    problem = scalar_problem(2.0, 4.0)
    problem = replace(problem, deltas=[*problem.deltas, None])
    assert solve(problem, "average").dense().item() == pytest.approx(2.0)
    assert solve(problem, "average", over="present").dense().item() == pytest.approx(3.0)


def test_a_layer_that_nobody_changes_stays_as_it_is(world):
    for name in METHODS:
        problem = replace(world().problem, deltas=[None] * 4)
        assert not solve(problem, name).dense().any()


def test_svd_is_the_best_approximation_of_the_sum(world, true):
    problem = world().problem
    merged = solve(problem, "svd", rank=2)
    total = sum(true(delta) for delta in problem.deltas)
    assert merged.rank == 2
    assert float((true(merged) - total).norm()) == pytest.approx(
        float(torch.linalg.svdvals(total)[2:].norm()), rel=1e-5
    )
    assert solve(problem, "svd").rank == 3


def test_trimming_keeps_the_largest_share():
    matrix = torch.tensor([[1.0, -4.0], [2.0, 3.0]])
    assert torch.equal(trimmed(matrix, 0.5), torch.tensor([[0.0, -4.0], [0.0, 3.0]]))
    assert torch.equal(trimmed(matrix, 1.0), matrix)
    assert not trimmed(matrix, 0.0).any()


def test_ties_by_hand():
    # Entry 1: 4, -1, 2 elect plus: mean of 4 and 2. Entry 2: -3, 1, 1 elect minus: -3. Entry 3: 0, 2, -2 cancel.
    parts = [torch.tensor([[4.0, -3.0, 0.0]]), torch.tensor([[-1.0, 1.0, 2.0]]), torch.tensor([[2.0, 1.0, -2.0]])]
    assert torch.equal(ties_merge(parts, 1.0), torch.tensor([[3.0, -3.0, 0.0]]))


def test_ties_trims_before_it_elects():
    # At density 1/3 only 4, -3 and 9 survive: entry 2 has a single vote.
    problem = matrix_problem([[4.0, 1.0, 1.0]], [[1.0, -3.0, 1.0]], [[1.0, 1.0, 9.0]])
    assert torch.equal(solve(problem, "ties", density=1 / 3, scale=2.0).dense(), torch.tensor([[8.0, -6.0, 18.0]]))


def test_ties_of_one_lora_at_full_density_is_that_lora(world, true):
    problem = replace(world().problem, deltas=world().problem.deltas[:1])
    merged = solve(problem, "ties", density=1.0)
    assert merged.rank == 3
    assert (true(merged) - true(problem.deltas[0])).norm() <= 1e-6 * merged.dense().norm()


def test_dare_without_drop_is_the_sum(world, true):
    problem = world().problem
    difference = true(solve(problem, "dare", drop=0.0)) - true(solve(problem, "sum"))
    assert difference.norm() <= 1e-6 * true(solve(problem, "sum")).norm()


def test_dare_keeps_or_rescales_every_entry_and_its_mean():
    problem = LayerProblem("a", LayerShape(100, 100), [Dense(torch.ones(100, 100))])
    merged = solve(problem, "dare", drop=0.75, rank=100).dense()
    assert set(merged.flatten().tolist()) == {0.0, 4.0}
    assert float(merged.mean()) == pytest.approx(1.0, abs=0.08)


def test_dare_depends_on_seed_and_layer_only():
    problem = LayerProblem("a", LayerShape(20, 20), [Dense(torch.ones(20, 20))] * 2)
    state = torch.random.get_rng_state()
    first = solve(problem, "dare", seed=1).dense()
    torch.manual_seed(123)
    assert torch.equal(solve(problem, "dare", seed=1).dense(), first)
    assert not torch.equal(solve(problem, "dare", seed=2).dense(), first)
    assert not torch.equal(solve(replace(problem, name="b"), "dare", seed=1).dense(), first)
    assert set(first.flatten().tolist()) == {0.0, 2.0, 4.0}  # the two LoRAs are masked independently
    torch.random.set_rng_state(state)


def test_knots_equals_ties_on_a_dense_joint_svd(world, true):
    problem = world().problem
    matrices = [true(delta) for delta in problem.deltas]
    u, s, vt = torch.linalg.svd(torch.cat(matrices, dim=1), full_matrices=False)
    rank = sum(delta.rank for delta in problem.deltas)
    parts = (s[:rank, None] * vt[:rank]).split(problem.shape.in_features, dim=1)
    oracle = u[:, :rank] @ ties_merge(list(parts), 0.3)
    merged = solve(problem, "knots", density=0.3)
    assert isinstance(merged, LowRank)
    assert merged.rank == rank
    assert (true(merged) - oracle).norm() <= 1e-4 * oracle.norm()


def test_knots_with_a_dense_input_is_dense(world):
    problem = world().problem
    mixed = replace(problem, deltas=[Dense(problem.deltas[0].dense()), *problem.deltas[1:], None])
    a, b = solve(mixed, "knots", density=1.0), solve(problem, "knots", density=1.0)
    assert isinstance(a, Dense)
    assert (a.dense() - b.dense()).norm() <= 1e-3 * b.dense().norm()
