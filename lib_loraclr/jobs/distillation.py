"""The last step of the preset best: the merged LoRA learns from the single ones, through the whole model."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from lib_loraclr.core.memory import out_of_memory, release_memory
from lib_loraclr.core.merge import MergedLayer, remeasured
from lib_loraclr.distill import Distilled, distill, record
from lib_loraclr.distill.lessons import sampled_steps
from lib_loraclr.formats import FileWarning
from lib_loraclr.hosts.ports import DifferentiableHost, Progress
from lib_loraclr.jobs.meter import Stopwatch
from lib_loraclr.jobs.settings import Plan
from lib_loraclr.jobs.task import Task


def distilled(
    plan: Plan, task: Task, merged: Mapping[str, MergedLayer], progress: Progress, watch: Stopwatch
) -> tuple[dict[str, MergedLayer], list[FileWarning]]:
    """The layers after distillation, at the ranks that they have, measured again; the host is as before.

    Where the memory does not suffice for a single row, the layers stay what they were, and a warning says so.
    """
    try:
        with watch("distill"):
            found = _learn(plan, task, merged, progress)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        message = "The memory was not enough for the distillation; the file is the merge before it."
        return dict(merged), [FileWarning("memory-distill", message, key="preset")]
    finally:
        release_memory()
    few = max(1, plan.distill.steps // 10)
    before, after = fmean(found.losses[:few]), fmean(found.losses[-few:])
    progress.message(f"Distilled: what the merge mispredicts went from {before:.4f} to {after:.4f}.")
    with watch("solve"):
        return remeasured(task.problems, merged, found.deltas, plan.device), []


def _learn(plan: Plan, task: Task, merged: Mapping[str, MergedLayer], progress: Progress) -> Distilled:
    host = task.host
    assert isinstance(host, DifferentiableHost)  # checked when the host was opened
    concepts = [concept.asked for concept in task.acting]
    settings = plan.distill
    with host.ready():
        progress.phase("Drawing with each LoRA", sampled_steps(len(concepts), settings, plan.capture))
        lessons = record(host, concepts, settings, plan.capture, progress)
        progress.phase("Distilling", settings.steps)
        start = {name: layer.delta for name, layer in merged.items()}
        return distill(host, start, lessons, settings, progress, seed=plan.options.seed)
