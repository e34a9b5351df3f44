"""What a merge costs, phase by phase: calls of the model, time, memory, disk and the size of the file.

The counts are those that capture and distillation announce (`lib_loraclr.cost`). Estimate, progress, time left and the
documentation's table speak from here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lib_loraclr.capture.concept import Concept, class_word_in, guess_kind
from lib_loraclr.capture.gather import KEYS_AND_VALUES, needs_only_text
from lib_loraclr.capture.run import planned_runs, run_count
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.moments import moment_dtype
from lib_loraclr.cost import PROBE, TEXT_PROBE, Count, groups
from lib_loraclr.distill.data import dataset_count
from lib_loraclr.distill.evaluate import evaluation_count, evaluation_rows
from lib_loraclr.distill.train import learning_count
from lib_loraclr.formats import LoraFile, read_lora
from lib_loraclr.merging.config import MergeConfig
from lib_loraclr.merging.options import LoraChoice
from lib_loraclr.merging.report.compare import simpler_methods
from lib_loraclr.model import ModelInfo, Phase

LAYER_OVERHEAD = 420  # bytes of header and alpha a layer, as in core.rank
# Seconds of one forward pass of one picture of 512 x 512 before any was measured, by device and family.
FIRST_GUESS = {
    ("cuda", "sd1"): 0.03, ("cuda", "sd2"): 0.03, ("cuda", "sdxl"): 0.06,
    ("cpu", "sd1"): 2.5, ("cpu", "sd2"): 2.5, ("cpu", "sdxl"): 6.0,
}  # fmt: skip
SOLVE_FLOPS = {"cuda": 5e12, "cpu": 3e10}  # a second, modestly
FIXED = {Phase.READ: 0.5, Phase.LOAD: 3.0, Phase.WATCH: 0.5, Phase.WRITE: 0.5}  # seconds besides the model's calls
SHARED = re.compile(r"(attn1|self_attn)\.(?:to_[qkv]|[qkv]_proj)$")
LOW_RANK = ("lora", "locon")
PACE_FILE = "pace.json"


@dataclass(frozen=True)
class LoraLayer:
    """One layer of a file: canonical name, (out, in) of its update and the rank that the update has at most."""

    name: str
    out_features: int
    in_features: int
    rank: int


Layers = Sequence[Sequence[LoraLayer]]  # of every LoRA


def layers_of(lora: LoraFile) -> list[LoraLayer]:
    """The layers that a file changes, from its header."""
    layers: list[LoraLayer] = []
    for name, update in lora.layers.items():
        out_features, in_features = update.size
        if not out_features or not in_features:
            continue
        full = min(out_features, in_features)
        rank = update.rank or full
        if update.kind == "loha":
            rank *= rank
        elif update.kind not in LOW_RANK:
            rank = full
        layers.append(LoraLayer(name, out_features, in_features, min(rank, full)))
    return layers


def read_layers(files: Sequence[Path]) -> Layers:
    """Layers of files as far as they can be read; what is wrong with one is said by the merge."""
    layers: list[list[LoraLayer]] = []
    for file in files:
        with suppress(InputError, OSError):
            layers.append(layers_of(read_lora(file, values=False)))
    return layers


@dataclass(frozen=True)
class PhaseCost:
    """One phase of a merge in the order in which it comes; `flops` of the closed forms that it solves.

    `small`: rows of pictures so small that they take no time worth counting.
    """

    phase: Phase
    count: Count
    flops: float = 0.0
    layers: int = 0
    small: int = 0


@dataclass(frozen=True)
class MergeCost:
    """What a merge costs that finds nothing in the cache.

    `memory_mib` is besides the model and a step of the distillation; `disk_mib` is what the cache grows by.
    """

    config: MergeConfig
    phases: Sequence[PhaseCost]
    memory_mib: float
    disk_mib: float
    file_bytes: float
    at_most: bool
    text_runs: int = 0

    @classmethod
    def of(cls, config: MergeConfig, layers: Layers = (), model: ModelInfo | None = None) -> MergeCost:
        """From the LoRAs' layers; without them every kind of layer is expected, and one pass."""
        return _Counter(config, layers, model).cost()

    def count(self, *phases: Phase) -> Count:
        """All that is asked of the model in these phases, in the whole merge without any."""
        return sum((one.count for one in self.phases if not phases or one.phase in phases), Count())

    def sampling_steps(self) -> int:
        """Progress steps of watching that are steps of a sampler, not texts."""
        return self.count(Phase.WATCH).steps - self.text_runs

    def rows(self) -> dict[str, int]:
        """Forward passes of one picture by what they are for; a backward pass is two."""
        parts = {"watch": Phase.WATCH, "draw": Phase.DRAW, "learn": Phase.LEARN}
        rows = {name: self.count(phase).work for name, phase in parts.items()}
        total = self.count().work
        return {**rows, "evaluate": total - sum(rows.values()), "total": total}

    def as_json(self) -> dict[str, Any]:
        """Rows by what they are for, and sizes."""
        memory = round(self.memory_mib / 1024, 3)
        return {
            "rows": self.rows(), "disk_gib": round(self.disk_mib / 1024, 3), "memory_gib": memory,
            "file_mib": round(self.file_bytes / 2**20, 1),
        }  # fmt: skip

    def seconds(self, pace: Pace, model: ModelInfo | None, *, cached: bool = False) -> list[tuple[Phase, float]]:
        """(phase, seconds) in order; with `cached` what watches and learns is found."""
        device = model.device.type if model else "cpu"
        kept = [one for one in self.phases if not (cached and one.phase.is_cached)]
        expected: list[tuple[Phase, float]] = []
        for one in kept:
            row = pace.of(model, self.config, one.phase)[0] if one.count.rows else 0.0
            solving = one.flops / SOLVE_FLOPS.get(device, 3e10) + 0.01 * one.layers
            expected.append((one.phase, (one.count.work - one.small) * row + solving + FIXED.get(one.phase, 0.1)))
        return expected


