"""Statistics of a merge: what the single LoRAs see, then, round by round, what the merged model sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from lib_loraclr.capture import PassLimits, StatisticsCache, capture, combine
from lib_loraclr.core.deltas import Delta, LayerShape
from lib_loraclr.core.merge import MergedLayer, merge_layers
from lib_loraclr.core.problem import LayerProblem, Statistics
from lib_loraclr.core.rank import RankPolicy
from lib_loraclr.merging.config import Plan
from lib_loraclr.merging.inputs import Concept
from lib_loraclr.model import DiffusionHost, Phase, Progress
from lib_loraclr.timing import Stopwatch


@dataclass(frozen=True)
class Gathered:
    """`teacher`: with the single LoRAs running; `all`: with every refinement round added. Layer name -> statistics.

    `limits` is what the memory left of a pass.
    """

    teacher: Mapping[str, Statistics]
    all: Mapping[str, Statistics]
    limits: PassLimits = field(default_factory=PassLimits)


def gather(
    host: DiffusionHost,
    concepts: Sequence[Concept],
    shapes: Mapping[str, LayerShape],
    plan: Plan,
    *,
    cache: StatisticsCache,
    progress: Progress,
    watch: Stopwatch,
) -> Gathered:
    """Capture with the teachers, then `plan.rounds` times with the merge of everything gathered so far.

    The running merge is always gradient fusion: its result does not depend on margin or rank, so a merge with another
    margin or rank finds all rounds in the cache. Targets stay the LoRAs' own responses (dataset aggregation).
    """
    chosen = [concept.asked for concept in concepts]
    limits = PassLimits()
    watched = partial(capture, host, chosen, plan.capture, progress=progress, cache=cache, limits=limits)
    with watch("capture"):
        teacher = watched()
    everything = teacher
    for number in range(1, plan.rounds + 1):
        with watch("solve"):
            problems = problems_of(concepts, shapes, everything)
            student = solve_student(problems, plan, progress, f"round {number} of {plan.rounds}")
        with watch("capture"):
            everything = combine(everything, watched(student=student, round=number))
    return Gathered(teacher, everything, limits)


def problems_of(
    concepts: Sequence[Concept], shapes: Mapping[str, LayerShape], statistics: Mapping[str, Statistics]
) -> list[LayerProblem]:
    """One problem per layer that any concept changes, sorted by name."""
    problems: list[LayerProblem] = []
    for name in sorted({name for concept in concepts for name in concept.deltas}):
        deltas = [concept.deltas.get(name) for concept in concepts]
        problems.append(LayerProblem(name, shapes[name], deltas, statistics.get(name)))
    return problems


def solve_student(problems: Sequence[LayerProblem], plan: Plan, progress: Progress, detail: str) -> dict[str, Delta]:
    """The gradient fusion that runs in refinement rounds and that a distillation begins with, at its exact ranks."""
    method, options = "gradient-fusion", plan.student_options
    merged = solve(problems, method, options, plan=plan, progress=progress, detail=detail, measure=False)
    return {name: layer.delta for name, layer in merged.items()}


def solve(
    problems: Sequence[LayerProblem],
    method: str,
    options: Mapping[str, object],
    *,
    plan: Plan,
    progress: Progress,
    phase: Phase = Phase.SOLVE,
    detail: str = "",
    rank: RankPolicy | None = None,
    correction: Mapping[str, Delta] | None = None,
    measure: bool = True,
) -> dict[str, MergedLayer]:
    """Merge all layers with progress by layer."""
    progress.phase(phase, len(problems), detail)
    return merge_layers(
        problems,
        method,
        options,
        rank=rank,
        device=plan.device,
        seed=plan.options.seed,
        bytes_per_value=4 if plan.options.dtype == "fp32" else 2,
        correction=correction,
        on_layer=progress.step,
        measure=measure,
    )
