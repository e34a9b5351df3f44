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
from lib_loraclr.merging.context import MergeContext
from lib_loraclr.merging.options import recipe_for_file
from lib_loraclr.merging.outcome import ConceptOutcome, MergeOutcome, finite
from lib_loraclr.merging.report import MergeReport, render_html
from lib_loraclr.model import Phase
from lib_loraclr.timing import peak_device_memory_mib, peak_memory_mib


def write_outputs(
    context: MergeContext,
    layers: Mapping[str, MergedLayer],
    measured: Sequence[ConceptFidelity],
    report: MergeReport | None,
    warnings: list[FileWarning],
) -> MergeOutcome:
    """The LoRA, its sidecar and the report, with what was `measured` of each acting concept.

    On any exception none of them stays.
    """
    config, options, out = context.config, context.config.options, context.config.options.out
    outcomes = _outcomes(context, measured)
    vectors, notes = _vectors(context)
    warnings = [*warnings, *notes]
    loras, recipe = [item.lora for item in context.inputs], recipe_for_file(options, _file_inputs(context, outcomes))
    metadata = merged_metadata(out.stem, context.family, loras, recipe)
    reports = [options.report / f"{out.stem}.report.{kind}" for kind in ("json", "html")] if options.report else []
    progress, timing = context.progress, context.timing
    progress.phase(Phase.WRITE, 2)
    with all_or_nothing(out, sidecar_path(out), *reports, folder=options.report):
        progress.step()
        with timing("write"):
            written = write_lora(
                out,
                {name: layer.delta for name, layer in layers.items()},
                context.shapes,
                family=context.family,
                dtype=options.dtype,
                metadata=metadata,
                vectors=vectors or None,
                model_layers=list(context.host.layers()) if context.host is not None else None,
                module_keys=_module_keys(context),
                overwrite=options.overwrite,
            )
            triggers = [item.concept.trigger for item in context.inputs]
            if write_sidecar(out, triggers, family=context.family) is None:
                warnings += _sidecar_warning(out, triggers)
        seconds = {"capture": 0.0, "solve": 0.0, **timing.seconds, "total": timing.total}
        memory = peak_memory_mib()
        if report is not None:
            _write_report(report, reports, seconds, memory, warnings)
        progress.step()
    device = peak_device_memory_mib(config.device)
    details = {"device": str(config.device), "peak_device_memory_mib": finite(device), "tensors": written.tensors}
    return MergeOutcome(
        out, config.method.name, written.sha256, written.bytes, seconds, memory, outcomes, warnings, reports, details
    )


def _module_keys(context: MergeContext) -> list[str]:
    """The inputs' names of their layers: what a UNet that is not the usual one is known by without a model."""
    keys = (key for item in context.inputs for update in item.lora.layers.values() for key in update.keys)
    return [split[0] for split in map(split_tensor_key, keys) if split is not None]


def _sidecar_warning(out: Path, triggers: Sequence[str]) -> list[FileWarning]:
    """An existing sidecar is the user's own; only one that names other triggers needs a word."""
    text = str(read_sidecar(out).get("activation text", ""))
    if all(trigger in text for trigger in triggers):
        return []
    return [FileWarning("sidecar-kept", "The sidecar was there before and stays as it is.", str(sidecar_path(out)))]


def _outcomes(context: MergeContext, measured: Sequence[ConceptFidelity]) -> list[ConceptOutcome]:
    names = [concept.name for concept in context.concepts]
    known = {names[item.concept]: ConceptOutcome.of(item, names) for item in measured}
    return [known.get(item.concept.name, ConceptOutcome(item.concept.name)) for item in context.inputs]


def _file_inputs(context: MergeContext, outcomes: Sequence[ConceptOutcome]) -> list[dict[str, Any]]:
    """One entry per input for the file's metadata: what is needed to repeat the merge, and how well it went."""
    entries: list[dict[str, Any]] = []
    for item, outcome in zip(context.inputs, outcomes, strict=True):
        fidelity_numbers = {
            name: value for name, value in outcome.as_dict().items() if name != "name" and value is not None
        }
        entries.append(
            {
                "file": item.choice.file.name,
                "sha256": item.lora.sha256,
                "weight": item.choice.weight,
                "te_weight": item.choice.text_weight,
                "trigger": item.concept.trigger,
                "class_word": item.concept.class_word,
                "kind": item.concept.kind,
                **({"prompts": list(item.choice.prompts)} if item.choice.prompts else {}),
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


def _vectors(context: MergeContext) -> tuple[dict[str, Tensor], list[FileWarning]]:
    """Biases and norms, which have no features to fit: summed by `sum`, averaged by every other method."""
    total: dict[str, Tensor] = {}
    for item in context.acting:
        for name, vector in item.lora.vectors.items():
            weight = item.choice.text_weight if name.startswith("text_encoder") else item.choice.weight
            value = vector.to(torch.float32) * weight
            total[name] = total[name] + value if name in total else value
    if not total:
        return {}, []
    summed = context.config.method.name == "sum"
    how = "added" if summed else "averaged"
    note = FileWarning("vectors", f"{len(total)} biases and norms were {how}; no merge method is defined for them.")
    return (total if summed else {name: value / len(context.acting) for name, value in total.items()}), [note]
