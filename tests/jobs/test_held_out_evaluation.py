"""The evaluation: what a merge keeps, in the predictions of the whole model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from distilling import CAPTURE, SETTINGS, room_for
from tiny_loras import Recorder

from lib_loraclr.capture import Concept, TensorCache
from lib_loraclr.distill import DistillationDataset, HeldOutEvaluation
from lib_loraclr.distill.evaluate import evaluation_count
from lib_loraclr.distill.train import loss_weights
from lib_loraclr.hosts.standalone import StandaloneHost


def test_scores_are_what_the_formula_says(host: StandaloneHost, concepts: list[Concept], progress: Recorder) -> None:
    """A single LoRA keeps all of itself, no LoRA keeps nothing and does not drift, half of one keeps most."""
    with host.ready():
        evaluation = HeldOutEvaluation.build(host, concepts, SETTINGS, CAPTURE, progress)
        own, other = (evaluation.scores(host, concept.deltas) for concept in concepts)
        none = evaluation.scores(host, {})
        half = evaluation.scores(host, {name: delta.scaled(0.5) for name, delta in concepts[0].deltas.items()})
    assert len(progress.reached) == evaluation_count(2, SETTINGS, CAPTURE).steps
    assert [len(group) for group in evaluation.inputs.groups] == [16, 16, 32]
    assert [mark.kept for mark in none] == [0.0, 0.0]
    assert none[0].drift == 0.0
    assert (own[0].kept, own[0].nearest_other) == (pytest.approx(1.0, abs=1e-6), 1)
    assert other[1].kept == pytest.approx(1.0, abs=1e-6)
    assert 0 < (half[0].kept or 0) < 1
    # by hand: weighted squares of x0, on the rows of concept 0
    rows = list(evaluation.inputs.groups[0])
    weights = loss_weights(host.sqrt_alphas_cumprod())[[evaluation.inputs.timesteps[k] for k in rows]].double()
    mine, alone = (evaluation.targets[k][rows].double() for k in (0, -1))
    energy = float(((mine - alone).square().mean((1, 2, 3)) * weights).mean())
    assert own[0].energy == pytest.approx(energy, rel=1e-6)
    assert none[0].distances[0] == pytest.approx(energy, rel=1e-6)


def test_the_evaluation_has_other_inputs_than_the_dataset(
    host: StandaloneHost, concepts: list[Concept], dataset: DistillationDataset, progress: Recorder
) -> None:
    with host.ready():
        evaluation = HeldOutEvaluation.build(host, concepts, SETTINGS, CAPTURE, progress)
    *held_out, _ = evaluation.inputs.groups
    *learned, _ = dataset.groups
    for mine, theirs in zip(held_out, learned, strict=True):
        assert not {evaluation.inputs.prompts[k] for k in mine} & {dataset.prompts[k] for k in theirs}
    assert not any(torch.equal(a, b) for a in evaluation.inputs.noisy for b in dataset.noisy)
    for i, rows in enumerate(evaluation.inputs.groups):
        torch.testing.assert_close(
            evaluation.inputs.targets[list(rows)], evaluation.targets[i][list(rows)], rtol=1e-3, atol=1e-3
        )


def test_an_evaluation_takes_fewer_rows_where_the_memory_is_full(
    host: StandaloneHost, concepts: list[Concept], progress: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with host.ready():
        evaluation = HeldOutEvaluation.build(host, concepts, SETTINGS, CAPTURE, progress)
        whole = evaluation.scores(host, concepts[0].deltas)
        sizes = room_for(1, host, monkeypatch)
        parts = evaluation.scores(host, concepts[0].deltas)
    assert sizes == [4, 2, *[1] * 64]
    assert [mark.kept for mark in parts] == pytest.approx([mark.kept for mark in whole], rel=1e-3)


def test_an_evaluation_comes_back_from_the_cache(
    host: StandaloneHost, concepts: list[Concept], progress: Recorder, tmp_path: Path
) -> None:
    cache = TensorCache(tmp_path)
    with host.ready():
        evaluation = HeldOutEvaluation.build(host, concepts, SETTINGS, CAPTURE, progress)
        evaluation.store(cache, "k")
        found = HeldOutEvaluation.find(cache, "k")
        assert found is not None
        assert found.scores(host, concepts[0].deltas) == evaluation.scores(host, concepts[0].deltas)
    assert HeldOutEvaluation.find(cache, "other") is None
    for notes in ({}, {"timesteps": [1], "prompts": [""], "sizes": [1]}, {"timesteps": 3, "prompts": [], "sizes": []}):
        cache.store_tensors(
            "bad", "evaluation", {"noisy": evaluation.inputs.noisy, "targets": evaluation.targets}, notes
        )
        assert HeldOutEvaluation.find(cache, "bad") is None
