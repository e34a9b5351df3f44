"""Merges on other statistics than the product gathers: the teacher's alone, the student's alone, the last round's.

`aggregated` (the product): the teachers' moments plus those of every refinement round. `last`: teachers plus the last
round only, each round replacing the one before. `student`: the last round alone. `teacher`: no refinement.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from lib_loraclr.capture import CaptureConcept, StatisticsCache, capture, combine
from lib_loraclr.core.deltas import Delta
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.problem import Statistics
from lib_loraclr.formats.weighted import host_shapes, read_files
from lib_loraclr.merging.config import plan_of
from lib_loraclr.merging.inputs import make_concepts
from lib_loraclr.merging.options import MergeOptions
from lib_loraclr.merging.solve import problems_of, solve
from lib_loraclr.model import DiffusionHost, Progress

INPUTS = ("aggregated", "teacher", "student", "last")


def merge_on(inputs: str, options: MergeOptions, host: DiffusionHost, progress: Progress) -> Mapping[str, Delta]:
    """The merge of `options` with statistics of this kind; nothing is written but the cache."""
    if inputs not in INPUTS[1:]:
        raise InputError("bad-option", f"'{inputs}' is not one of {', '.join(INPUTS[1:])}.", key="inputs")
    plan = plan_of(options)
    loras = read_files([choice.file for choice in options.lora], host.layers())
    shapes = host_shapes(host)
    concepts = make_concepts(options.lora, loras, host.base_weight, shapes)[0]
    watched = [CaptureConcept(c.name, c.trigger, c.class_word, c.deltas, c.choice.prompts) for c in concepts]
    cache = StatisticsCache(options.cache or StatisticsCache.default_folder())
    watch = partial(capture, host, watched, plan.capture, progress=progress, cache=cache)
    teacher = watch()
    known: Mapping[str, Statistics] = teacher
    for number in range(1, plan.rounds + 1 if inputs != "teacher" else 1):
        problems = problems_of(concepts, shapes, known)
        merged = solve(
            problems, "gradient-fusion", plan.student_options, plan=plan, progress=progress,
            detail=f"round {number}", measure=False,
        )  # fmt: skip
        student = {name: layer.delta for name, layer in merged.items()}
        found = watch(student=student, round=number)
        known = found if inputs == "student" else combine(teacher, found)
    solved = solve(
        problems_of(concepts, shapes, known), plan.method.name, plan.method_options, plan=plan,
        progress=progress, rank=plan.rank, measure=False,
    )  # fmt: skip
    return {name: layer.delta for name, layer in solved.items()}
