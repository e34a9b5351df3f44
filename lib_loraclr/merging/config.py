"""The options of the capture that a user sees, described like a method's, and the configuration of a merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from lib_loraclr.capture.settings import CaptureSettings
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.methods import complete_options, get_method
from lib_loraclr.core.methods.base import MergeMethod
from lib_loraclr.core.rank import RankPolicy
from lib_loraclr.distill import DistillSettings
from lib_loraclr.merging.options import MergeOptions
from lib_loraclr.model import resolve_device
from lib_loraclr.options import Field, as_value, by_name, complete, fields_of, new_names

# Options of the watching and the learning that a user sees, beside those of the method.
JOB_OPTIONS: tuple[Field, ...] = (
    *(field for field in fields_of(CaptureSettings).values() if field.group),
    Field(
        "distill_steps_per_lora",
        100,
        "Preset distilled: steps a LoRA in which the merge learns what each one predicts.",
        0,
        10000,
        aliases=("distill",),
        title="Distill steps per LoRA",
    ),
    *(field for field in fields_of(DistillSettings).values() if field.group),
)


@dataclass(frozen=True)
class MergeConfig:
    """Validated, typed options: what a merge will do. `options.option` is complete: recipes outlive defaults."""

    options: MergeOptions
    method: MergeMethod
    method_options: Mapping[str, Any]
    capture: CaptureSettings
    distill: DistillSettings
    rank: RankPolicy
    device: torch.device

    @property
    def samples(self) -> bool:
        """Whether the model has to run."""
        return self.method.needs_statistics

    @property
    def rounds(self) -> int:
        """Refinement rounds."""
        return int(self.method_options.get("rounds", 0)) if self.samples else 0

    @property
    def student_options(self) -> dict[str, Any]:
        """Options of the gradient fusion whose result runs in the refinement rounds and begins a distillation.

        It takes only what decides the fit, so that a new margin, rank or file type finds its statistics in the cache.
        """
        fusion = get_method("gradient-fusion")
        names = {option.name for option in fusion.options}
        shared = {name: value for name, value in self.method_options.items() if name in names}
        return complete_options(fusion, shared | {"rounds": 0})


def config_of(options: MergeOptions) -> MergeConfig:
    """Raise InputError for anything in the options that cannot work, before a file is read."""
    method = get_method(options.method)
    if options.preset == "instant" and method.needs_statistics:
        message = f"The preset instant runs no model, which {method.name} needs; choose another preset or method."
        raise InputError("bad-option", message, key="preset")
    values = new_names(by_name([*method.options, *JOB_OPTIONS]), options.option)
    for_job = values.keys() & by_name(JOB_OPTIONS).keys()
    complete_method = complete_options(method, {name: value for name, value in values.items() if name not in for_job})
    job = complete(JOB_OPTIONS, {name: values[name] for name in for_job})
    capture = CaptureSettings(
        preset="text" if options.preset == "text" else "full",
        seed=options.seed,
        **_attributes(CaptureSettings, job),
    )
    learns = options.preset == "distilled" and method.needs_statistics
    steps = int(job["distill_steps_per_lora"]) * len(options.lora) if learns else 0
    distillation = DistillSettings(total_steps=steps, **_attributes(DistillSettings, job))
    recorded = {field.name: as_value(field, job[field.name]) for field in JOB_OPTIONS}
    return MergeConfig(
        replace(options, option={**complete_method, **(recorded if method.needs_statistics else {})}),
        method,
        complete_method,
        capture,
        distillation,
        RankPolicy.parse(options.rank),
        resolve_device(options.device),
    )


def _attributes(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of settings from the values of their options."""
    return {attribute: values[field.name] for attribute, field in fields_of(kind).items() if field.group}
