"""The options of the capture that a user sees, described like a method's, and the plan of a merge made of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from lib_loraclr.capture.settings import CaptureSettings
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.methods import complete_options, get_method
from lib_loraclr.core.methods.base import LayerProblem, LayerSolution, MergeMethod, Option
from lib_loraclr.core.rank import RankPolicy
from lib_loraclr.distill import DistillSettings
from lib_loraclr.merging.options import MergeOptions
from lib_loraclr.opening import resolve_device

_DEFAULT, _LEARNING = CaptureSettings(), DistillSettings()

JOB_OPTIONS: tuple[Option, ...] = (
    Option("sampling_steps", _DEFAULT.steps, "Denoising steps per captured picture; fewer is faster.", 1, 1000),
    Option("size", "native", "Captured pictures in pixels, WIDTHxHEIGHT; smaller is faster, far from native is wrong."),
    Option("prompts", _DEFAULT.prompts, "Pictures per concept and round; more is slower and more general.", 1, 1000),
    Option("neutral_prompts", _DEFAULT.neutral_prompts, "Pictures that the merge must leave as they are.", 0, 1000),
    Option("held_out_prompts", _DEFAULT.held_out_prompts, "Pictures per concept for the fidelity report.", 0, 1000),
    Option("padding_weight", _DEFAULT.padding_weight, "Weight of a padding token beside a word's.", 0.0, 1.0),
    Option(
        "memory_budget", _DEFAULT.memory_budget_mib, "MiB of statistics held at a time; less samples more often.", 1
    ),
    Option("distill", 100, "Preset best: steps a LoRA in which the merge learns what each one predicts.", 0, 10000),
    Option("text_steps", _LEARNING.text_steps, "Preset best: in more steps the text encoder learns slower.", 0, 100000),
)


class _Capture(MergeMethod):
    """Not a method: gives the capture's options the methods' validation."""

    name = "capture"
    summary = "How the model is watched."
    reference = ""
    needs_statistics = True
    options = JOB_OPTIONS

    def solve(self, problem: LayerProblem, options: Mapping[str, Any], *, seed: int = 0) -> LayerSolution:
        """Nothing to solve."""
        raise NotImplementedError


@dataclass(frozen=True)
class Plan:
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


def plan_of(options: MergeOptions) -> Plan:
    """Raise InputError for anything in the options that cannot work, before a file is read."""
    method = get_method(options.method)
    if options.preset == "instant" and method.needs_statistics:
        message = f"The preset instant runs no model, which {method.name} needs; choose another preset or method."
        raise InputError("bad-option", message, key="preset")
    own = {option.name for option in method.options}
    capture_names = {option.name for option in JOB_OPTIONS}
    method_given = {name: value for name, value in options.option.items() if name in own or name not in capture_names}
    capture_given = {name: value for name, value in options.option.items() if name not in method_given}
    complete = complete_options(method, method_given)
    capture = complete_options(_Capture(), capture_given)
    settings = CaptureSettings(
        preset="text" if options.preset == "text" else "full",
        steps=capture["sampling_steps"],
        size=_size(capture["size"]),
        seed=options.seed,
        prompts=capture["prompts"],
        neutral_prompts=capture["neutral_prompts"],
        held_out_prompts=capture["held_out_prompts"],
        padding_weight=capture["padding_weight"],
        memory_budget_mib=int(capture["memory_budget"]),
    )
    options = replace(options, option={**complete, **capture} if method.needs_statistics else complete)
    learns = options.preset == "best" and method.needs_statistics
    learning = int(capture["distill"]) * len(options.lora) if learns else 0
    distillation = DistillSettings(steps=learning, text_steps=capture["text_steps"])
    return Plan(
        options,
        method,
        complete,
        settings,
        distillation,
        RankPolicy.parse(options.rank),
        resolve_device(options.device),
    )


def _size(text: str) -> tuple[int, int] | None:
    if text == "native":
        return None
    width, _, height = text.lower().partition("x")
    if not width.isdecimal() or not height.isdecimal() or int(width) % 8 or int(height) % 8:
        raise InputError("bad-option", f"'{text}' is not a size such as 512x768 in multiples of 8.", key="size")
    return int(width), int(height)
