from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lib_loraclr.core.deltas import Dense, LayerShape, LowRank
from lib_loraclr.core.fidelity import fidelity
from lib_loraclr.core.methods import METHODS, complete_options
from lib_loraclr.core.moments import SecondMoment
from lib_loraclr.core.problem import LayerProblem, Statistics

NAKED = {"prior_preservation": 0.0, "ridge": 0.0}


def solve(problem, **options):
    return METHODS["gradient-fusion"].solve(problem, complete_options("gradient-fusion", options))


def moment(*rows: list[float]) -> SecondMoment:
    total = SecondMoment.zeros(len(rows[0]), dtype=torch.float64)
    total.add(torch.tensor(rows, dtype=torch.float64))
    return total


def number_problem(neutral: SecondMoment | None = None) -> LayerProblem:
    """1 x 1: LoRA 3 on inputs of mean square 1 (two rows), LoRA -1 on inputs of mean square 4 (one row)."""
    deltas = [LowRank(torch.tensor([[v]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)) for v in (3, -1)]
    return LayerProblem("n", LayerShape(1, 1), deltas, Statistics([moment([1.0], [-1.0]), moment([2.0])], neutral))


def test_closed_form_by_hand():
    # equal: (3 * 1 - 1 * 4) / (1 + 4) = -0.2; by rows (2 : 1): (2 * 3 - 4) / (2 + 4) = 1/3;
    # relative, s^2 = 9 and 4: weights 1/9 and 1/4: (3/9 - 1) / (1/9 + 1) = -0.6.
    problem = number_problem()
    for weighting, expected in [("equal", -0.2), ("rows", 1 / 3), ("relative", -0.6)]:
        merged = solve(problem, weighting=weighting, **NAKED).delta
        assert merged.dense().item() == pytest.approx(expected, abs=1e-12)


def test_anchor_and_ridge_by_hand():
    # weights 1/2: (3 - 4) / 2 over (1 + 4) / 2 + 0.5 * 9 = -0.5 / 7; ridge 1 doubles the denominator.
    problem = number_problem(moment([3.0]))
    merged = solve(problem, prior_preservation=0.5, ridge=0.0).delta
    assert merged.dense().item() == pytest.approx(-0.5 / 7, abs=1e-12)
    merged = solve(problem, prior_preservation=0.5, ridge=1.0).delta
    assert merged.dense().item() == pytest.approx(-0.5 / 14, abs=1e-12)


def test_equals_least_squares_on_the_rows(world, true):
    w = world(count=3, dtype=torch.float64)
    merged = solve(w.problem, **NAKED).delta
    targets = torch.cat([w.responses(i, i) for i in range(3)])
    oracle = torch.linalg.lstsq(torch.cat(w.rows).double(), targets).solution.T
    assert isinstance(merged, LowRank)
    assert merged.rank == 9
    assert (true(merged) - oracle).norm() <= 1e-9 * oracle.norm()


def test_residual_is_at_most_that_of_lbfgs(world, true):
    w = world(count=4, rank=4)
    rows = torch.cat(w.rows)
    targets = torch.cat([w.responses(i, i) for i in range(4)]).float()
    weight = torch.nn.Parameter(torch.zeros(w.problem.shape.out_features, w.problem.shape.in_features))
    optimiser = torch.optim.LBFGS([weight], lr=1, max_iter=50, history_size=25, line_search_fn="strong_wolfe")

    def closure():
        lost = rows @ weight.T - targets
        weight.grad = 2 * lost.T @ rows / lost.numel()
        return lost.square().mean()

    with torch.no_grad():
        optimiser.step(closure)
    residual = ((rows @ weight.detach().T - targets) ** 2).sum()
    ours = ((rows.double() @ true(solve(w.problem, published=True).delta).T - targets) ** 2).sum()
    assert float(ours) <= float(residual) * (1 + 1e-6)


def test_objective_is_stationary(world, true):
    w = world(count=3)
    merged = true(solve(w.problem, prior_preservation=0.3, ridge=1e-3).delta).requires_grad_()
    weights = 1 / 3
    loss = sum(
        weights * (((x.double() @ merged.T) - w.responses(i, i)) ** 2).sum() / len(x) for i, x in enumerate(w.rows)
    )
    neutral = w.neutral.double()
    loss = loss + 0.3 * ((neutral @ merged.T) ** 2).sum() / len(neutral)
    gram = sum(x.double().T @ x.double() / len(x) for x in w.rows) / 3 + 0.3 * neutral.T @ neutral / len(neutral)
    loss = loss + 1e-3 * gram.diagonal().mean() * (merged**2).sum()
    loss.backward()
    scale = (merged.detach() @ gram).norm()
    assert merged.grad.norm() <= 1e-4 * scale


def test_one_lora_without_anchor_stays_itself(world, true):
    w = world(count=1, dtype=torch.float64)
    merged = solve(w.problem, **NAKED).delta
    assert (true(merged) - true(w.problem.deltas[0])).norm() <= 1e-9 * true(merged).norm()


def test_dense_and_factored_inputs_agree(world, true):
    problem = world().problem
    mixed = replace(problem, deltas=[Dense(problem.deltas[0].dense()), *problem.deltas[1:]])
    low, full = solve(problem).delta, solve(mixed).delta
    assert isinstance(full, Dense)
    assert (true(low) - full.weight).norm() <= 1e-5 * full.weight.norm()


@pytest.mark.parametrize(("rank", "size", "out"), [(6, 24, 20), (6, 16, 40), (10, 24, 20)])
def test_full_ranks_agree_with_the_formula(world, true, rank, size, out):
    problem = world(rank=rank, size=size, out=out).problem
    merged = solve(problem, prior_preservation=0.0, ridge=1e-3).delta
    means = [moment.mean().double() / 4 for moment in problem.statistics.concepts]
    gram = sum(means)
    gram = gram + 1e-3 * gram.diagonal().mean() * torch.eye(size)
    oracle = sum(true(d) @ c for d, c in zip(problem.deltas, means, strict=True)) @ torch.linalg.inv(gram)
    assert (true(merged) - oracle).norm() <= 1e-5 * oracle.norm()
    assert isinstance(merged, Dense) or merged.rank <= min(size, out)


def test_dependent_up_factors_do_no_harm(world, true):
    w = world(count=3, dtype=torch.float64)
    same = [replace_up(delta, w.problem.deltas[0].up) for delta in w.problem.deltas]
    problem = replace(w.problem, deltas=same)
    merged = solve(problem, **NAKED).delta
    targets = torch.cat([x.double() @ true(d).T for x, d in zip(w.rows, same, strict=True)])
    oracle = torch.linalg.lstsq(torch.cat(w.rows).double(), targets).solution.T
    assert (true(merged) - oracle).norm() <= 1e-9 * oracle.norm()


def replace_up(delta: LowRank, up: torch.Tensor) -> LowRank:
    return LowRank(up, delta.down)


def test_a_lora_that_leaves_the_layer_alone_is_protected(world):
    w = world(count=3)
    without = [*w.problem.deltas[:2], None]
    protected = solve(replace(w.problem, deltas=without)).delta
    ignored_statistics = replace(w.problem.statistics, concepts=w.problem.statistics.concepts[:2], held_out=None)
    ignored = solve(replace(w.problem, deltas=without[:2], statistics=ignored_statistics)).delta
    change = [float((w.rows[2].double() @ delta.dense().T).norm()) for delta in (protected, ignored)]
    assert change[0] < 0.7 * change[1]


def test_the_anchor_lowers_drift_and_balance_lifts_the_worst(world):
    problem = world(count=5, size=40).problem
    drift = [fidelity(problem, solve(problem, prior_preservation=a).delta)[0].drift for a in (0.0, 0.2, 1.0)]
    assert drift[0] > drift[1] > drift[2]
    strong = [problem.deltas[0].scaled(2.0), *problem.deltas[1:]]
    problem = replace(problem, deltas=strong, statistics=replace(problem.statistics, held_out=None))
    worst = [min(f.kept for f in fidelity(problem, solve(problem, balance=b).delta)) for b in (0, 1, 8)]
    assert worst[0] < worst[1] < worst[2]


def test_singular_statistics_are_solved():
    row = [1.0, 2.0, 0.0]
    delta = LowRank(torch.ones(2, 1, dtype=torch.float64), torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.float64))
    problem = LayerProblem("a", LayerShape(2, 3), [delta], Statistics([moment(row)]))
    response = solve(problem, **NAKED).delta.dense() @ torch.tensor(row, dtype=torch.float64)
    assert response.tolist() == pytest.approx([3.0, 3.0], rel=1e-5)


def test_layers_nothing_was_captured_of_are_left_alone():
    delta = LowRank(torch.ones(2, 1), torch.ones(1, 3))
    empty = SecondMoment.zeros(3)
    merged = solve(LayerProblem("a", LayerShape(2, 3), [delta], Statistics([empty], empty))).delta
    assert torch.isfinite(merged.dense()).all()
