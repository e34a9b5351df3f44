"""A study in units that are kept: one unit is one variant of merging, some concepts, their pictures measured.

Rows are made of units (benchmarks/units.py) in a fixed order.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.testbed import Testbed
from benchmarks.units import Units
from benchmarks.variants import Maker, MethodVariant
from lib_loraclr.evaluation.folder import EvaluationFolder, Pictures, read_picture, write_picture
from lib_loraclr.evaluation.scores import ConceptScore, drift, make_row, rounded, score
from lib_loraclr.model import Phase, Progress

SINGLE = MethodVariant("single")
NEUTRAL_SEEDS = 2
SEED, SEED_STEP, NEUTRAL_SEED = 20_000, 1_000, 900_000
VERSION = 1


def as_version_1(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the names that were used when units got their keys, so that what was measured is found."""
    names = {"cfg_scale": "cfg", "negative_prompt": "negative", "batch_size": "batch"}
    brush = {names.get(name, name): value for name, value in settings["sampling"].items()}
    return {**{name: value for name, value in settings.items() if name != "sampling"}, "brush": brush}


@dataclass(frozen=True)
class Scale:
    """How large a study is: numbers of concepts, draws of them, pictures a concept, neutral prompts, pictures kept."""

    counts: tuple[int, ...] = (1, 2, 4, 8, 12)
    draws: int = 3
    pictures: int = 16
    neutral: int = 14
    held_out: int = 120
    kept: int = 4
    main_only: bool = False


FULL = Scale()
REDUCED = Scale((2, 4), 1, 4, 6, 40, 4, True)


@dataclass(frozen=True)
class Unit:
    """What is merged, and how it is asked for: `joint` puts a style's words behind every other concept's prompts."""

    variant: MethodVariant
    names: tuple[str, ...]
    n: int
    draw: int
    joint: bool = False


