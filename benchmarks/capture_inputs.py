"""Merges on other statistics than the product gathers: the teacher's alone, the student's alone, the last round's.

`aggregated` (the product): the teachers' moments plus those of every refinement round. `last`: teachers plus the last
round only, each round replacing the one before. `student`: the last round alone. `teacher`: no refinement.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from lib_loraclr.capture import capture, combine
from lib_loraclr.core.deltas import Delta
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.problem import Statistics
from lib_loraclr.merging.config import config_of
from lib_loraclr.merging.context import open_context
from lib_loraclr.merging.options import MergeOptions
from lib_loraclr.merging.solve import solve, solve_student
from lib_loraclr.model import DiffusionHost, Progress

INPUTS = ("aggregated", "teacher", "student", "last")


def merge_on(inputs: str, options: MergeOptions, host: DiffusionHost, progress: Progress) -> Mapping[str, Delta]:
    """The merge of `options` with statistics of this kind; nothing is written but the cache."""
    if inputs not in INPUTS[1:]:
        raise InputError("bad-option", f"'{inputs}' is not one of {', '.join(INPUTS[1:])}.", key="inputs")
    config = config_of(options)
    with open_context(config, lambda checkpoint, device: host, progress) as context:
        captured = partial(capture, host, context.concepts, config.capture, progress=progress, cache=context.cache)
        teacher = captured()
        known: Mapping[str, Statistics] = teacher
        for number in range(1, config.rounds + 1 if inputs != "teacher" else 1):
            student = solve_student(context, known, f"round {number}")
            last = captured(student=student, round=number)
            known = last if inputs == "student" else combine(teacher, last)
        solved = solve(context, known, config.method.name, config.method_options, rank=config.rank, measure=False)
    return {name: layer.delta for name, layer in solved.items()}