class _Counter:
    """Counts one merge."""

    def __init__(self, config: MergeConfig, layers: Layers, model: ModelInfo | None) -> None:
        self.config, self.layers, self.model = config, layers, model
        self.concepts = [_concept(choice) for choice in config.options.lora if choice.weight or choice.text_weight]
        self.bytes = moment_dtype(model.device if model else "cpu").itemsize
        self.inputs = distinct_inputs(layers)
        self.ranks = merged_ranks(layers)
        self.text_runs = 0

    def cost(self) -> MergeCost:
        size, at_most = file_bytes(self.config, self.layers)
        phases = self.phases()
        return MergeCost(self.config, phases, self.memory_mib(), self.disk_mib(), size, at_most, self.text_runs)

    def phases(self) -> list[PhaseCost]:
        config = self.config
        read, write = PhaseCost(Phase.READ, Count(1)), PhaseCost(Phase.WRITE, Count(2))
        if not config.samples:
            return [read, self.solving(flops=0.0), write]
        probe = PROBE if config.capture.preset == "full" else TEXT_PROBE
        small = probe.rows
        phases = [read, PhaseCost(Phase.LOAD, Count(1) + probe, small=small), self.watching(0)]
        for number in range(1, config.rounds + 1):
            phases += [replace(self.solving(probe), small=small), self.watching(number)]
        scoring = Count()
        if config.distill.total_steps:
            number, capture, distill = len(self.concepts), config.capture, config.distill
            rows = evaluation_rows(number, distill)
            scoring = Count(rows=rows, texts=rows)
            phases += [self.solving(), PhaseCost(Phase.EVALUATE, evaluation_count(number, distill, capture))]
            phases += [PhaseCost(Phase.DRAW, dataset_count(number, distill, capture))]
            phases += [PhaseCost(Phase.LEARN, learning_count(distill))]
        phases.append(self.solving(scoring))
        if config.options.report is not None:
            compared = simpler_methods(config, distilled=bool(config.distill.total_steps))
            phases += [self.solving(scoring, Phase.COMPARE) for _ in compared]
        return [*phases, write]

    def watching(self, number: int) -> PhaseCost:
        runs = planned_runs(self.concepts, self.config.capture, number)
        text, pictures = self.passes()
        total = Count()
        for run in (run for several in runs.values() for group in several for run in group):
            total += run_count(run, self.config.capture) * (pictures if run.sampled else text)
            self.text_runs += 0 if run.sampled else text
        return PhaseCost(Phase.WATCH, total)

    def passes(self) -> tuple[int, int]:
        """How often runs of text and runs of pictures are repeated, so that the moments keep to their budget."""
        if not self.layers:
            return 1, 1
        settings, budget = self.config.capture, self.config.capture.memory_budget_mib * 2**20
        found: list[int] = []
        for only_text in (True, False):
            widths = [
                width
                for name, width in sorted(self.inputs.items())
                if needs_only_text(name) == only_text and width <= settings.max_features
            ]
            found.append(len(groups([self.bytes * width**2 for width in widths], budget)))
        return found[0], found[1]

    def solving(self, count: Count | None = None, phase: Phase = Phase.SOLVE, flops: float | None = None) -> PhaseCost:
        """One closed form a layer: factors of the Gram matrix and products with it for every LoRA."""
        if flops is None:
            flops = sum(width**3 for width in self.inputs.values()) * (len(self.concepts) + 4.0)
        return PhaseCost(phase, Count(len(self.ranks)) + (count or Count()), flops, len(self.ranks))

    def memory_mib(self) -> float:
        factors = sum(4 * one.rank * (one.out_features + one.in_features) for items in self.layers for one in items)
        memory = factors / 2**20
        if self.config.samples:
            widest = max(self.inputs.values(), default=0)
            memory += min(self.moments_mib(), self.config.capture.memory_budget_mib)
            memory += (len(self.layers) + 3) * self.bytes * widest**2 / 2**20
        return memory

    def moments_mib(self) -> float:
        return sum(self.bytes * width**2 for width in self.inputs.values()) / 2**20

    def disk_mib(self) -> float:
        """Moments of every concept and of the neutral prompts, in every round, and the held-out ones."""
        number = len(self.concepts)
        return self.moments_mib() * ((number + 1) * (self.config.rounds + 1) + number) if self.config.samples else 0.0


