"""What a merge will ask of the model, and how its time divides among its phases, so that one bar can show all of it."""

from __future__ import annotations

from typing import NamedTuple

from lib_loraclr.distill.evaluate import evaluation_settings
from lib_loraclr.merging.config import MergeConfig
from lib_loraclr.model import Phase

# What does not ask the model, in forward passes of it; a phase that does not come (cached) is jumped over.
READ, LOAD, TEXT_ROUND, SOLVE, WRITE = 10, 50, 20, 50, 20


class Passes(NamedTuple):
    """Forward passes of one picture, by what they are for; a backward pass is two, and text alone is none."""

    teachers: int
    round: int
    exam: int
    lessons: int
    learning: int

    @classmethod
    def of(cls, plan: MergeConfig, concepts: int) -> Passes:
        """Of a merge of so many concepts that finds nothing in the cache."""
        teachers = a_round = exam = lessons = learning = 0
        capture, distill = plan.capture, plan.distill
        if plan.samples and capture.preset == "full":
            a_round = capture.steps * (concepts * capture.prompts + capture.neutral_prompts)
            teachers = a_round + capture.steps * concepts * capture.held_out_prompts
        if distill.total_steps:
            asked = evaluation_settings(distill)
            lessons, questions = (
                (concepts * one.pictures + one.neutral) * (2 * capture.steps + one.levels) for one in (distill, asked)
            )
            exam = questions + (concepts + 1) * (concepts * asked.pictures + asked.neutral) * asked.levels
            learning = 3 * distill.total_steps * distill.batch_size
        return cls(teachers, a_round, exam, lessons, learning)

    def watched(self, rounds: int) -> int:
        """All that the capture needs."""
        return self.teachers + rounds * self.round

    @property
    def distilled(self) -> int:
        """All that the distillation needs."""
        return self.exam + self.lessons + self.learning


def expected_phases(plan: MergeConfig) -> list[tuple[Phase, float]]:
    """(phase, relative duration) of every phase that `merge` announces, in order."""
    passes = Passes.of(plan, len(plan.options.lora))
    phases: list[tuple[Phase, float]] = [(Phase.READ, READ)]
    if plan.samples:
        phases += [(Phase.LOAD, LOAD), (Phase.WATCH, passes.teachers + TEXT_ROUND)]
        phases += [(Phase.SOLVE, SOLVE), (Phase.WATCH, passes.round + TEXT_ROUND)] * plan.rounds
    if plan.distill.total_steps:
        phases += [(Phase.SOLVE, SOLVE), (Phase.EVALUATE, passes.exam), (Phase.DRAW, passes.lessons)]
        phases += [(Phase.LEARN, passes.learning)]
    return [*phases, (Phase.SOLVE, SOLVE), (Phase.WRITE, WRITE)]
