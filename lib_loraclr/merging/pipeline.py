"""The merge: check everything, watch the model, solve, write all files or none."""

from __future__ import annotations

from collections.abc import Mapping

from lib_loraclr.capture import PassLimits
from lib_loraclr.core.merge import MergedLayer
from lib_loraclr.formats import FileWarning
from lib_loraclr.formats.output import check_job_output, check_report_folder, name_warnings
from lib_loraclr.merging.compare import build_report
from lib_loraclr.merging.config import Plan, plan_of
from lib_loraclr.merging.context import prepare
from lib_loraclr.merging.distillation import learn
from lib_loraclr.merging.options import MergeOptions
from lib_loraclr.merging.outcome import MergeOutcome
from lib_loraclr.merging.solve import solve
from lib_loraclr.merging.write import deliver
from lib_loraclr.model import Progress
from lib_loraclr.opening import HostOpener
from lib_loraclr.timing import Stopwatch


def merge(options: MergeOptions, *, open_host: HostOpener, progress: Progress) -> MergeOutcome:
    """Merge the chosen LoRAs into `options.out`.

    Everything that can be wrong with the input is found before the model runs (InputError). `progress` may raise
    `Cancelled` at any step; then, and after any failure, no file is left behind and earlier files are as they were.
    """
    watch = Stopwatch()
    plan = plan_of(options)
    files = [choice.file for choice in options.lora]
    check_job_output(options.out, ".safetensors", overwrite=options.overwrite, inputs=files)
    if options.report is not None:
        check_report_folder(options.report)
    task = prepare(plan, open_host, progress, watch)
    learned = learn(plan, task, progress, watch)
    with watch("solve"):
        merged = solve(
            task.problems, plan.method.name, plan.method_options, plan=plan, progress=progress, rank=plan.rank,
            correction=learned.correction,
        )  # fmt: skip
    warnings = [*name_warnings(options.out, files), *task.warnings, *_layer_warnings(merged, plan)]
    warnings += [*_memory_warnings(task.statistics.limits, merged), *learned.warnings]
    with watch("report"):
        measured = learned.measure(task, merged)
    report = None
    if options.report is not None:
        with watch("report"):
            report = build_report(plan, task, merged, learned, measured, progress)
    return deliver(plan, task, merged, measured, report, warnings, progress, watch)


def _layer_warnings(merged: Mapping[str, MergedLayer], plan: Plan) -> list[FileWarning]:
    averaged = [name for name, layer in merged.items() if layer.info.get("fallback")]
    if not averaged:
        return []
    reason = "the preset text does not watch them" if plan.options.preset == "text" else "the model did not run them"
    message = f"{len(averaged)} of {len(merged)} layers were averaged, because {reason}."
    return [FileWarning("layers-averaged", message, key=averaged[0])]


def _memory_warnings(limits: PassLimits, merged: Mapping[str, MergedLayer]) -> list[FileWarning]:
    found: list[FileWarning] = []
    if limits.lowered:
        pictures = "" if limits.pictures is None else f" and {limits.pictures} pictures"
        watched = f"the model was watched {limits.layers} layers{pictures} at a time, which took longer"
        message = f"The memory was not enough for one pass: {watched}."
        found.append(FileWarning("memory-passes", message, key="memory_budget"))
    on_cpu = sorted(name for name, layer in merged.items() if layer.info.get("on_cpu"))
    if on_cpu:
        message = f"The device's memory was not enough for {len(on_cpu)} of {len(merged)} layers; the CPU solved them."
        found.append(FileWarning("memory-cpu", message, key=on_cpu[0]))
    return found
