"""The merge, from its options to its files: `merge` has the stages in their order."""

from __future__ import annotations

from collections.abc import Mapping

from lib_loraclr.capture import PassLimits
from lib_loraclr.core.merge import MergedLayer
from lib_loraclr.formats import FileWarning
from lib_loraclr.formats.output import check_job_output, check_report_folder, name_warnings
from lib_loraclr.merging.config import MergeConfig, config_of
from lib_loraclr.merging.context import MergeContext, open_context
from lib_loraclr.merging.distillation import Distillation, distil
from lib_loraclr.merging.options import MergeOptions
from lib_loraclr.merging.outcome import MergeOutcome
from lib_loraclr.merging.report.compare import build_report
from lib_loraclr.merging.solve import CapturedInputs, capture_inputs, solve
from lib_loraclr.merging.write import write_outputs
from lib_loraclr.model import HostOpener, Progress


def merge(options: MergeOptions, *, open_host: HostOpener, progress: Progress) -> MergeOutcome:
    """Merge the chosen LoRAs into `options.out`.

    Everything that can be wrong with the input is found before the model runs (InputError). `progress` may raise
    `Cancelled` at any step; then, and after any failure, no file is left behind and earlier files are as they were.
    """
    config = config_of(options)
    check_outputs(options)
    with open_context(config, open_host, progress) as context:
        captured = capture_inputs(context)
    distillation = distil(context, captured)
    layers = solve_layers(context, captured, distillation)
    with context.timing("report"):
        fidelity = distillation.measure(context, layers)
        report = build_report(context, captured, distillation, layers, fidelity) if options.report else None
    return write_outputs(context, layers, fidelity, report, merge_warnings(context, distillation, layers))


def check_outputs(options: MergeOptions) -> None:
    """Raise InputError where the file or the report could not be written."""
    check_job_output(
        options.out, ".safetensors", overwrite=options.overwrite, inputs=[choice.file for choice in options.lora]
    )
    if options.report is not None:
        check_report_folder(options.report)


def solve_layers(
    context: MergeContext, captured: CapturedInputs, distillation: Distillation
) -> dict[str, MergedLayer]:  # fmt: skip
    """The layers of the file: the method's solution with what was distilled, at the rank of the file."""
    config = context.config
    with context.timing("solve"):
        return solve(
            context, captured.all, config.method.name, config.method_options, rank=config.rank,
            correction=distillation.correction,
        )  # fmt: skip


def merge_warnings(
    context: MergeContext, distillation: Distillation, layers: Mapping[str, MergedLayer]
) -> list[FileWarning]:
    """All that the user should know of this merge."""
    options = context.config.options
    return [
        *name_warnings(options.out, [choice.file for choice in options.lora]),
        *context.warnings,
        *_layer_warnings(layers, context.config),
        *_memory_warnings(context.limits, layers),
        *distillation.warnings,
    ]


def _layer_warnings(layers: Mapping[str, MergedLayer], config: MergeConfig) -> list[FileWarning]:
    averaged = [name for name, layer in layers.items() if layer.info.get("fallback")]
    if not averaged:
        return []
    reason = "the preset text does not watch them" if config.options.preset == "text" else "the model did not run them"
    message = f"{len(averaged)} of {len(layers)} layers were averaged, because {reason}."
    return [FileWarning("layers-averaged", message, key=averaged[0])]


def _memory_warnings(limits: PassLimits, layers: Mapping[str, MergedLayer]) -> list[FileWarning]:
    warnings: list[FileWarning] = []
    if limits.lowered:
        pictures = "" if limits.pictures is None else f" and {limits.pictures} pictures"
        watched = f"the model was watched {limits.layers} layers{pictures} at a time, which took longer"
        message = f"The memory was not enough for one pass: {watched}."
        warnings.append(FileWarning("memory-passes", message, key="memory_budget"))
    on_cpu = sorted(name for name, layer in layers.items() if layer.info.get("on_cpu"))
    if on_cpu:
        message = f"The device's memory was not enough for {len(on_cpu)} of {len(layers)} layers; the CPU solved them."
        warnings.append(FileWarning("memory-cpu", message, key=on_cpu[0]))
    return warnings
