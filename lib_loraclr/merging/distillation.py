"""The preset best: what the merged LoRA learns from the single ones, through the whole model.

It starts from gradient fusion, which knows neither margin nor rank, and is added to the method's solution as a
difference. So it is learned once for the same LoRAs, and a merge with another margin or rank finds it in the cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import NamedTuple

from lib_loraclr.capture import StatisticsCache
from lib_loraclr.capture.cache import digest, digest_deltas
from lib_loraclr.core.deltas import Delta, LowRank, add
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.fidelity import ConceptFidelity, summarise
from lib_loraclr.core.memory import out_of_memory, release_memory
from lib_loraclr.core.merge import MergedLayer
from lib_loraclr.distill import Distilled, Exam, distill, record
from lib_loraclr.distill.lessons import sampled_steps
from lib_loraclr.formats import FileWarning
from lib_loraclr.merging.config import Plan
from lib_loraclr.merging.context import Task
from lib_loraclr.merging.solve import solve_student
from lib_loraclr.model import DifferentiableHost, Phase, Progress
from lib_loraclr.timing import Stopwatch

UNSEEN = ("held_out_prompts", "memory_budget_mib")  # capture settings that change nothing of what is learned


@dataclass(frozen=True)
class Learned:
    """What distillation adds to the solution of every layer, and the exam that tells what the whole then keeps.

    Both None, and a warning that says why, where the memory does not suffice for a single row or gradients do not get
    through the model.
    """

    correction: Mapping[str, Delta] | None = None
    exam: Exam | None = None
    warnings: Sequence[FileWarning] = ()

    def measure(self, task: Task, layers: Mapping[str, MergedLayer]) -> list[ConceptFidelity]:
        """What these layers keep of each concept, in the predictions of the model; in its features without an exam."""
        host = task.host
        if self.exam is None or not isinstance(host, DifferentiableHost):
            return summarise(layer.fidelity for layer in layers.values())
        with host.ready():
            return self.exam.marks(host, {name: layer.delta for name, layer in layers.items()})


def learn(plan: Plan, task: Task, progress: Progress, watch: Stopwatch) -> Learned:
    """Distil, or find what an earlier merge of the same LoRAs has learned; the host is as before."""
    if not plan.distill.steps:
        return Learned()
    with watch("solve"):
        start = solve_student(task.problems, plan, progress, "start of the distillation")
    try:
        with watch("distill"):
            learned, exam = _learned(plan, task, start, progress)
    except InputError as error:
        if error.code != "no-gradients":
            raise
        message = f"{error.message} The merge is the one before distillation."
        return Learned(warnings=[FileWarning(error.code, message, key="preset")])
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        message = "The memory was not enough for the distillation; the file is the merge before it."
        return Learned(warnings=[FileWarning("memory-distill", message, key="preset")])
    finally:
        release_memory()
    return Learned({name: add([learned[name], delta.scaled(-1.0)]) for name, delta in start.items()}, exam)


def _learned(
    plan: Plan, task: Task, start: Mapping[str, Delta], progress: Progress
) -> tuple[Mapping[str, LowRank], Exam]:
    """The learned update and the exam, each from the cache where it is there."""
    host, settings, cache, keys = task.host, plan.distill, task.cache, _keys(plan, task)
    if not isinstance(host, DifferentiableHost):
        raise InputError("no-gradients", "This program's model gives no gradients.", key="preset")
    assert cache is not None  # whatever samples has one
    concepts = [concept.asked for concept in task.acting]
    exam, update = Exam.find(cache, keys.exam), _found(cache, keys.update)
    with host.ready():
        if exam is None:
            exam = Exam.prepare(host, concepts, settings, plan.capture, progress)
            exam.store(cache, keys.exam)
        if update is None:
            progress.phase(Phase.DRAW, sampled_steps(len(concepts), settings, plan.capture))
            lessons = record(host, concepts, settings, plan.capture, progress)
            progress.phase(Phase.LEARN, settings.steps)
            found = distill(host, start, lessons, settings, progress, seed=plan.options.seed)
            _tell(found, progress)
            update = found.deltas
            _store(cache, keys.update, update)
    return update, exam


def _tell(found: Distilled, progress: Progress) -> None:
    few = max(1, len(found.losses) // 10)
    before, after = fmean(found.losses[:few]), fmean(found.losses[-few:])
    progress.message(f"Distilled: what the merge mispredicts went from {before:.4f} to {after:.4f}.")


def _store(cache: StatisticsCache, key: str, update: Mapping[str, LowRank]) -> None:
    tensors = {f"{name}.up": delta.up for name, delta in update.items()}
    tensors |= {f"{name}.down": delta.down for name, delta in update.items()}
    cache.store_tensors(key, "factors", tensors, {"layers": sorted(update)})


def _found(cache: StatisticsCache, key: str) -> dict[str, LowRank] | None:
    """What an earlier merge has learned; None where it is damaged, too."""
    found = cache.find_tensors(key, "factors")
    if found is None:
        return None
    tensors, notes = found
    try:
        return {name: LowRank(tensors[f"{name}.up"], tensors[f"{name}.down"]) for name in notes["layers"]}
    except (KeyError, TypeError):
        return None


class _Keys(NamedTuple):
    """Of the learned update, and of the exam: names of everything that decides them."""

    update: str
    exam: str


def _keys(plan: Plan, task: Task) -> _Keys:
    assert task.model is not None
    loras = [
        (asked.name, asked.trigger, asked.class_word, asked.prompts, digest_deltas(asked.deltas))
        for asked in (concept.asked for concept in task.acting)
    ]
    capture = {name: value for name, value in asdict(plan.capture).items() if name not in UNSEEN}
    seen = [task.model.weights, str(task.model.dtype), loras, capture]
    # as many text steps as steps, or more, do nothing
    learning = replace(plan.distill, text_steps=min(plan.distill.text_steps, plan.distill.steps))
    pictures = (learning.exam, learning.exam_levels, learning.cfg_scale)
    return _Keys(
        digest("distilled", *seen, plan.student_options, plan.rounds, asdict(learning), plan.options.seed),
        digest("exam", *seen, *pictures),
    )