@dataclass
class Study:
    """Makes, measures and finds units; updates, statistics and pictures are in `work`, which may be emptied."""

    testbed: Testbed
    work: Path
    units: Units
    scale: Scale
    progress: Progress
    maker: Maker
    _base: Pictures | None = field(default=None, repr=False)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that every unit depends on besides its variant and concepts."""
        testbed = self.testbed
        return {
            "version": VERSION,
            "checkpoint_sha256": testbed.host.info.sha256,
            "pictures": self.scale.pictures,
            "seed": SEED,
            "sampling": asdict(testbed.set.sampling),
            "neutral_prompts": list(testbed.set.neutral[: self.scale.neutral]),
            "thresholds": {name: round(value, 4) for name, value in testbed.metrics.thresholds.items()},
        }

    @cached_property
    def _shas(self) -> dict[str, str]:
        return {s.name: hashlib.sha256(s.choice.file.read_bytes()).hexdigest() for s in self.testbed.set.subjects}

    def key(self, unit: Unit) -> str:
        """Names the unit."""
        loras = {name: self._shas[name] for name in unit.names}
        text = json.dumps(
            [as_version_1(self.settings), unit.variant.identity(self.testbed), loras, unit.joint], sort_keys=True
        )
        return f"{unit.variant.method}-{len(unit.names)}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"

    def found(self, unit: Unit) -> dict[str, Any] | None:
        """The unit, if it has been measured."""
        return self.units.find(self.key(unit))

    def measure(self, unit: Unit, keep: EvaluationFolder | None = None) -> dict[str, Any]:
        """Merge, paint and score, or find it done; `keep` is the folder whose pictures people look at."""
        done = self.found(unit)
        if done is not None and (keep is None or self._kept(unit, keep)):
            return done
        start = time.perf_counter()
        if unit.variant.method == "single":
            parts = [self._painted([name], self.testbed.concepts([name])[0].deltas, unit) for name in unit.names]
            scores, pictures, drifted = parts[0] if len(parts) == 1 else _joined(parts)
        else:
            scores, pictures, drifted = self._painted(
                unit.names, self.maker.update(unit.variant, unit.names, self.key(unit)), unit
            )
        data = {
            "method": unit.variant.method,
            "options": unit.variant.shown,
            "concepts": list(unit.names),
            "scores": [s.as_dict() for s in scores],
            "drift": rounded(drifted),
            "seconds": round(time.perf_counter() - start, 1),
        }
        self.units.put(self.key(unit), data)
        if keep is not None:
            self._keep(unit, keep, pictures)
        return data

    def _painted(
        self, names: Sequence[str], update: Any, unit: Unit
    ) -> tuple[list[ConceptScore], dict[str, Pictures], float]:
        """All concepts' pictures in one row of batches, then the neutral ones."""
        testbed, count, sampling = self.testbed, self.scale.pictures, self.testbed.set.sampling
        texts = {name: self.prompts(name, unit) for name in names}
        prompts = [text for name in names for text in texts[name]]
        seeds = [seed for name in names for seed in self.seeds(name)]
        steps = testbed.generator.steps(len(prompts), sampling)
        steps += testbed.generator.steps(NEUTRAL_SEEDS * len(self.settings["neutral_prompts"]), sampling)
        self.progress.phase(Phase.GENERATE, steps, f"{unit.variant.label}, {len(names)}")
        base = self.neutral({}) if self._base is None else self._base
        self._base = base
        painted = testbed.generator.sample(update, prompts, seeds, sampling, progress=self.progress).numpy()
        pictures = {name: painted[k * count : (k + 1) * count] for k, name in enumerate(names)}
        everyone = [testbed.references[s.name] for s in testbed.set.subjects]
        scores: list[ConceptScore] = []
        for name in names:
            own = testbed.references[name]
            rivals = [other for other in everyone if other is not own]
            scores.append(score(name, pictures[name], texts[name], own, testbed.metrics, rivals))
        return scores, pictures, drift(base, self.neutral(update), NEUTRAL_SEEDS)

    def neutral(self, update: Any) -> Pictures:
        """Pictures of the neutral prompts under an update, all prompts with each seed."""
        prompts = list(self.testbed.set.neutral[: self.scale.neutral]) * NEUTRAL_SEEDS
        seeds = [NEUTRAL_SEED + k for k in range(len(prompts))]
        testbed = self.testbed
        return testbed.generator.sample(update, prompts, seeds, testbed.set.sampling, progress=self.progress).numpy()

    def prompts(self, name: str, unit: Unit) -> list[str]:
        """The prompts of a concept's pictures."""
        subject = self.testbed.subject(name)
        texts = subject.filled(subject.choice.trigger or "", subject.choice.class_word or "")
        if unit.joint:
            texts = self._joint(unit.names)
        return [texts[k % len(texts)] for k in range(self.scale.pictures)]

    def _joint(self, names: Sequence[str]) -> tuple[str, ...]:
        """A thing's prompts in a style."""
        thing = next(self.testbed.subject(name) for name in names if self.testbed.subject(name).kind != "style")
        style = next(self.testbed.subject(name) for name in names if self.testbed.subject(name).kind == "style")
        called = f"{style.choice.trigger} {style.choice.class_word}"
        texts = thing.filled(thing.choice.trigger or "", thing.choice.class_word or "")
        return tuple(f"{text} in {called}" for text in texts)

    def seeds(self, name: str) -> list[int]:
        """One seed a picture, other ones for every concept, the same for every variant."""
        place = [s.name for s in self.testbed.set.subjects].index(name)
        return [SEED + SEED_STEP * place + k for k in range(self.scale.pictures)]

    def row(self, unit: Unit) -> dict[str, Any] | None:
        """The unit's line of the table; a single LoRA's is the mean over the concepts of the draw."""
        if unit.variant.method == "single" and len(unit.names) > 1 and not unit.joint:
            parts = [self.found(Unit(SINGLE, (name,), 1, unit.draw)) for name in unit.names]
            if any(part is None for part in parts):
                return None
            known = [part for part in parts if part is not None]
            scores = [item for part in known for item in part["scores"]]
            drifted = float(np.mean([part["drift"] for part in known]))
            return make_row("single", {}, unit.n, unit.draw, scores, drifted)
        data = self.found(unit)
        if data is None:
            return None
        return make_row(unit.variant.method, unit.variant.shown, unit.n, unit.draw, data["scores"], data["drift"])

    def rows(self, units: Iterable[Unit]) -> list[dict[str, Any]]:
        """Rows of the units that are done, in the order given."""
        return [row for row in map(self.row, units) if row is not None]

    def _kept(self, unit: Unit, folder: EvaluationFolder) -> bool:
        kept = min(self.scale.kept, self.scale.pictures)
        return all(folder.picture_path(unit.variant.label, name, kept).is_file() for name in unit.names)

    def _keep(self, unit: Unit, folder: EvaluationFolder, pictures: dict[str, Pictures]) -> None:
        kept, variant = min(self.scale.kept, self.scale.pictures), unit.variant.label
        for name, painted in pictures.items():
            for k, picture in enumerate(painted[:kept]):
                write_picture(folder.picture_path(variant, name, k + 1), picture)
        names = [concept["name"] for concept in folder.data["concepts"]]
        there = [name for name in names if folder.picture_path(variant, name, kept).is_file()]
        folder.put_variant(variant, variant, dict.fromkeys(there, kept))
        folder.save()


