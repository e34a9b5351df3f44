"""Every variant of merging that the study compares, one line each: a name, its options, and how the update is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.capture_inputs import INPUTS, merge_on
from benchmarks.labels import label
from benchmarks.published import Loraclr, by_lbfgs, merge_published
from benchmarks.testbed import Testbed
from lib_loraclr.core.deltas import Delta, stack
from lib_loraclr.core.methods import get_method
from lib_loraclr.distill import DistillSettings
from lib_loraclr.formats.weighted import host_shapes, read_files, weighted_deltas
from lib_loraclr.merging.config import JOB_OPTIONS, config_of
from lib_loraclr.merging.options import DEFAULT_METHOD, DEFAULT_PRESET, OLD_PRESETS, LoraChoice, MergeOptions
from lib_loraclr.merging.pipeline import merge
from lib_loraclr.model import Progress
from lib_loraclr.options import Field, fields_of

MODEL_FREE = ("sum", "average", "svd", "ties", "dare", "knots")
SWITCHES: dict[str, tuple[Any, Any]] = {"prior_preservation": (0.0, 0.1), "rounds": (0, 3), "balance": (0, 5)}
Updates = Mapping[str, Delta]


@dataclass(frozen=True)
class MethodVariant:
    """One line of the tables: as solved layer by layer, unless `preset` says that it was distilled.

    `main` variants are in the short study and in the figures. `rank`, `preset` and `inputs` are no options of a
    method: the rank of the file, the preset of the merge, and whose inputs the solver sees.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    main: bool = True
    rank: str = "exact"
    preset: str = "layerwise"
    inputs: str = "aggregated"

    @property
    def shown(self) -> dict[str, Any]:
        """The options as rows have them."""
        extra = {} if self.rank == "exact" else {"rank": self.rank}
        extra |= {} if self.preset == "layerwise" else {"preset": self.preset}
        return {**self.options, **extra, **({} if self.inputs == "aggregated" else {"inputs": self.inputs})}

    @property
    def label(self) -> str:
        """A short name for tables and figures."""
        return label(self.method, self.shown)

    def identity(self, testbed: Testbed) -> dict[str, Any]:
        """All that the result depends on besides the concepts: options in full, so that new defaults are new units."""
        if self.method not in {*MODEL_FREE, "gradient-fusion", "contrastive"}:
            return {"method": self.method, **self.shown}
        options = MergeOptions((LoraChoice(Path("x")),), Path("x"), method=self.method, option=dict(self.options))
        plan = config_of(replace(options, preset=self.preset))
        complete = {name: value for name, value in plan.options.option.items() if name not in LEARNING}
        complete = first_names([*plan.method.options, *JOB_OPTIONS], complete)
        complete |= RETIRED.get(self.method, {})
        if plan.distill.total_steps:
            fields = fields_of(DistillSettings).values()
            complete["distill"] = first_names(fields, asdict(plan.distill))
        preset = {new: old for old, new in OLD_PRESETS.items()}.get(self.preset, self.preset)
        return {"method": self.method, **complete, "rank": self.rank, "preset": preset, "inputs": self.inputs}


# what is named in the identity although it is no option any more: units from when it was one are found
RETIRED = {"gradient-fusion": {"metric": "output"}, "contrastive": {"metric": "output", "negatives": "swap"}}
LEARNING = ("distill_steps_per_lora", "text_encoder_slowdown_after")


