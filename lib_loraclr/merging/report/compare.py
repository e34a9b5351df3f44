"""The content of a report: the merge, and what simpler means make of the same inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lib_loraclr.core.fidelity import ConceptFidelity, fidelity
from lib_loraclr.core.linalg import exact_float32
from lib_loraclr.core.merge import MergedLayer
from lib_loraclr.core.methods import get_method
from lib_loraclr.core.problem import LayerProblem
from lib_loraclr.merging.config import MergeConfig
from lib_loraclr.merging.context import MergeContext
from lib_loraclr.merging.distillation import Distillation
from lib_loraclr.merging.inputs import MergeInput, overlap_of
from lib_loraclr.merging.report.data import MergeReport, MethodVariant
from lib_loraclr.merging.solve import CapturedInputs, solve
from lib_loraclr.model import Phase
from lib_loraclr.version import __version__


def build_report(
    context: MergeContext,
    captured: CapturedInputs,
    distillation: Distillation,
    layers: Mapping[str, MergedLayer],
    measured: Sequence[ConceptFidelity],
) -> MergeReport:
    """The report without what is only known after writing: times, memory and warnings."""
    config, options = context.config, context.config.options
    return MergeReport(
        program=f"sd-webui-loraclr {__version__}",
        out=options.out.name,
        method=config.method.name,
        options={
            **config.method_options,
            "preset": options.preset,
            "rank": str(config.rank),
            "dtype": options.dtype,
        },
        recipe=options.as_recipe(),
        checkpoint=context.model.name if context.model else None,
        inputs=[_input_row(item) for item in context.acting],
        names=[concept.name for concept in context.concepts],
        layers=layers,
        overlap=overlap_of(context.concepts),
        concepts=measured,
        by_prediction=distillation.evaluation is not None,
        variants=_variants(context, captured, distillation, measured) if config.samples else (),
    )


def _input_row(item: MergeInput) -> dict[str, Any]:
    concept, choice = item.concept, item.choice
    ranks = sorted({delta.rank for delta in concept.deltas.values()})
    return {
        "name": concept.name,
        "file": choice.file.name,
        "sha256": item.lora.sha256,
        "type": ", ".join(item.lora.types),
        "rank": ranks[0] if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}",
        "layers": len(concept.deltas),
        "weight": choice.weight,
        "te_weight": choice.text_weight,
        "trigger": concept.trigger,
        "class_word": concept.class_word,
        "kind": concept.kind,
    }


def simpler_methods(config: MergeConfig, *, distilled: bool) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(label, method, options) of what the report compares a merge with; `published` sees the teachers' inputs only."""
    name = config.method.name
    simpler: list[tuple[str, str, Mapping[str, Any]]] = [
        ("stacked sum", "sum", {}),
        ("gradient fusion as published", "gradient-fusion", {"published": True}),
    ]
    if name != "gradient-fusion":
        simpler.append(("gradient fusion", "gradient-fusion", config.student_options))
    if name != "contrastive":
        names = {option.name for option in get_method("contrastive").options}
        shared = {option: value for option, value in config.student_options.items() if option in names}
        simpler.append(("contrastive", "contrastive", shared))
    if distilled:
        simpler.append((f"{_title(name)} without distillation", name, config.method_options))
    return simpler


def _title(method: str) -> str:
    return method.replace("-", " ")


def _variants(
    context: MergeContext, captured: CapturedInputs, distillation: Distillation, measured: Sequence[ConceptFidelity]
) -> list[MethodVariant]:
    """The same inputs merged by simpler means, each measured on the same held-out inputs."""
    config, everything = context.config, captured.all
    name = config.method.name
    distilled = distillation.evaluation is not None
    problems = {problem.name: problem for problem in context.problems(everything)}
    variants: list[MethodVariant] = []
    for label, method, options in simpler_methods(config, distilled=distilled):
        statistics = captured.teacher if options.get("published") else everything
        layers = solve(context, statistics, method, options, phase=Phase.COMPARE, detail=label, measure=False)
        if not distilled:
            layers = {name: replace(layer, fidelity=_measure(problems[name], layer)) for name, layer in layers.items()}
        variants.append(MethodVariant(label, method, options, distillation.measure(context, layers)))
    return [*variants, MethodVariant(f"{_title(name)} (this merge)", name, config.method_options, measured)]


def _measure(problem: LayerProblem, layer: MergedLayer) -> list[ConceptFidelity] | None:
    with exact_float32():
        return fidelity(problem, layer.delta)
