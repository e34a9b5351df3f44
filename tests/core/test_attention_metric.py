"""The attention metric: by hand, against dense oracles, and what it must never do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lib_loraclr.core import two_sided
from lib_loraclr.core.attention import FLOOR, AttentionMetric
from lib_loraclr.core.contrast import descend
from lib_loraclr.core.deltas import LayerShape, LowRank
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.merge import merge_layers
from lib_loraclr.core.methods import METHODS, complete_options
from lib_loraclr.core.methods.contrastive import contrastive_objective
from lib_loraclr.core.methods.gradient_fusion import chosen_metric
from lib_loraclr.core.metric import SpanMetric
from lib_loraclr.core.moments import SecondMoment
from lib_loraclr.core.problem import LayerProblem, Statistics
from lib_loraclr.core.span import Span
from lib_loraclr.core.two_sided import TwoSided

CPU = torch.device("cpu")
NAKED = {"anchor": 0.0, "ridge": 0.0}


@dataclass
class Given:
    """Metrics written down."""

    concepts: list[Tensor]
    base: Tensor

    def concept(self, index: int, device: torch.device) -> Tensor:
        return self.concepts[index].to(device)

    def neutral(self, device: torch.device) -> Tensor:
        return self.base.to(device)


def tensor(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def solve(problem: LayerProblem, method: str = "gradient-fusion", **options):
    return METHODS[method].solve(problem, complete_options(method, {"metric": "attention", **options}))


def draw_metric(count: int, size: int, seed: int = 0, rank: int | None = None) -> Given:
    """Different metrics of mean diagonal 1, some directions cheap."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count + 1):
        rows = torch.randn(rank or size, size, generator=generator, dtype=torch.float64)
        metric = rows.T @ rows
        made.append(metric / metric.diagonal().mean() + 0.01 * torch.eye(size, dtype=torch.float64))
    return Given(made[:-1], made[-1])


def with_metric(problem: LayerProblem, seed: int = 0, rank: int | None = None) -> LayerProblem:
    return replace(problem, metric=draw_metric(len(problem.deltas), problem.shape.out_features, seed, rank))


def objective_of(problem: LayerProblem, update: Tensor, anchor: float, ridge: float, weights: Tensor) -> float:
    """J in the metric, from its definition; `update` (out, in)."""
    metric, grams = problem.metric, [moment.mean().double() for moment in problem.statistics.concepts]
    neutral = problem.statistics.neutral.mean().double()
    total = sum(w * g for w, g in zip(weights, grams, strict=True)) + anchor * neutral
    value = anchor * torch.trace(metric.neutral(CPU) @ update @ neutral @ update.T)
    value = value + ridge * total.diagonal().mean() * update.square().sum()
    for i, delta in enumerate(problem.deltas):
        error = update if delta is None else update - delta.dense().double()
        value = value + weights[i] * torch.trace(metric.concept(i, CPU) @ error @ grams[i] @ error.T)
    return float(value)


def oracle(problem: LayerProblem, anchor: float, ridge: float, weights: Tensor) -> Tensor:
    """The minimum over updates in the span of the up factors, (out, in), as one dense system of Kronecker products."""
    ups = torch.cat([delta.up for delta in problem.deltas if delta is not None], dim=1).double()
    basis = torch.linalg.svd(ups, full_matrices=False).U
    metric, grams = problem.metric, [moment.mean().double() for moment in problem.statistics.concepts]
    neutral = problem.statistics.neutral.mean().double()
    total = sum(w * g for w, g in zip(weights, grams, strict=True)) + anchor * neutral
    size = basis.shape[1] * problem.shape.in_features
    system = ridge * total.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    system = system + anchor * torch.kron(basis.T @ metric.neutral(CPU) @ basis, neutral)
    right = torch.zeros(basis.shape[1], problem.shape.in_features, dtype=torch.float64)
    for i, delta in enumerate(problem.deltas):
        system += weights[i] * torch.kron(basis.T @ metric.concept(i, CPU) @ basis, grams[i])
        if delta is not None:
            right += weights[i] * basis.T @ metric.concept(i, CPU) @ delta.dense().double() @ grams[i]
    return basis @ torch.linalg.solve(system, right.flatten()).view_as(right)