def first_names(fields: Iterable[Field], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by the first names that their options had: a unit that was measured then is found under them."""
    first = {field.name: (*field.aliases, field.name)[0] for field in fields}
    return {first.get(name, name): value for name, value in values.items()}


PUBLISHED = {"published": True}


def study_variants() -> list[MethodVariant]:
    """The methods of the fidelity study, the important ones first: an unfinished study is a shorter one."""
    variants = [
        MethodVariant(DEFAULT_METHOD, preset=DEFAULT_PRESET),
        MethodVariant("contrastive"),
        MethodVariant("sum"),
    ]
    variants += [
        MethodVariant("gradient-fusion", PUBLISHED),
        MethodVariant("gradient-fusion"),
        MethodVariant("contrastive", preset=DEFAULT_PRESET),
    ]
    variants += [MethodVariant("loraclr", {"precision": precision}) for precision in ("fp32", "fp16")]
    variants += [MethodVariant("gradient-fusion-lbfgs"), *(MethodVariant(name) for name in MODEL_FREE[1:])]
    variants += [
        MethodVariant("orthogonal-adaptation"),
        MethodVariant("orthogonal-adaptation", {"weight": 0.6}, main=False),
    ]
    return [*variants, *_switched()]


def _switched() -> list[MethodVariant]:
    """Closed form and contrastive, each with and without anchor, refinement and balance."""
    variants: list[MethodVariant] = []
    for method, chosen in product(("gradient-fusion", "contrastive"), product((0, 1), repeat=len(SWITCHES))):
        options = {name: values[on] for (name, values), on in zip(SWITCHES.items(), chosen, strict=True)}
        if not is_default(method, options):
            variants.append(MethodVariant(method, options, main=False))
    return variants


def is_default(method: str, options: Mapping[str, Any]) -> bool:
    """Whether these options are what the method does anyway."""
    defaults = {option.name: option.default for option in get_method(method).options}
    return all(defaults[name] == value for name, value in options.items())


@dataclass
class Maker:
    """Makes the update of a variant for some concepts; files and statistics go to `work` and are found again there."""

    testbed: Testbed
    work: Path
    progress: Progress
    orthogonal: Callable[[str], Path] | None = None  # trains a concept with frozen orthogonal downs, once

    def available(self, variant: MethodVariant) -> bool:
        """Whether this testbed can make it (orthogonal LoRAs need the miniature's training)."""
        return variant.method != "orthogonal-adaptation" or self.orthogonal is not None

    def update(self, variant: MethodVariant, names: Sequence[str], key: str) -> Updates:
        """The merged update; `key` names its file. Call it inside `host.ready()`."""
        testbed = self.testbed
        if variant.method == "gradient-fusion-lbfgs":
            return merge_published(testbed.host, testbed.concepts(names), by_lbfgs(), progress=self.progress)
        if variant.method == "loraclr":
            return merge_published(
                testbed.host, testbed.concepts(names), Loraclr(**variant.options), progress=self.progress
            )
        if variant.method == "orthogonal-adaptation":
            return self._orthogonal(names, float(variant.options.get("weight", 1.0)))
        if variant.inputs != INPUTS[0]:
            return merge_on(variant.inputs, self.options(variant, names, key), testbed.host, self.progress)
        options = self.options(variant, names, key)
        if not options.out.is_file():
            options.out.parent.mkdir(parents=True, exist_ok=True)
            merge(options, open_host=lambda checkpoint, device: testbed.host, progress=self.progress)
        return self._read(options.out)

    def options(self, variant: MethodVariant, names: Sequence[str], key: str) -> MergeOptions:
        """The merge as a user would ask for it."""
        return MergeOptions(
            lora=tuple(self.testbed.subject(name).choice for name in names),
            out=self.work / "merged" / f"{key}.safetensors",
            checkpoint=self.testbed.set.checkpoint,
            method=variant.method,
            rank=variant.rank,
            preset=variant.preset,
            option=dict(variant.options),
            device=str(self.testbed.host.info.device),
            cache=self.work / "statistics",
            overwrite=True,  # another study beside this one may have made it meanwhile
        )

    def _orthogonal(self, names: Sequence[str], weight: float) -> Updates:
        assert self.orthogonal is not None
        parts = [self._read(self.orthogonal(name)) for name in names]
        return {name: delta.scaled(weight) for name, delta in stack(parts).items()}

    def _read(self, path: Path) -> Updates:
        lora = read_files([path], self.testbed.host.layers())[0]
        return weighted_deltas(lora, 1.0, 1.0, self.testbed.host.base_weight, host_shapes(self.testbed.host))[0]