def _concept(choice: LoraChoice) -> Concept:
    trigger = choice.trigger or ""
    word = choice.class_word if choice.class_word is not None else class_word_in(trigger)
    kind = choice.kind or guess_kind(trigger, word)
    return Concept(choice.file.stem, trigger, word, {}, kind, choice.prompts)


def distinct_inputs(layers: Layers) -> dict[str, int]:
    """Width by input: q, k and v of one attention read the same, and so do keys and values of the text."""
    inputs: dict[str, int] = {}
    seen: set[str] = set()
    for one in (one for items in layers for one in items):
        key = "context" if one.name.endswith(KEYS_AND_VALUES) else SHARED.sub(r"\1", one.name)
        if key not in seen:
            seen.add(key)
            inputs[one.name] = one.in_features
    return inputs


def merged_ranks(layers: Layers) -> Mapping[str, tuple[int, int]]:
    """Layer -> (exact rank of the merge, out + in)."""
    ranks: dict[str, tuple[int, int]] = {}
    for one in (one for items in layers for one in items):
        rank, _ = ranks.get(one.name, (0, 0))
        full = min(one.out_features, one.in_features)
        ranks[one.name] = min(rank + one.rank, full), one.out_features + one.in_features
    return ranks


def file_bytes(config: MergeConfig, layers: Layers) -> tuple[float, bool]:
    """(bytes of the merged file, whether it is only an upper bound)."""
    value_bytes = 4 if config.options.dtype == "fp32" else 2
    cap = int(config.rank.value) if config.rank.kind == "fixed" else 10**9
    ranks = merged_ranks(layers).values()
    total = sum(min(rank, cap) * sides * value_bytes + LAYER_OVERHEAD for rank, sides in ranks)
    if config.rank.kind == "size":
        return min(total, config.rank.value * 1e6), True
    return total, config.rank.kind == "energy"


@dataclass
class Pace:
    """How fast this machine was: seconds of a forward pass by model, width, device and phase; and which merges it has
    seen, whose statistics the cache holds. Kept in a small file of the cache's folder, so that programs share it.
    """

    measured: dict[str, float] = field(default_factory=dict[str, float])
    seen: set[str] = field(default_factory=set[str])

    def read(self, folder: Path | None) -> None:
        """Add what any program has measured with this cache; a damaged file is as good as none."""
        with suppress(OSError, ValueError, AttributeError, TypeError):
            data = json.loads((folder / PACE_FILE).read_text(encoding="utf-8")) if folder else {}
            self.measured |= {str(name): float(value) for name, value in data.items() if float(value) > 0}

    def write(self, folder: Path | None) -> None:
        """Keep it; a cache that cannot be written is no reason to fail."""
        if folder is not None and folder.is_dir() and self.measured:
            with suppress(OSError):
                (folder / PACE_FILE).write_text(json.dumps(self.measured, indent=1), encoding="utf-8")

    def learn(self, model: ModelInfo, config: MergeConfig, phase: Phase, work: int, seconds: float) -> None:
        """From a phase that was run to its end."""
        if work >= 1 and seconds > 0:
            self.measured[_key(model, config) + phase.name] = seconds / work

    def learn_all(self, cost: MergeCost, model: ModelInfo | None, phases: Sequence[tuple[Phase, int, float]]) -> None:
        """From a finished merge's (phase, steps, seconds); a phase that was partly in the cache tells nothing."""
        for phase in {one.phase for one in cost.phases if one.count.work and one.phase.is_cached}:
            count, ran = cost.count(phase), [one for one in phases if one[0] is phase]
            if model is not None and sum(steps for _, steps, _ in ran) == count.steps:
                self.learn(model, cost.config, phase, count.work, sum(seconds for *_, seconds in ran))

    def of(self, model: ModelInfo | None, config: MergeConfig, phase: Phase) -> tuple[float, bool]:
        """(seconds of a forward pass, whether measured): of this phase, else of any other, else a guess."""
        if model is None:
            return 0.2, False
        key = _key(model, config)
        known = [value for name, value in self.measured.items() if name.startswith(key)]
        if known:
            return self.measured.get(key + phase.name, sum(known) / len(known)), True
        width, height = config.capture.size or (model.native_size, model.native_size)
        guess = FIRST_GUESS.get((model.device.type, model.family), 0.2)
        return guess * max(width * height / 512**2, 0.02), False


def _key(model: ModelInfo, config: MergeConfig) -> str:
    width = (config.capture.size or (model.native_size,))[0]
    return f"{model.name} {width} {model.device} "


def signature(config: MergeConfig, model: ModelInfo | None) -> str:
    """What decides which statistics a merge needs."""
    loras = [(str(c.file), c.weight, c.text_weight, c.trigger, c.class_word, c.kind, c.prompts)
             for c in config.options.lora]  # fmt: skip
    name = (model.name, model.family, str(model.device)) if model else ()
    return repr((name, loras, config.capture, config.distill, config.rounds, sorted(config.student_options.items())))
