"""The content of a report: the merge, and what simpler means make of the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib_loraclr.core.fidelity import ConceptFidelity, fidelity, summarise
from lib_loraclr.core.linalg import exact_float32
from lib_loraclr.core.merge import MergedLayer
from lib_loraclr.core.problem import LayerProblem, Statistics
from lib_loraclr.hosts.ports import Progress
from lib_loraclr.jobs.inputs import Concept
from lib_loraclr.jobs.overlap import overlap_of
from lib_loraclr.jobs.refine import problems_of, solve
from lib_loraclr.jobs.report import MergeReport, Variant
from lib_loraclr.jobs.settings import Plan
from lib_loraclr.jobs.task import Task
from lib_loraclr.version import __version__


def build_report(plan: Plan, task: Task, merged: Mapping[str, MergedLayer], progress: Progress) -> MergeReport:
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
        variants=_variants(plan, task, merged, progress) if plan.samples else (),
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


def _variants(plan: Plan, task: Task, merged: Mapping[str, MergedLayer], progress: Progress) -> list[Variant]:
    """The same inputs merged by simpler means, each measured on the same held-out features."""
    name = plan.method.name
    published = {"published": True}
    ways: list[tuple[str, str, Mapping[str, Any], Mapping[str, Statistics]]] = [
        ("stacked sum", "sum", {}, task.statistics.all),
        ("gradient fusion as published", "gradient-fusion", published, task.statistics.teacher),
    ]
    if name != "gradient-fusion":
        ways.append(("gradient fusion", "gradient-fusion", plan.student_options, task.statistics.all))
    measured = {problem.name: problem for problem in task.problems}
    found: list[Variant] = []
    for label, method, options, statistics in ways:
        problems = problems_of(task.acting, task.shapes, statistics, task.statistics.attention)
        layers = solve(
            problems, method, options, plan=plan, progress=progress, label=f"Comparing: {label}", measure=False
        )
        found.append(Variant(label, method, options, _measure(layers, measured)))
    mine = summarise(layer.fidelity for layer in merged.values())
    return [*found, Variant(f"{name} (this merge)", name, plan.method_options, mine)]


def _measure(layers: Mapping[str, MergedLayer], problems: Mapping[str, LayerProblem]) -> list[ConceptFidelity]:
    with exact_float32():
        return summarise(fidelity(problems[name], layer.delta) for name, layer in layers.items())
