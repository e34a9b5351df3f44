"""How much of each concept a merged LoRA keeps, asked of the whole model: questions that it has not learned from.

Layer by layer a distilled merge looks worse than it is, because it goes other ways to the same prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lib_loraclr.capture import CaptureConcept, CaptureSettings, StatisticsCache, inject
from lib_loraclr.capture.run import held_out_runs, neutral_runs
from lib_loraclr.core.deltas import Delta
from lib_loraclr.core.fidelity import ConceptFidelity
from lib_loraclr.core.memory import out_of_memory, release_memory
from lib_loraclr.distill.lessons import LessonMaker, Lessons, sampled_steps
from lib_loraclr.distill.run import loss_weights
from lib_loraclr.distill.settings import DistillSettings
from lib_loraclr.model import DifferentiableHost, Phase, Progress

NUMBER = 950  # of the capture's rounds: noise and neutral pictures of its own
AT_ONCE = 4  # rows a prediction


@dataclass(frozen=True)
class Exam:
    """`questions`: lessons on other prompts, seeds and noise, with `clean` the own teacher's answer.

    `answers` (N + 1, n, c, h, w), float32 on the CPU: x0 as predicted with each single LoRA and, last, by the model.
    """

    questions: Lessons
    answers: Tensor

    @classmethod
    def prepare(
        cls,
        host: DifferentiableHost,
        concepts: Sequence[CaptureConcept],
        settings: DistillSettings,
        capture: CaptureSettings,
        progress: Progress,
    ) -> Exam:
        """Draw the pictures and ask every single LoRA. Call it inside `host.ready()`."""
        asked = exam_settings(settings)
        progress.phase(Phase.EVALUATE, exam_steps(len(concepts), settings, capture))
        maker = LessonMaker(host, asked, capture, progress, NUMBER)
        few = replace(capture, preset="full", held_out_prompts=asked.pictures, neutral_prompts=asked.neutral)
        for concept in concepts:
            run = next(run for run in held_out_runs(concept, concept.deltas, few) if run.sampled)
            maker.add(run, concept.deltas)
        for run in neutral_runs(concepts, {}, few, NUMBER):
            if run.sampled:
                maker.add(run, {})
        questions = maker.lessons()
        answers: list[Tensor] = []
        for deltas in [*(concept.deltas for concept in concepts), {}]:
            answers.append(answered(host, questions, deltas))
            progress.step()
        return cls(questions, torch.stack(answers))

    def marks(self, host: DifferentiableHost, deltas: Mapping[str, Delta]) -> list[ConceptFidelity]:
        """What the update keeps of each concept, in predictions. Call it inside `host.ready()`.

        Energies are mean squares of differences in x0, weighted as the distillation's loss: the "response" of LoRA i is
        what it changes in the model's prediction on its own pictures.
        """
        questions, found = self.questions, answered(host, self.questions, deltas)
        weights = loss_weights(host.signal())[list(questions.steps)]
        *groups, neutral = questions.groups

        def apart(a: Tensor, b: Tensor, rows: range) -> float:
            squares = (a - b)[rows.start : rows.stop].double().square().mean((1, 2, 3))
            return float((squares * weights[rows.start : rows.stop]).mean())

        alone = self.answers[-1]
        energies = [apart(self.answers[i], alone, rows) for i, rows in enumerate(groups)]
        reference = sum(energies) / max(1, len(energies))
        drift = apart(found, alone, neutral)
        result: list[ConceptFidelity] = []
        for i, rows in enumerate(groups):
            distances = tuple(apart(found, self.answers[j], rows) for j in range(len(groups)))
            hits = energies[i] * (distances[i] <= min(distances))
            result.append(ConceptFidelity(i, energies[i], distances, hits, drift, reference, held_out=True))
        return result

    def store(self, cache: StatisticsCache, key: str) -> None:
        """Keep it for another merge of the same LoRAs."""
        q = self.questions
        notes = {"steps": list(q.steps), "prompts": list(q.prompts), "sizes": [len(rows) for rows in q.groups]}
        cache.store_tensors(key, "exam", {"noisy": q.noisy, "answers": self.answers}, notes)

    @classmethod
    def find(cls, cache: StatisticsCache, key: str) -> Exam | None:
        """An exam that was kept; None where there is none, or where it is damaged."""
        found = cache.find_tensors(key, "exam")
        if found is None:
            return None
        tensors, notes = found
        try:
            return _restored(tensors["noisy"], tensors["answers"], notes)
        except (KeyError, TypeError, ValueError):
            return None


def _restored(noisy: Tensor, answers: Tensor, notes: Mapping[str, Any]) -> Exam:
    steps, prompts, sizes = notes["steps"], notes["prompts"], notes["sizes"]
    if not len(noisy) == len(steps) == len(prompts) == sum(sizes) or answers.shape != (len(sizes), *noisy.shape):
        raise ValueError("the parts of the exam do not fit together")
    groups: list[range] = []
    for size in sizes:
        first = groups[-1].stop if groups else 0
        groups.append(range(first, first + size))
    clean = torch.cat([answers[i, rows.start : rows.stop] for i, rows in enumerate(groups)])
    return Exam(Lessons(noisy, clean, steps, prompts, groups), answers)


def exam_settings(settings: DistillSettings) -> DistillSettings:
    """Pictures and noise levels of the exam."""
    return replace(settings, pictures=settings.exam, neutral=2 * settings.exam, levels=settings.exam_levels)


def exam_steps(concepts: int, settings: DistillSettings, capture: CaptureSettings) -> int:
    """Steps of progress that `Exam.prepare` makes."""
    return sampled_steps(concepts, exam_settings(settings), capture) + concepts + 1


@torch.no_grad()
def answered(host: DifferentiableHost, questions: Lessons, deltas: Mapping[str, Delta]) -> Tensor:
    """x0 (n, c, h, w), float32 on the CPU, that the model predicts with this update; fewer rows at once if need be."""
    found, start, at_once = list[Tensor](), 0, AT_ONCE
    with inject(host.layers(), deltas):
        while start < len(questions.steps):
            part = slice(start, start + at_once)
            try:
                rows = host.predict(questions.noisy[part], questions.steps[part], questions.prompts[part])
                found.append(rows.float().cpu())
                start += at_once
                continue
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or at_once == 1:
                    raise
            release_memory()
            at_once //= 2
    return torch.cat(found)