def unit_problem(*columns: list[float], metric: Given | None = None) -> LayerProblem:
    """One input of mean square 1; LoRA i answers it with column i."""
    one = torch.ones(1, 1, dtype=torch.float64)
    deltas = [LowRank(tensor(column).T, one) for column in columns]
    statistics = Statistics([SecondMoment(one, 1.0) for _ in columns])
    return LayerProblem("unet.to_k", LayerShape(len(columns[0]), 1), deltas, statistics, metric)


def test_two_concepts_by_hand():
    # (A_1 + A_2) m = A_1 (1, 0) + A_2 (0, 1) with A_1 = [[2, 1], [1, 1]] and A_2 = I:
    # [[3, 1], [1, 2]] m = (2, 1) + (0, 1) = (2, 2), so m = (2, 4) / 5; plainly it is (1, 1) / 2.
    identity = torch.eye(2, dtype=torch.float64)
    metric = Given([tensor([2.0, 1.0], [1.0, 1.0]), identity], identity)
    problem = unit_problem([1.0, 0.0], [0.0, 1.0], metric=metric)
    assert solve(problem, **NAKED).delta.dense().flatten().tolist() == pytest.approx([0.4, 0.8], abs=1e-5)
    assert solve(problem, **NAKED, metric="output").delta.dense().flatten().tolist() == pytest.approx([0.5, 0.5])
    assert solve(problem, **NAKED).info["metric"] == "attention"


def partner(heads: int, weight: Tensor, *totals: Tensor, neutral: SecondMoment | None = None) -> AttentionMetric:
    deltas = [None] * len(totals)
    return AttentionMetric(lambda: weight, heads, deltas, Statistics([SecondMoment(t, 1.0) for t in totals], neutral))


def test_the_metric_of_a_partner_by_hand():
    # W C W^T = [[1, 1], [1, 4]] for W = diag(1, 2) and C = [[1, 1/2], [1/2, 1]]; its mean diagonal is 5/2.
    weight, gram = torch.diag(torch.tensor([1.0, 2.0])), torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    floor = FLOOR * torch.eye(2, dtype=torch.float64)
    whole = tensor([0.4, 0.4], [0.4, 1.6]) + floor
    split = tensor([0.4, 0.0], [0.0, 1.6]) + floor
    neutral = SecondMoment(2 * gram, 4.0)
    assert torch.allclose(partner(1, weight, gram).concept(0, CPU), whole, atol=1e-7)
    assert torch.allclose(partner(2, weight, gram).concept(0, CPU), split, atol=1e-7)
    assert torch.allclose(partner(2, weight, gram, neutral=neutral).neutral(CPU), split, atol=1e-7)
    # with dW_p = [[0, 0], [-1, 0]] the queries are x_1 and 2 x_2 - x_1: W C W^T = [[1, 0], [0, 3]], mean 2
    delta = LowRank(torch.tensor([[0.0], [-1.0]]), torch.tensor([[1.0, 0.0]]))
    changed = replace(partner(1, weight, gram), deltas=[delta])
    assert torch.allclose(changed.concept(0, CPU), tensor([0.5, 0.0], [0.0, 1.5]) + floor, atol=1e-7)


def test_without_inputs_of_the_partner_it_is_the_plain_metric():
    identity = torch.eye(2, dtype=torch.float64)
    empty = AttentionMetric(lambda: torch.eye(2), 1, [None], Statistics([SecondMoment.zeros(2)]))
    assert torch.equal(empty.concept(0, CPU), identity)
    assert torch.equal(empty.neutral(CPU), identity)