def picture_folder(study: Study, names: Sequence[str]) -> EvaluationFolder:
    """The folder of pictures that grid, page and rating show: these concepts, all variants side by side."""
    settings = {**study.settings, "concepts": list(names), "checkpoint": study.testbed.host.info.name}
    tag = hashlib.sha256(json.dumps(as_version_1(settings), sort_keys=True).encode()).hexdigest()[:8]
    folder = EvaluationFolder.start(study.work / f"pictures-{len(names)}-{tag}", settings)
    for name in names:
        subject = study.testbed.subject(name)
        about = {"kind": subject.kind, "trigger": subject.choice.trigger, "prompts": list(subject.prompts)}
        folder.put_concept(name, about, [read_picture(path) for path in subject.references])
    folder.save()
    return folder


def draw_concepts(testbed: Testbed, n: int, draw: int) -> tuple[str, ...]:
    """N concepts: draw 0 is the first N characters, later ones are random; animals and objects join where needed."""
    characters, others = testbed.names("character"), testbed.names("animal", "object")
    if draw == 0 and n <= len(characters):
        return tuple(characters[:n])
    pool = characters if n < len(characters) else [*characters, *others]
    if n > len(pool):
        return ()
    chosen = set(random.Random(f"draw {draw} of {n}").sample(pool, n))
    return tuple(name for name in [*characters, *others] if name in chosen)


def planned(study: Study, variants: Sequence[MethodVariant]) -> list[Unit]:
    """All units of a study: single LoRAs, then draw by draw the main variants, then the others."""
    counts = [n for n in study.scale.counts if draw_concepts(study.testbed, n, 0)]
    draws = [(n, draw, draw_concepts(study.testbed, n, draw)) for draw in range(study.scale.draws) for n in counts]
    draws = [(n, draw, names) for n, draw, names in draws if names]
    units = [Unit(SINGLE, names, n, draw) for n, draw, names in draws]
    for main in (True, False):
        chosen = [variant for variant in variants if variant.main == main and study.maker.available(variant)]
        units += [Unit(variant, names, n, draw) for n, draw, names in draws for variant in chosen]
    return units


def run(study: Study, units: Iterable[Unit], keep: EvaluationFolder | None, after: Any) -> None:
    """Measure what is not there yet, calling `after()` behind every unit; `keep` takes the units of its concepts."""
    looked_at = tuple(concept["name"] for concept in keep.data["concepts"]) if keep is not None else ()
    units = list(units)
    for number, unit in enumerate(units, 1):
        study.progress.message(f"unit {number} of {len(units)}: {unit.variant.label}, N = {unit.n}, draw {unit.draw}")
        wanted = keep if unit.names == looked_at and not unit.joint else None
        if unit.variant.method == "single" and not unit.joint:
            for name in unit.names:
                study.measure(Unit(SINGLE, (name,), 1, unit.draw), keep if name in looked_at else None)
        else:
            study.measure(unit, wanted)
        after()


def _joined(
    parts: Sequence[tuple[list[ConceptScore], dict[str, Pictures], float]],
) -> tuple[list[ConceptScore], dict[str, Pictures], float]:
    scores = [s for part in parts for s in part[0]]
    pictures = {name: painted for part in parts for name, painted in part[1].items()}
    return scores, pictures, float(np.mean([part[2] for part in parts]))
