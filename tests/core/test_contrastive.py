from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from lib_loraclr.core.contrast import ContrastiveObjective, descend
from lib_loraclr.core.deltas import Dense, LayerShape, LowRank
from lib_loraclr.core.fidelity import fidelity, summarise
from lib_loraclr.core.methods import METHODS, complete_options
from lib_loraclr.core.methods.contrastive import contrastive_objective
from lib_loraclr.core.moments import SecondMoment
from lib_loraclr.core.problem import LayerProblem, Statistics
from lib_loraclr.core.span import Span

AGAINST = ("nearest", "all")


def solve(problem, method="contrastive", **options):
    return METHODS[method].solve(problem, complete_options(method, options))


def objective_of(problem, **options) -> tuple[Span, ContrastiveObjective]:
    complete = complete_options("contrastive", options)
    span = Span.of(problem)
    weights = torch.full((len(problem.deltas),), 1 / len(problem.deltas), dtype=torch.float64)
    return span, contrastive_objective(span, problem, weights, complete)


def loss_on_rows(w, dw, margin, weight, against, prior_preservation, ridge, norm_penalty):
    """The objective written from its definition on rows of features, for autograd; equal weights of the fit."""
    count = len(w.rows)
    rows = [x.double() for x in w.rows]
    own = [w.responses(i, i) for i in range(count)]
    s2 = torch.stack([(y**2).sum() / len(y) for y in own])
    unit = torch.maximum(s2, 0.1 * s2.mean())
    fit = sum(((x @ dw.T - y) ** 2).sum() / len(y) for x, y in zip(rows, own, strict=True)) / unit.sum()
    neutral = w.neutral.double()
    fit = fit + prior_preservation * count / unit.sum() * ((neutral @ dw.T) ** 2).sum() / len(neutral)
    gram = sum(
        x.T @ x / len(x) for x in rows
    ) / unit.sum() + prior_preservation * count / unit.sum() * neutral.T @ neutral / len(neutral)
    fit = fit + ridge * gram.diagonal().mean() * (dw**2).sum()
    hinges = []
    for i in range(count):
        residuals = [rows[i] @ dw.T - w.responses(i, j) for j in range(count) if j != i]
        d = torch.stack([(r**2).sum() / len(r) for r in residuals]).div(unit[i]).sqrt()
        gaps = torch.clamp(margin - (d.min()[None] if against == "nearest" else d), min=0)
        hinges.append((gaps**2).mean())
    norm = sum((w.responses_norm(i)) for i in range(count)) / count
    return fit + weight / count * sum(hinges) + norm_penalty / norm**0.5 * dw.norm()


@pytest.fixture
def exact_world(world):
    """A float64 world that knows |dW_i|^2."""
    w = world(count=3, rank=2, size=10, out=8, rows=40, dtype=torch.float64)
    w.responses_norm = lambda i: float((w.problem.deltas[i].dense() ** 2).sum())  # type: ignore[attr-defined]
    return w


@pytest.mark.parametrize("against", AGAINST)
def test_value_and_gradient_equal_autograd_on_rows(exact_world, against):
    w = exact_world
    setting = {"margin": 2.5, "weight": 0.7, "prior_preservation": 0.2, "ridge": 1e-3, "norm_penalty": 0.05}
    span, objective = objective_of(w.problem, against=against, **setting)
    for seed in range(3):
        point = sum(objective.targets) / 3
        point = point + 0.3 * torch.randn(point.shape, generator=torch.Generator().manual_seed(seed), dtype=point.dtype)
        at = objective.evaluate(point)
        assert objective.active_share(at) > 0
        free = point.clone().requires_grad_()
        oracle = loss_on_rows(w, span.basis @ free, against=against, **setting)
        oracle.backward()
        assert at.value == pytest.approx(oracle.item(), rel=1e-9)
        assert (objective.gradient(point, at) - free.grad).norm() <= 1e-9 * free.grad.norm()


@pytest.mark.parametrize("against", AGAINST)
@pytest.mark.parametrize("margin", [0.5, 1.2, 2.5])
def test_loss_never_rises_and_curvature_bounds_a_step(world, against, margin):
    problem = world(count=5, size=30).problem
    history = solve(problem, margin=margin, weight=2.0, against=against, steps=40).info["loss"]
    assert all(after < before for before, after in pairwise(history))
    span, objective = objective_of(problem, margin=margin, against="all")
    point = span.coordinates(0)
    at = objective.evaluate(point)
    found = descend(objective, point, 1)
    assert found.first.value == at.value
    assert found.history == [at.value, found.last.value]
    assert found.last.value < at.value


