"""The preset best: what the merged LoRA learns from the single ones, through the whole model.

It starts from gradient fusion, which knows neither margin nor rank, and is added to the method's solution as a
difference. So it is learned once for the same LoRAs, and a merge with another margin or rank finds it in the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from statistics import fmean

from lib_loraclr.capture.cache import digest, digest_deltas
from lib_loraclr.core.deltas import Delta, LowRank, add
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.memory import out_of_memory, release_memory
from lib_loraclr.distill import distill, record
from lib_loraclr.distill.lessons import sampled_steps
from lib_loraclr.formats import FileWarning
from lib_loraclr.hosts.ports import DifferentiableHost, Progress
from lib_loraclr.jobs.meter import Stopwatch
from lib_loraclr.jobs.refine import solve_student
from lib_loraclr.jobs.settings import Plan
from lib_loraclr.jobs.task import Task

UNSEEN = ("held_out_prompts", "memory_budget_mib")  # capture settings that change nothing of what is learned


def correct(
    plan: Plan, task: Task, progress: Progress, watch: Stopwatch
) -> tuple[dict[str, Delta] | None, list[FileWarning]]:
    """What distillation adds to the solution of every layer; the host is as before.

    None, and a warning that says why, where the memory does not suffice for a single row or gradients do not get
    through the model.
    """
    with watch("solve"):
        start = solve_student(task.problems, plan, progress, "Solving for the distillation")
    try:
        with watch("distill"):
            learned = _found(plan, task) or _learn(plan, task, start, progress)
    except InputError as error:
        if error.code != "no-gradients":
            raise
        return None, [
            FileWarning(error.code, f"{error.message} The merge is the one before distillation.", key="preset")
        ]
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        message = "The memory was not enough for the distillation; the file is the merge before it."
        return None, [FileWarning("memory-distill", message, key="preset")]
    finally:
        release_memory()
    return {name: add([learned[name], delta.scaled(-1.0)]) for name, delta in start.items()}, []


def _found(plan: Plan, task: Task) -> dict[str, LowRank] | None:
    """What an earlier merge of the same LoRAs has learned."""
    return task.cache.find_update(_key(plan, task)) if task.cache is not None else None


def _learn(plan: Plan, task: Task, start: Mapping[str, Delta], progress: Progress) -> Mapping[str, LowRank]:
    host, settings = task.host, plan.distill
    if not isinstance(host, DifferentiableHost):
        raise InputError("no-gradients", "This program's model gives no gradients.", key="preset")
    concepts = [concept.asked for concept in task.acting]
    with host.ready():
        progress.phase("Drawing with each LoRA", sampled_steps(len(concepts), settings, plan.capture))
        lessons = record(host, concepts, settings, plan.capture, progress)
        progress.phase("Distilling", settings.steps)
        found = distill(host, start, lessons, settings, progress, seed=plan.options.seed)
    few = max(1, settings.steps // 10)
    before, after = fmean(found.losses[:few]), fmean(found.losses[-few:])
    progress.message(f"Distilled: what the merge mispredicts went from {before:.4f} to {after:.4f}.")
    if task.cache is not None:
        task.cache.store_update(_key(plan, task), found.deltas)
    return found.deltas


def _key(plan: Plan, task: Task) -> str:
    """Everything that decides what is learned."""
    assert task.model is not None
    loras = [
        (asked.name, asked.trigger, asked.class_word, asked.prompts, digest_deltas(asked.deltas))
        for asked in (concept.asked for concept in task.acting)
    ]
    capture = {name: value for name, value in asdict(plan.capture).items() if name not in UNSEEN}
    model, seed = [task.model.weights, str(task.model.dtype)], plan.options.seed
    return digest("distilled", model, loras, capture, plan.student_options, plan.rounds, asdict(plan.distill), seed)
