"""What a merge will cost, before it starts: denoising steps and time, memory, size of the file."""

from __future__ import annotations

from dataclasses import dataclass

from lib_loraclr.app.cost import Layers, MergeCost, Pace
from lib_loraclr.merging.config import MergeConfig
from lib_loraclr.model import ModelInfo, Phase

MODEL_PHASES = (Phase.EVALUATE, Phase.DRAW, Phase.LEARN)


@dataclass(frozen=True)
class Estimate:
    """`seconds` None: not known without a model. `cached`: the statistics are there, the model is not watched again.

    `memory_mib` is without what a step of the distillation needs, if the merge `learns`: the model decides that.
    """

    steps: int
    seconds: float | None
    measured: bool
    memory_mib: float
    bytes: float
    at_most: bool
    cached: bool = False
    learns: bool = False


def estimate(
    config: MergeConfig, layers: Layers, model: ModelInfo | None, pace: Pace, *, cached: bool = False
) -> Estimate:
    """For the chosen files' layers; `cached` when a merge with these inputs and capture settings was done before."""
    cost = MergeCost.of(config, layers, model)
    steps = 0 if cached else cost.count(*MODEL_PHASES).steps + cost.sampling_steps()
    asked = bool(cost.count().rows)
    measured = not asked or pace.of(model, config, Phase.WATCH)[1]
    known = not asked or model is not None or cached
    seconds = sum(seconds for _, seconds in cost.seconds(pace, model, cached=cached)) if known else None
    learns = bool(config.distill.total_steps) and not cached
    return Estimate(steps, seconds, measured, cost.memory_mib, cost.file_bytes, cost.at_most, cached, learns)