def test_hinges_are_active_at_the_default_margin(world):
    for count in (2, 4, 8):
        info = solve(world(count=count, size=40).problem).info
        assert info["active_hinges_at_start"] > 0
        assert info["active_hinges"] > 0
        assert len(info["loss"]) > 1


def test_without_push_it_is_gradient_fusion(world, true):
    problem = world(dtype=torch.float64).problem
    ours = true(solve(problem, weight=0.0, norm_penalty=0.0, weighting="equal").delta)
    closed = true(solve(problem, "gradient-fusion").delta)
    assert (ours - closed).norm() <= 1e-6 * closed.norm()


def test_the_push_separates_concepts_on_held_out_rows(world):
    w = world(count=8, size=40, rows=400)

    def share(delta) -> float:
        """Held-out rows whose response is nearest to the own LoRA's, by the rows themselves."""
        hits = []
        for i, rows in enumerate(w.held_out):
            distances = [
                ((rows.double() @ delta.dense().double().T - w.responses(i, j, w.held_out)) ** 2).sum(1)
                for j in range(8)
            ]
            hits.append((torch.stack(distances).argmin(0) == i).double().mean())
        return float(torch.stack(hits).mean())  # fmt: skip

    closed, pushed = solve(w.problem, "gradient-fusion").delta, solve(w.problem, weight=1.0).delta
    assert share(pushed) > share(closed) + 0.01
    gaps = [min(f.separation for f in fidelity(w.problem, delta)) for delta in (closed, pushed)]
    assert gaps[1] > gaps[0]


def test_by_hand_on_numbers():
    # 1 x 1 layer, inputs of mean square 1, LoRAs 1 and -1 (s = 1), no anchor: L(m) = mean (m -+ 1)^2 + hinges.
    # At m = 0 both negatives are at distance 1: L = 1 + 0.3 * 0.2^2; the fit pulls to 0 and the pushes cancel there.
    unit = SecondMoment(torch.ones(1, 1, dtype=torch.float64), 1.0)
    deltas = [
        LowRank(torch.full((1, 1), v, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)) for v in (1, -1)
    ]
    problem = LayerProblem("n", LayerShape(1, 1), deltas, Statistics([unit, unit]))
    _, objective = objective_of(problem, ridge=0.0, norm_penalty=0.0, margin=1.2, weight=0.3)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    at = objective.evaluate(zero)
    assert at.value == pytest.approx(1 + 0.3 * 0.04, rel=1e-12)
    assert objective.gradient(zero, at).item() == pytest.approx(0.0, abs=1e-12)
    assert objective.active_share(at) == 1.0
    # At m = 0.5: fit (0.25 + 2.25) / 2; concept 1 is 1.5 from the wrong one, concept 2 only 0.5: gap 0.7.
    half = torch.full((1, 1), 0.5, dtype=torch.float64) * objective.targets[0].sign()
    at = objective.evaluate(half)
    assert at.value == pytest.approx(1.25 + 0.15 * 0.49, rel=1e-12)
    assert objective.active_share(at) == 0.5


def test_a_single_lora_has_no_negatives(world, true):
    problem = world(count=1, dtype=torch.float64).problem
    solution = solve(problem, norm_penalty=0.0)
    assert solution.info["active_hinges"] == 0.0
    closed = true(solve(problem, "gradient-fusion").delta)
    assert (true(solution.delta) - closed).norm() <= 1e-6 * closed.norm()


def test_absent_and_powerless_loras(world):
    w = world(count=4)
    powerless = w.problem.deltas[1].scaled(0.0)
    problem = replace(w.problem, deltas=[w.problem.deltas[0], powerless, None, w.problem.deltas[3]])
    solution = solve(problem, steps=30)
    assert torch.isfinite(solution.delta.dense()).all()
    history = solution.info["loss"]
    assert all(after < before for before, after in pairwise(history))
    change = float((w.rows[2].double() @ solution.delta.dense().T).norm() / w.responses(0, 0).norm())
    assert change < 0.7


def test_dense_and_factored_inputs_agree(world, true):
    problem = world().problem
    mixed = replace(problem, deltas=[Dense(problem.deltas[0].dense()), *problem.deltas[1:]])
    low, full = solve(problem, steps=3), solve(mixed, steps=3)
    assert (true(low.delta) - true(full.delta)).norm() <= 1e-6 * true(full.delta).norm()


def test_summary_of_a_push_lifts_the_accuracy(world):
    problems = [world(count=6, size=30, seed=seed, name=f"l{seed}").problem for seed in range(4)]
    scores = []
    for weight in (0.0, 1.0):
        total = summarise(fidelity(problem, solve(problem, weight=weight).delta) for problem in problems)
        scores.append(sum(f.separation for f in total))
    assert scores[1] > scores[0]
