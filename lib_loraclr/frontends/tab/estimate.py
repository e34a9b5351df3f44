"""What a merge will cost, before it starts: denoising steps and time, memory, size of the file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lib_loraclr.app.cost import Passes
from lib_loraclr.capture.settings import CaptureSettings
from lib_loraclr.core.moments import moment_dtype
from lib_loraclr.distill.data import sampled_steps
from lib_loraclr.distill.evaluate import exam_steps
from lib_loraclr.frontends.tab.facts import LoraLayer
from lib_loraclr.merging.config import MergeConfig
from lib_loraclr.model import ModelInfo

LAYER_OVERHEAD = 420  # bytes of header and alpha a layer, as in core.rank
# Seconds of one denoising step of one picture of 512 x 512 before any was measured, by device and family.
FIRST_GUESS = {
    ("cuda", "sd1"): 0.03, ("cuda", "sd2"): 0.03, ("cuda", "sdxl"): 0.06,
    ("cpu", "sd1"): 2.5, ("cpu", "sd2"): 2.5, ("cpu", "sdxl"): 6.0,
}  # fmt: skip
SOLVE_FLOPS = {"cuda": 5e12, "cpu": 3e10}  # float32 a second, modestly
SHARED = re.compile(r"(attn1\.to_[qkv]|attn2\.to_[kv]|self_attn\.[qkv]_proj)$")


@dataclass
class Pace:
    """How fast this machine was: seconds of a picture's denoising step by (model, width, device)."""

    seconds: dict[tuple[str, int, str], float] = field(default_factory=dict[tuple[str, int, str], float])

    def learn(self, model: ModelInfo, plan: MergeConfig, picture_steps: float, seconds: float) -> None:
        """From a capture that had to run for all of its steps."""
        if picture_steps >= 1 and seconds > 0:
            self.seconds[self._key(model, plan)] = seconds / picture_steps

    def of(self, model: ModelInfo, plan: MergeConfig) -> tuple[float, bool]:
        """(seconds a step, whether measured)."""
        key = self._key(model, plan)
        if key in self.seconds:
            return self.seconds[key], True
        guess = FIRST_GUESS.get((model.device.type, model.family), 0.2)
        width, height = plan.capture.size or (model.native_size, model.native_size)
        return guess * max(width * height / 512**2, 0.02), False

    @staticmethod
    def _key(model: ModelInfo, plan: MergeConfig) -> tuple[str, int, str]:
        width = (plan.capture.size or (model.native_size,))[0]
        return model.name, width, str(model.device)


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
    plan: MergeConfig,
    loras: Sequence[Sequence[LoraLayer]],
    model: ModelInfo | None,
    pace: Pace,
    *,
    cached: bool = False,
) -> Estimate:
    """For the chosen LoRAs' layers; `cached` when a merge with these inputs and capture settings was done before."""
    count = len(loras)
    passes = Passes.of(plan, count)
    pictures = 0 if cached else passes.watched(plan.rounds)
    steps = 0 if cached else denoising_steps(plan.capture, count, plan.rounds) if plan.samples else 0
    widths = distinct_inputs(loras)
    value_bytes = moment_dtype(model.device if model else "cpu").itemsize
    grams = sum(value_bytes * width**2 for width in widths.values()) / 2**20
    factors = sum(4 * item.rank * (item.out_features + item.in_features) for items in loras for item in items) / 2**20
    memory = factors
    if plan.samples:
        widest = max(widths.values(), default=0)
        memory += min(grams, plan.capture.memory_budget_mib) + (count + 3) * value_bytes * widest**2 / 2**20
        repeated = max(1.0, grams / plan.capture.memory_budget_mib)
        pictures, steps = round(pictures * repeated), round(steps * repeated)
    if plan.distill.total_steps and not cached:
        pictures += passes.distilled
        steps += exam_steps(count, plan.distill, plan.capture)
        steps += sampled_steps(count, plan.distill, plan.capture) + plan.distill.total_steps
    seconds: float | None = _solve_seconds(plan, loras, widths, model)
    measured = True
    if pictures:
        each, measured = pace.of(model, plan) if model else (0.0, False)
        seconds = None if model is None else (seconds or 0.0) + each * pictures
    size, at_most = file_bytes(plan, loras)
    return Estimate(
        steps, seconds, measured, memory, size, at_most, cached, bool(plan.distill.total_steps) and not cached
    )


def denoising_steps(capture: CaptureSettings, concepts: int, rounds: int) -> int:
    """Calls of the sampler's step: pictures run side by side in batches."""
    if capture.preset != "full":
        return 0

    def batches(pictures: int) -> int:
        return -(-pictures // capture.batch)

    a_round = concepts * batches(capture.prompts) + batches(capture.neutral_prompts)
    return capture.steps * (a_round * (rounds + 1) + concepts * batches(capture.held_out_prompts))


def distinct_inputs(loras: Sequence[Sequence[LoraLayer]]) -> dict[str, int]:
    """Width by input: q, k and v of one attention read the same features."""
    return {
        SHARED.sub(lambda found: found.group(1).split(".")[0], item.name): item.in_features
        for items in loras
        for item in items
    }


def merged_ranks(loras: Sequence[Sequence[LoraLayer]]) -> Mapping[str, tuple[int, int]]:
    """Layer -> (exact rank of the merge, out + in)."""
    found: dict[str, tuple[int, int]] = {}
    for items in loras:
        for item in items:
            rank, _ = found.get(item.name, (0, 0))
            full = min(item.out_features, item.in_features)
            found[item.name] = min(rank + item.rank, full), item.out_features + item.in_features
    return found


def file_bytes(plan: MergeConfig, loras: Sequence[Sequence[LoraLayer]]) -> tuple[float, bool]:
    """(bytes, whether it is only an upper bound)."""
    value_bytes = 4 if plan.options.dtype == "fp32" else 2
    ranks = merged_ranks(loras)
    cap = int(plan.rank.value) if plan.rank.kind == "fixed" else 10**9
    total = sum(min(rank, cap) * sides * value_bytes + LAYER_OVERHEAD for rank, sides in ranks.values())
    if plan.rank.kind == "size":
        return min(total, plan.rank.value * 1e6), True
    return total, plan.rank.kind == "energy"


def _solve_seconds(
    plan: MergeConfig, loras: Sequence[Sequence[LoraLayer]], widths: Mapping[str, int], model: ModelInfo | None
) -> float:
    layers = merged_ranks(loras)
    device = model.device.type if model else "cpu"
    if not plan.samples:
        return 0.5 + 0.002 * len(layers)
    solves = plan.rounds + 1 + (1 if plan.distill.total_steps else 0) + (3 if plan.options.report else 0)
    flops = sum(width**3 for width in widths.values()) * (len(loras) + 4)
    return 1.0 + solves * (flops / SOLVE_FLOPS.get(device, 3e10) + 0.01 * len(layers))
