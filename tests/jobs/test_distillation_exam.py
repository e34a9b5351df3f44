"""The exam: what a merge keeps, in the predictions of the whole model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from distilling import CAPTURE, SETTINGS, room_for
from tiny_loras import Recorder

from lib_loraclr.capture import CaptureConcept, StatisticsCache
from lib_loraclr.distill import Exam, Lessons
from lib_loraclr.distill.exam import exam_steps
from lib_loraclr.distill.run import loss_weights
from lib_loraclr.hosts.standalone import StandaloneHost


def test_the_exam_is_marked_by_hand(host: StandaloneHost, concepts: list[CaptureConcept], progress: Recorder) -> None:
    """A single LoRA keeps all of itself, no LoRA keeps nothing and does not drift, half of one keeps most."""
    with host.ready():
        exam = Exam.prepare(host, concepts, SETTINGS, CAPTURE, progress)
        own, other = (exam.marks(host, concept.deltas) for concept in concepts)
        none = exam.marks(host, {})
        half = exam.marks(host, {name: delta.scaled(0.5) for name, delta in concepts[0].deltas.items()})
    assert len(progress.reached) == exam_steps(2, SETTINGS, CAPTURE)
    assert [len(group) for group in exam.questions.groups] == [16, 16, 32]
    assert [mark.kept for mark in none] == [0.0, 0.0]
    assert none[0].drift == 0.0
    assert (own[0].kept, own[0].nearest_other) == (pytest.approx(1.0, abs=1e-6), 1)
    assert other[1].kept == pytest.approx(1.0, abs=1e-6)
    assert 0 < (half[0].kept or 0) < 1
    # by hand: weighted squares of x0, on the rows of concept 0
    rows = list(exam.questions.groups[0])
    weights = loss_weights(host.signal())[[exam.questions.steps[k] for k in rows]].double()
    mine, alone = (exam.answers[k][rows].double() for k in (0, -1))
    energy = float(((mine - alone).square().mean((1, 2, 3)) * weights).mean())
    assert own[0].energy == pytest.approx(energy, rel=1e-6)
    assert none[0].distances[0] == pytest.approx(energy, rel=1e-6)


def test_the_exam_asks_what_the_lessons_do_not(
    host: StandaloneHost, concepts: list[CaptureConcept], lessons: Lessons, progress: Recorder
) -> None:
    with host.ready():
        exam = Exam.prepare(host, concepts, SETTINGS, CAPTURE, progress)
    *asked, _ = exam.questions.groups
    *taught, _ = lessons.groups
    for mine, theirs in zip(asked, taught, strict=True):
        assert not {exam.questions.prompts[k] for k in mine} & {lessons.prompts[k] for k in theirs}
    assert not any(torch.equal(a, b) for a in exam.questions.noisy for b in lessons.noisy)
    for i, rows in enumerate(exam.questions.groups):
        torch.testing.assert_close(exam.questions.clean[list(rows)], exam.answers[i][list(rows)], rtol=1e-3, atol=1e-3)


def test_an_exam_takes_fewer_rows_where_the_memory_is_full(
    host: StandaloneHost, concepts: list[CaptureConcept], progress: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with host.ready():
        exam = Exam.prepare(host, concepts, SETTINGS, CAPTURE, progress)
        whole = exam.marks(host, concepts[0].deltas)
        sizes = room_for(1, host, monkeypatch)
        parts = exam.marks(host, concepts[0].deltas)
    assert sizes == [4, 2, *[1] * 64]
    assert [mark.kept for mark in parts] == pytest.approx([mark.kept for mark in whole], rel=1e-3)


def test_an_exam_comes_back_from_the_cache(
    host: StandaloneHost, concepts: list[CaptureConcept], progress: Recorder, tmp_path: Path
) -> None:
    cache = StatisticsCache(tmp_path)
    with host.ready():
        exam = Exam.prepare(host, concepts, SETTINGS, CAPTURE, progress)
        exam.store(cache, "k")
        found = Exam.find(cache, "k")
        assert found is not None
        assert found.marks(host, concepts[0].deltas) == exam.marks(host, concepts[0].deltas)
    assert Exam.find(cache, "other") is None
    for notes in ({}, {"steps": [1], "prompts": [""], "sizes": [1]}, {"steps": 3, "prompts": [], "sizes": []}):
        cache.store_tensors("bad", "exam", {"noisy": exam.questions.noisy, "answers": exam.answers}, notes)
        assert Exam.find(cache, "bad") is None