def test_an_error_that_no_query_of_its_head_sees_costs_next_to_nothing():
    # Two heads of two channels, one query feature x: q = (x, 0 | 0, x).
    weight = torch.tensor([[1.0], [0.0], [0.0], [1.0]])
    metric = partner(2, weight, torch.ones(1, 1)).concept(0, CPU)
    unseen, seen = tensor([0.0, 1.0, 1.0, 0.0])[0], tensor([1.0, 0.0, 0.0, 0.0])[0]
    assert float(unseen @ metric @ unseen) == pytest.approx(2 * FLOOR)
    assert float(seen @ metric @ seen) == pytest.approx(2 + FLOOR)
    # errors of two heads do not cancel, although their queries move together; in one head they would
    both = tensor([1.0, 0.0, 0.0, -1.0])[0]
    assert float(both @ metric @ both) == pytest.approx(4 + 2 * FLOOR)
    joined = partner(1, weight, torch.ones(1, 1)).concept(0, CPU)
    assert float(both @ joined @ both) == pytest.approx(2 * FLOOR, abs=1e-6)


def test_a_merge_gives_each_head_to_the_concept_whose_queries_see_it():
    # The queries of concept 1 live in channels 0 and 3, those of concept 2 in 1 and 2; its own LoRA wins there.
    first, second = [1.0, 1.0, 1.0, 1.0], [-1.0, -1.0, -1.0, -1.0]
    own = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    metric = partner(2, own, torch.diag(torch.tensor([1.0, 0.0])), torch.diag(torch.tensor([0.0, 1.0])))
    problem = unit_problem(first, second, metric=None)
    # a span of all four channels, so that the merge can follow
    wide = [replace(d, up=torch.cat([d.up, torch.eye(4).double()], 1), down=torch.cat([d.down, torch.zeros(4, 1)], 0))
            for d in problem.deltas]  # fmt: skip
    merged = solve(replace(problem, deltas=wide, metric=metric), **NAKED).delta.dense().flatten()
    lean = 2 / (2 + 2 * FLOOR)
    assert merged.tolist() == pytest.approx([lean, -lean, -lean, lean], abs=1e-4)


def test_with_identities_it_is_the_plain_closed_form(world, true):
    for seed in range(3):
        problem = world(seed=seed).problem
        identity = torch.eye(problem.shape.out_features, dtype=torch.float64)
        same = replace(problem, metric=Given([identity] * 4, identity))
        for method in ("gradient-fusion", "contrastive"):
            ours, plain = true(solve(same, method).delta), true(solve(problem, method).delta)
            assert (ours - plain).norm() <= 1e-5 * plain.norm()


@pytest.mark.parametrize(("rank", "size", "out"), [(1, 9, 8), (2, 7, 10), (4, 6, 8)])
@pytest.mark.parametrize("setting", [(0.0, 1e-3), (0.3, 1e-4), (0.3, 0.1)])
def test_equals_a_dense_kronecker_solve(world, true, rank, size, out, setting):
    anchor, ridge = setting
    for seed in range(2):
        problem = world(count=3, rank=rank, size=size, out=out, rows=60, seed=seed, dtype=torch.float64).problem
        problem = with_metric(problem, seed)
        if seed:
            problem = replace(problem, deltas=[*problem.deltas[:2], None])
        weights = torch.full((3,), 1 / 3, dtype=torch.float64)
        expected = oracle(problem, anchor, ridge, weights)
        ours = true(solve(problem, anchor=anchor, ridge=ridge, weighting="equal").delta)
        assert (ours - expected).norm() <= 1e-4 * expected.norm()
        values = [objective_of(problem, update, anchor, ridge, weights) for update in (ours, expected)]
        assert values[0] == pytest.approx(values[1], rel=1e-8)


def test_never_above_the_plain_solution_even_when_it_stops_early(world, true, monkeypatch):
    setting, weights = {"anchor": 0.2, "ridge": 1e-4}, torch.full((4,), 0.25, dtype=torch.float64)
    for seed, steps in [(0, 1), (1, 2), (2, 200)]:
        monkeypatch.setattr(two_sided, "STEPS", steps)
        problem = with_metric(world(seed=seed).problem, seed, rank=3)
        plain = true(solve(problem, **setting, metric="output").delta)
        ours = true(solve(problem, **setting).delta)
        before, after = (objective_of(problem, update, 0.2, 1e-4, weights) for update in (plain, ours))
        assert after < before


