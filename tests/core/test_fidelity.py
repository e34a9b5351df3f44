from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lib_loraclr.core.deltas import Dense, LayerShape, LowRank
from lib_loraclr.core.fidelity import fidelity, kept_on, summarise
from lib_loraclr.core.moments import SecondMoment
from lib_loraclr.core.problem import LayerProblem, Statistics


def number(value: float) -> LowRank:
    return LowRank(torch.tensor([[value]]), torch.ones(1, 1))


def mean_square(value: float) -> SecondMoment:
    return SecondMoment(torch.tensor([[2 * value]]), 2.0)


def numbers(deltas, squares, neutral=None, name="n") -> LayerProblem:
    moments = [mean_square(s) for s in squares]
    loras = [None if d is None else number(d) for d in deltas]
    return LayerProblem(
        name, LayerShape(1, 1), loras, Statistics(moments, None if neutral is None else mean_square(neutral))
    )


def test_numbers_by_hand():
    # LoRAs 2 and -1, inputs of mean square 1 and 4, merged 1: energies 4 and 4.
    first, second = fidelity(numbers([2.0, -1.0], [1.0, 4.0], neutral=0.25), number(1.0))
    assert first.energy == pytest.approx(4.0)
    assert first.distances == pytest.approx((1.0, 4.0))
    assert first.kept == pytest.approx(0.75)  # (2 - 1)^2 of 2^2 is lost
    assert first.separation == pytest.approx((2 - 1) / 2)
    assert second.kept == pytest.approx(-3.0)  # (1 + 1)^2 * 4 = 16 against 4
    assert second.nearest_other == 0
    assert second.separation == pytest.approx((2 - 4) / 2)
    assert (first.accuracy, second.accuracy) == (1.0, 0.0)
    assert first.drift == second.drift == pytest.approx((0.25 / 4.0) ** 0.5)


def test_sum_over_layers_weighs_by_energy():
    # Layer a: kept 0.75 of energy 4. Layer b: LoRAs 10 and 0.1, merged 10: kept 1 of energy 100.
    a = fidelity(numbers([2.0, -1.0], [1.0, 4.0], neutral=1.0), number(1.0))
    b = fidelity(numbers([10.0, 0.1], [1.0, 1.0], neutral=0.0), number(10.0))
    total = summarise([a, None, b])
    assert total[0].kept == pytest.approx(1 - 1.0 / 104)
    assert total[0].accuracy == 1.0
    assert total[1].accuracy == 0.0
    assert total[0].drift == pytest.approx((1.0 / (4.0 + 50.005)) ** 0.5, rel=1e-4)
    assert summarise([None, None]) == []


def test_equals_the_rows(world):
    w = world(count=3)
    merged = Dense(sum(d.dense() for d in w.problem.deltas) / 2)
    for given in (merged, w.problem.deltas[1]):
        result = fidelity(w.problem, given)
        for i, concept in enumerate(result):
            ours = w.held_out[i].double() @ given.dense().double().T
            own = w.responses(i, i, w.held_out)
            assert concept.held_out
            assert concept.kept == pytest.approx(1 - float(((ours - own) ** 2).sum() / (own**2).sum()), abs=1e-5)
            distances = [float(((ours - w.responses(i, j, w.held_out)) ** 2).sum()) for j in range(3)]
            others = [j for j in range(3) if j != i]
            assert concept.nearest_other == min(others, key=lambda j: distances[j])
        neutral = float((w.neutral.double() @ given.dense().double().T).square().sum() / len(w.neutral))
        assert result[0].drift == pytest.approx((neutral / result[0].reference) ** 0.5, rel=1e-5)


def test_a_perfect_merge_of_one_lora():
    (only,) = fidelity(numbers([2.0], [1.0]), number(2.0))
    assert (only.kept, only.accuracy, only.nearest_other, only.separation, only.drift) == (1.0, 1.0, None, None, None)


def test_a_lora_that_leaves_the_layer_alone_still_counts_its_damage():
    problem = numbers([2.0, None], [1.0, 1.0])
    first, second = fidelity(problem, number(1.0))
    assert second.kept is None
    assert second.accuracy is None
    assert first.nearest_other == 1  # 'no change' stands for the absent LoRA
    total = summarise([[first, second], fidelity(numbers([2.0, 2.0], [1.0, 1.0]), number(2.0))])
    assert total[1].kept == pytest.approx(1 - 1.0 / 4.0)


def test_without_statistics_nothing_is_said(world):
    assert fidelity(replace(world().problem, statistics=None), number(1.0)) is None


def test_training_rows_where_nothing_is_held_out(world):
    problem = world(count=2).problem
    problem = replace(problem, statistics=replace(problem.statistics, held_out=None))
    result = fidelity(problem, problem.deltas[0])
    assert not result[0].held_out
    assert result[0].kept == pytest.approx(1.0, abs=1e-9)
    assert kept_on(problem.deltas, problem.deltas[0], problem.statistics.concepts)[0] == pytest.approx(1.0, abs=1e-9)


def test_held_out_rows_count_only_when_every_concept_has_some(world):
    problem = world(count=2).problem
    for part in ([], problem.statistics.held_out[:1], [SecondMoment.zeros(24), problem.statistics.held_out[1]]):
        partial = replace(problem, statistics=replace(problem.statistics, held_out=part))
        assert not fidelity(partial, problem.deltas[0])[1].held_out
    assert fidelity(problem, problem.deltas[0])[1].held_out


def test_json_form_names_the_concepts():
    first, _ = fidelity(numbers([2.0, -1.0], [1.0, 4.0]), number(1.0))
    assert first.as_dict(["cat", "dog"]) == {
        "name": "cat", "kept": 0.75, "nearest_other": "dog", "separation": 0.5, "accuracy": 1.0, "drift": None,
        "held_out": False,
    }  # fmt: skip
