"""The content of a report: the merge, and what simpler means make of the same inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lib_loraclr.core.fidelity import ConceptFidelity, fidelity
from lib_loraclr.core.linalg import exact_float32
from lib_loraclr.core.merge import MergedLayer
from lib_loraclr.core.methods import get_method
from lib_loraclr.core.problem import LayerProblem, Statistics
from lib_loraclr.merging.config import Plan
from lib_loraclr.merging.context import Task
from lib_loraclr.merging.distillation import Learned
from lib_loraclr.merging.inputs import Concept
from lib_loraclr.merging.overlap import overlap_of
from lib_loraclr.merging.report import MergeReport, Variant
from lib_loraclr.merging.solve import problems_of, solve
from lib_loraclr.model import Phase, Progress
from lib_loraclr.version import __version__


def build_report(
    plan: Plan,
    task: Task,
    merged: Mapping[str, MergedLayer],
    learned: Learned,
    measured: Sequence[ConceptFidelity],
    progress: Progress,
) -> MergeReport:
    """The report without what is only known after writing: times, memory and warnings."""
    concepts = task.acting
    return MergeReport(
        program=f"sd-webui-loraclr {__version__}",
        out=plan.options.out.name,
        method=plan.method.name,
        options={
            **plan.method_options,
            "preset": plan.options.preset,
            "rank": str(plan.rank),
            "dtype": plan.options.dtype,
        },
        recipe=plan.options.as_recipe(),
        checkpoint=task.model.name if task.model else None,
        inputs=[_input_row(concept) for concept in concepts],
        names=[concept.name for concept in concepts],
        layers=merged,
        overlap=overlap_of(concepts),
        concepts=measured,
        by_prediction=learned.exam is not None,
        variants=_variants(plan, task, learned, measured, progress) if plan.samples else (),
    )


def _input_row(concept: Concept) -> dict[str, Any]:
    ranks = sorted({delta.rank for delta in concept.deltas.values()})
    return {
        "name": concept.name,
        "file": concept.choice.file.name,
        "sha256": concept.lora.sha256,
        "type": ", ".join(concept.lora.types),
        "rank": ranks[0] if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}",
        "layers": len(concept.deltas),
        "weight": concept.choice.weight,
        "te_weight": concept.choice.text_weight,
        "trigger": concept.trigger,
        "class_word": concept.class_word,
    }


def _variants(
    plan: Plan, task: Task, learned: Learned, mine: Sequence[ConceptFidelity], progress: Progress
) -> list[Variant]:
    """The same inputs merged by simpler means, each measured on the same held-out features or questions."""
    name = plan.method.name
    called = name.replace("-", " ")
    published = {"published": True}
    ways: list[tuple[str, str, Mapping[str, Any], Mapping[str, Statistics]]] = [
        ("stacked sum", "sum", {}, task.statistics.all),
        ("gradient fusion as published", "gradient-fusion", published, task.statistics.teacher),
    ]
    if name != "gradient-fusion":
        ways.append(("gradient fusion", "gradient-fusion", plan.student_options, task.statistics.all))
    if name != "contrastive":
        names = {option.name for option in get_method("contrastive").options}
        shared = {name: value for name, value in plan.student_options.items() if name in names}
        ways.append(("contrastive", "contrastive", shared, task.statistics.all))
    if learned.exam is not None:
        ways.append((f"{called} without distillation", name, plan.method_options, task.statistics.all))
    inputs = {problem.name: problem for problem in task.problems}
    found: list[Variant] = []
    for label, method, options, statistics in ways:
        problems = problems_of(task.acting, task.shapes, statistics)
        layers = solve(
            problems, method, options, plan=plan, progress=progress, phase=Phase.COMPARE, detail=label, measure=False
        )
        if learned.exam is None:
            layers = {name: replace(layer, fidelity=_measure(inputs[name], layer)) for name, layer in layers.items()}
        found.append(Variant(label, method, options, learned.measure(task, layers)))
    return [*found, Variant(f"{called} (this merge)", name, plan.method_options, mine)]


def _measure(problem: LayerProblem, layer: MergedLayer) -> list[ConceptFidelity] | None:
    with exact_float32():
        return fidelity(problem, layer.delta)