def test_the_system_is_solved_to_any_tolerance_and_in_one_step_where_the_metrics_agree():
    generator = torch.Generator().manual_seed(0)

    def definite(size: int) -> Tensor:
        rows = torch.randn(size, size, generator=generator, dtype=torch.float64)
        return rows.T @ rows + 0.1 * torch.eye(size, dtype=torch.float64)

    rights, left = [definite(6) for _ in range(3)], definite(4)
    truth = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    mixed = TwoSided([(definite(4), right) for right in rights[:2]] + [(None, rights[2])], 0.3)
    found = mixed.solve(mixed(truth), tolerance=1e-12)
    assert (found - truth).norm() <= 1e-9 * truth.norm()
    equal, calls = TwoSided([(left, right) for right in rights]), []

    class Counted(TwoSided):
        def __call__(self, point: Tensor) -> Tensor:
            calls.append(1)
            return super().__call__(point)

    found = Counted(equal.terms).solve(equal(truth))
    assert (found - truth).norm() <= 1e-9 * truth.norm()
    assert len(calls) == 1
    plain = TwoSided([(None, right) for right in rights], 0.5)
    assert (plain.solve(plain(truth)) - truth).norm() <= 1e-9 * truth.norm()


@pytest.mark.parametrize("against", ["nearest", "all"])
def test_value_and_gradient_equal_autograd_on_rows(world, against):
    w = world(count=3, rank=2, size=10, out=8, rows=40, dtype=torch.float64)
    problem = with_metric(w.problem, seed=7)
    setting = {"margin": 2.5, "weight": 0.7, "anchor": 0.2, "ridge": 1e-3, "shrink": 0.0, "against": against}
    span, options = Span.of(problem), complete_options("contrastive", {"metric": "attention", **setting})
    weights = torch.full((3,), 1 / 3, dtype=torch.float64)
    objective = contrastive_objective(span, problem, weights, options, chosen_metric(span, problem, options)[0])
    for seed in range(3):
        noise = torch.randn(objective.targets[0].shape, generator=torch.Generator().manual_seed(seed)).double()
        point = sum(objective.targets) / 3 + 0.3 * noise
        at = objective.evaluate(point)
        assert objective.active_share(at) > 0
        free = point.clone().requires_grad_()
        loss = loss_on_rows(w, problem, span.basis @ free, setting)
        loss.backward()
        assert at.value == pytest.approx(loss.item(), rel=1e-9)
        assert (objective.gradient(point, at) - free.grad).norm() <= 1e-9 * free.grad.norm()


def loss_on_rows(w, problem: LayerProblem, update: Tensor, setting: dict[str, float]) -> Tensor:
    """The contrastive objective in the metric from its definition on rows of features, equal weights of the fit."""
    metric, rows = problem.metric, [x.double() for x in w.rows]

    def squared(i: int, responses: Tensor) -> Tensor:
        return ((responses @ metric.concept(i, CPU)) * responses).sum() / len(responses)

    own = torch.stack([squared(i, w.responses(i, i)) for i in range(3)])
    unit = torch.maximum(own, 0.1 * own.mean())
    fit = sum(squared(i, rows[i] @ update.T - w.responses(i, i)) for i in range(3)) / unit.sum()
    answers = w.neutral.double() @ update.T
    anchor = setting["anchor"] * 3 / unit.sum()
    fit = fit + anchor * ((answers @ metric.neutral(CPU)) * answers).sum() / len(answers)
    neutral = w.neutral.double().T @ w.neutral.double() / len(w.neutral)
    gram = sum(x.T @ x / len(x) for x in rows) / unit.sum() + anchor * neutral
    fit = fit + setting["ridge"] * gram.diagonal().mean() * update.square().sum()
    hinges = []
    for i in range(3):
        away = [squared(i, rows[i] @ update.T - w.responses(i, j)) / unit[i] for j in range(3) if j != i]
        d = torch.stack(away).sqrt()
        hinges.append((setting["margin"] - (d.min()[None] if setting["against"] == "nearest" else d)).clamp(min=0) ** 2)
    return fit + setting["weight"] / 3 * sum(hinge.mean() for hinge in hinges)


