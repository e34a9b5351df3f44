"""The solves of a merge: for the rounds that refine what is captured, for the distillation's start, and for the file.

The merged LoRA that runs in the rounds is always gradient fusion: its result does not depend on margin or rank, so a
merge with another margin or rank finds all rounds in the cache. Targets stay the LoRAs' own responses (dataset
aggregation, as in DAgger).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from lib_loraclr.capture import capture, combine
from lib_loraclr.core.deltas import Delta
from lib_loraclr.core.merge import MergedLayer, merge_layers
from lib_loraclr.core.problem import Statistics
from lib_loraclr.core.rank import RankPolicy
from lib_loraclr.merging.context import MergeContext
from lib_loraclr.model import Phase


@dataclass(frozen=True)
class CapturedInputs:
    """Layer name -> statistics. `teacher`: with the single LoRAs running; `all`: with every round added."""

    teacher: Mapping[str, Statistics]
    all: Mapping[str, Statistics]


def capture_inputs(context: MergeContext) -> CapturedInputs:
    """Capture with the teachers, then `config.rounds` times with the merge of everything captured so far.

    Empty for a method that needs no statistics. Call it while the model is ready.
    """
    config, host = context.config, context.host
    if not config.samples or host is None:
        return CapturedInputs({}, {})
    captured = partial(
        capture, host, context.concepts, config.capture, progress=context.progress, cache=context.cache,
        limits=context.limits,
    )  # fmt: skip
    with context.timing("capture"):
        teacher = captured()
    together = teacher
    for number in range(1, config.rounds + 1):
        with context.timing("solve"):
            student = solve_student(context, together, f"round {number} of {config.rounds}")
        with context.timing("capture"):
            together = combine(together, captured(student=student, round=number))
    return CapturedInputs(teacher, together)


def solve_student(context: MergeContext, statistics: Mapping[str, Statistics], detail: str) -> dict[str, Delta]:
    """The gradient fusion that runs in refinement rounds and that a distillation begins with, at its exact ranks."""
    options = context.config.student_options
    merged = solve(context, statistics, "gradient-fusion", options, detail=detail, measure=False)
    return {name: layer.delta for name, layer in merged.items()}


def solve(
    context: MergeContext,
    statistics: Mapping[str, Statistics],
    method: str,
    options: Mapping[str, Any],
    *,
    phase: Phase = Phase.SOLVE,
    detail: str = "",
    rank: RankPolicy | None = None,
    correction: Mapping[str, Delta] | None = None,
    measure: bool = True,
) -> dict[str, MergedLayer]:
    """Merge all layers on these statistics, with progress by layer; the rest is as in `core.merge.merge_layers`."""
    problems = context.problems(statistics)
    context.progress.phase(phase, len(problems), detail)
    return merge_layers(
        problems,
        method,
        options,
        rank=rank,
        device=context.config.device,
        seed=context.config.options.seed,
        bytes_per_value=4 if context.config.options.dtype == "fp32" else 2,
        correction=correction,
        on_layer=context.progress.step,
        measure=measure,
    )
