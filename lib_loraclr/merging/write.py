"""The end of a merge: LoRA file, sidecar and report appear together, or none of them does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_loraclr.core.fidelity import ConceptFidelity
from lib_loraclr.core.merge import MergedLayer
from lib_loraclr.formats import FileWarning, merged_metadata, read_sidecar, write_lora, write_sidecar
from lib_loraclr.formats.keys.tensor_keys import split_tensor_key
from lib_loraclr.formats.output import all_or_nothing, write_text
from lib_loraclr.formats.sidecar import sidecar_path
from lib_loraclr.merging.config import Plan
from lib_loraclr.merging.context import Task
from lib_loraclr.merging.outcome import ConceptOutcome, MergeOutcome, finite
from lib_loraclr.merging.recipe import recipe_for_file
from lib_loraclr.merging.report import MergeReport, render_html
from lib_loraclr.model import Phase, Progress
from lib_loraclr.timing import Stopwatch, peak_device_memory_mib, peak_memory_mib


def deliver(
    plan: Plan,
    task: Task,
    merged: Mapping[str, MergedLayer],
    measured: Sequence[ConceptFidelity],
    report: MergeReport | None,
    warnings: list[FileWarning],
    progress: Progress,
    watch: Stopwatch,
) -> MergeOutcome:
    """The LoRA, its sidecar and the report, with what was `measured` of each acting concept.

    On any exception none of them stays.
    """
    options, out = plan.options, plan.options.out
    outcomes = _outcomes(task, measured)
    vectors, notes = _vectors(task, plan)
    warnings = [*warnings, *notes]
    loras = [concept.lora for concept in task.concepts]
    metadata = merged_metadata(out.stem, task.family, loras, recipe_for_file(options, _file_inputs(task, outcomes)))
    reports = [options.report / f"{out.stem}.report.{kind}" for kind in ("json", "html")] if options.report else []
    progress.phase(Phase.WRITE, 2)
    with all_or_nothing(out, sidecar_path(out), *reports, folder=options.report):
        progress.step()
        with watch("write"):
            written = write_lora(
                out,
                {name: layer.delta for name, layer in merged.items()},
                task.shapes,
                family=task.family,
                dtype=options.dtype,
                metadata=metadata,
                vectors=vectors or None,
                model_layers=task.model_layers,
                module_keys=_module_keys(task),
                overwrite=options.overwrite,
            )
            triggers = [concept.trigger for concept in task.concepts]
            if write_sidecar(out, triggers, family=task.family) is None:
                warnings += _sidecar_warning(out, triggers)
        seconds = {"capture": 0.0, "solve": 0.0, **watch.seconds, "total": watch.total}
        memory = peak_memory_mib()
        if report is not None:
            _write_report(report, reports, seconds, memory, warnings)
        progress.step()
    device = peak_device_memory_mib(plan.device)
    details = {"device": str(plan.device), "peak_device_memory_mib": finite(device), "tensors": written.tensors}
    return MergeOutcome(
        out, plan.method.name, written.sha256, written.bytes, seconds, memory, outcomes, warnings, reports, details
    )


def _module_keys(task: Task) -> list[str]:
    """The inputs' names of their layers: what a UNet that is not the usual one is known by without a model."""
    keys = (key for concept in task.concepts for update in concept.lora.layers.values() for key in update.keys)
    return [split[0] for split in map(split_tensor_key, keys) if split is not None]


def _sidecar_warning(out: Path, triggers: Sequence[str]) -> list[FileWarning]:
    """An existing sidecar is the user's own; only one that names other triggers needs a word."""
    text = str(read_sidecar(out).get("activation text", ""))
    if all(trigger in text for trigger in triggers):
        return []
    return [FileWarning("sidecar-kept", "The sidecar was there before and stays as it is.", str(sidecar_path(out)))]


def _outcomes(task: Task, measured: Sequence[ConceptFidelity]) -> list[ConceptOutcome]:
    names = [concept.name for concept in task.acting]
    known = {names[item.concept]: ConceptOutcome.of(item, names) for item in measured}
    return [known.get(concept.name, ConceptOutcome(concept.name)) for concept in task.concepts]


def _file_inputs(task: Task, outcomes: Sequence[ConceptOutcome]) -> list[dict[str, Any]]:
    """One entry per input for the file's metadata: what is needed to repeat the merge, and how well it went."""
    entries: list[dict[str, Any]] = []
    for concept, outcome in zip(task.concepts, outcomes, strict=True):
        fidelity_numbers = {
            name: value for name, value in outcome.as_dict().items() if name != "name" and value is not None
        }
        entries.append(
            {
                "file": concept.choice.file.name,
                "sha256": concept.lora.sha256,
                "weight": concept.choice.weight,
                "te_weight": concept.choice.text_weight,
                "trigger": concept.trigger,
                "class_word": concept.class_word,
                **({"prompts": list(concept.choice.prompts)} if concept.choice.prompts else {}),
                **({"fidelity": fidelity_numbers} if fidelity_numbers else {}),
            }
        )
    return entries


def _write_report(
    report: MergeReport, paths: Sequence[Path], seconds: Mapping[str, float], memory: float, warnings: list[FileWarning]
) -> None:
    data = replace(report, seconds=seconds, peak_memory_mib=memory, warnings=warnings).as_json()
    write_text(paths[0], json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(paths[1], render_html(data))


def _vectors(task: Task, plan: Plan) -> tuple[dict[str, Tensor], list[FileWarning]]:
    """Biases and norms, which have no features to fit: summed by `sum`, averaged by every other method."""
    total: dict[str, Tensor] = {}
    for concept in task.acting:
        for name, vector in concept.lora.vectors.items():
            weight = concept.choice.text_weight if name.startswith("text_encoder") else concept.choice.weight
            value = vector.to(torch.float32) * weight
            total[name] = total[name] + value if name in total else value
    if not total:
        return {}, []
    summed = plan.method.name == "sum"
    how = "added" if summed else "averaged"
    note = FileWarning("vectors", f"{len(total)} biases and norms were {how}; no merge method is defined for them.")
    return (total if summed else {name: value / len(task.acting) for name, value in total.items()}), [note]