@pytest.mark.parametrize("margin", [1.2, 2.5])
def test_the_loss_never_rises(world, margin):
    problem = with_metric(world(count=5, size=30).problem, rank=4)
    info = solve(problem, "contrastive", margin=margin, weight=2.0, steps=40).info
    assert all(after < before for before, after in pairwise(info["loss"]))
    assert len(info["loss"]) > 1
    assert info["metric"] == "attention"
    span, options = Span.of(problem), complete_options("contrastive", {"metric": "attention"})
    weights = torch.full((5,), 0.2, dtype=torch.float64)
    objective = contrastive_objective(span, problem, weights, options, SpanMetric.of(span, problem.metric))
    found = descend(objective, span.coordinates(0), 1)
    assert found.last.value < found.first.value


def test_without_push_it_is_gradient_fusion_in_the_metric(world, true):
    problem = with_metric(world().problem)
    for weighting in ("equal", "relative"):
        ours = true(solve(problem, "contrastive", weight=0.0, shrink=0.0, weighting=weighting).delta)
        closed = true(solve(problem, weighting=weighting).delta)
        assert (ours - closed).norm() <= 1e-4 * closed.norm()


def test_relative_weights_are_those_of_the_metric():
    # |(1, 0)|_A^2 = 4 and |(0, 1)|_A^2 = 1: weights 1/5 and 4/5, so (1/5 A + 4/5 A) m = A (1/5, 4/5).
    both = tensor([4.0, 0.0], [0.0, 1.0])
    problem = unit_problem([1.0, 0.0], [0.0, 1.0], metric=Given([both, both], both))
    merged = solve(problem, weighting="relative", **NAKED).delta.dense().flatten()
    assert merged.tolist() == pytest.approx([0.2, 0.8], abs=1e-6)


def test_a_layer_without_a_metric_is_plain_and_says_why(world, true):
    problem = replace(world().problem, plain_because="its partner sleeps")
    for method in ("gradient-fusion", "contrastive"):
        plain, ours = solve(problem, method, metric="output"), solve(problem, method)
        assert torch.equal(true(plain.delta), true(ours.delta))
        assert ours.info == {**plain.info, "metric": "output", "metric_reason": "its partner sleeps"}
    merged = merge_layers([with_metric(world().problem)], "gradient-fusion", {"metric": "attention"})
    assert merged["unet.layer"].info["metric"] == "attention"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("method", ["gradient-fusion", "contrastive"])
def test_cuda_and_cpu_agree(world, true, method):
    rows = [torch.randn(24, 24, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    moments = [SecondMoment(x.T @ x, 24.0) for x in rows]
    partner_statistics = Statistics(moments[:4], moments[4])
    metric = AttentionMetric(lambda: rows[0][:20], 4, world(seed=1).problem.deltas, partner_statistics)
    problem = replace(world().problem, metric=metric)
    cpu, gpu = (
        true(merge_layers([problem], method, {"metric": "attention"}, device=device)["unet.layer"].delta)
        for device in ("cpu", "cuda")
    )
    assert (gpu - cpu).norm() <= 1e-4 * cpu.norm()


def test_published_and_the_papers_negatives_stay_plain():
    assert complete_options("gradient-fusion", {"published": True, "metric": "attention"})["metric"] == "output"
    assert complete_options("contrastive", {})["metric"] == "output"
    with pytest.raises(InputError) as caught:
        complete_options("contrastive", {"negatives": "paper", "metric": "attention"})
    assert (caught.value.code, caught.value.key) == ("bad-option", "metric")
