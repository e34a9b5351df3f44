"""`evaluate`: paint every concept alone and in every merge, measure, keep pictures and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib_loraclr.capture import Concept
from lib_loraclr.core.deltas import Delta, stack
from lib_loraclr.core.errors import InputError
from lib_loraclr.evaluation.folder import EvaluationFolder, read_pictures, write_picture
from lib_loraclr.evaluation.meters import Calibration, Meters, Pictures
from lib_loraclr.evaluation.options import EvaluateOptions, Subject
from lib_loraclr.evaluation.page import render_page
from lib_loraclr.evaluation.scores import ConceptScore, References, drift, make_row, score
from lib_loraclr.formats import FileWarning, LoraFile
from lib_loraclr.formats.output import probe, write_text
from lib_loraclr.formats.weighted import check_families, host_shapes, read_files, weighted_deltas
from lib_loraclr.generation.generator import ImageGenerator
from lib_loraclr.merging.inputs import make_inputs
from lib_loraclr.merging.options import LoraChoice
from lib_loraclr.model import DiffusionHost, Phase, Progress
from lib_loraclr.opening import HostOpener, resolve_device
from lib_loraclr.timing import Stopwatch

NEUTRAL_SEEDS = 2
NEUTRAL_OFFSET = 10_000
Updates = Mapping[str, Delta]

MeterOpener = Callable[[EvaluateOptions], "tuple[Meters, Calibration | None]"]
"""Which meters there are; called before the model is loaded, so that what is missing is said at once."""


@dataclass(frozen=True)
class Way:
    """One way to draw the concepts: `updates[concept]` act while it is drawn, `neutral` while neutral prompts are.

    `source` is the hash of the merged file, so that pictures of an earlier file of the same name are not taken for its.
    """

    name: str
    label: str
    updates: Sequence[Updates]
    neutral: Updates | None
    source: str = ""


@dataclass(frozen=True)
class EvaluateOutcome:
    """`rows` as the tables have them, one per way."""

    out: Path
    report: Path
    rows: list[dict[str, Any]]
    concepts: dict[str, list[dict[str, Any]]]
    seconds: float
    warnings: Sequence[FileWarning] = ()

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "ok": True,
            "out": str(self.out),
            "report": str(self.report),
            "rows": self.rows,
            "concepts": self.concepts,
            "seconds": {"total": round(self.seconds, 3)},
            "warnings": [warning.as_dict() for warning in self.warnings],
        }


def evaluate(
    options: EvaluateOptions, *, open_host: HostOpener, open_meters: MeterOpener, progress: Progress
) -> EvaluateOutcome:
    """Compare the single LoRAs, their stack and merged files on the same prompts and seeds.

    Pictures are kept as they are made: an evaluation that was stopped goes on where it was. Raises InputError.
    """
    watch = Stopwatch()
    _check(options)
    pictures = {s.name: read_pictures(s.references) for s in options.subjects if s.references}
    meters, calibration = open_meters(options)
    loras = read_files([subject.choice.file for subject in options.subjects])
    check_families(loras)
    device = str(resolve_device(options.device))
    progress.phase(Phase.LOAD, 1)
    host = open_host(options.checkpoint, device)
    progress.step()
    with host.ready():
        job = _Job.prepare(options, host, loras, meters, calibration, pictures)
        for way in job.ways:
            job.run(way, progress)
    page = job.folder.path / "report.html"
    write_text(page, render_page(job.folder))
    rows, concepts = job.folder.data["rows"], job.folder.data["scores"]
    return EvaluateOutcome(options.out, page, rows, concepts, watch.total, job.warnings)


def _check(options: EvaluateOptions) -> None:
    for path in (*(subject.choice.file for subject in options.subjects), *options.merged):
        if not path.is_file():
            raise InputError("file-not-found", "The LoRA file does not exist.", file=str(path), key="lora")
    existing = next(path for path in (options.out, *options.out.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError("folder-missing", "The output folder's name is that of a file.", file=str(existing), key="out")
    probe(existing / "evaluation")


@dataclass
class _Job:
    options: EvaluateOptions
    generator: ImageGenerator
    meters: Meters
    folder: EvaluationFolder
    prompts: list[tuple[str, ...]]
    references: list[References]
    ways: list[Way]
    warnings: list[FileWarning]

    @classmethod
    def prepare(
        cls,
        options: EvaluateOptions,
        host: DiffusionHost,
        loras: list[LoraFile],
        meters: Meters,
        calibration: Calibration | None,
        pictures: Mapping[str, Pictures],
    ) -> _Job:
        check_families(loras, host.info.family)
        known = host.layers()
        if any(name not in known for lora in loras for name in lora.layers):
            loras = read_files([subject.choice.file for subject in options.subjects], known)
        choices = [subject.choice for subject in options.subjects]
        inputs, warnings = make_inputs(choices, loras, host.base_weight, host_shapes(host))
        concepts = [item.concept for item in inputs]
        ways, notes = _ways(options, host, concepts)
        prompts = [
            tuple(_in_turn(subject.filled(concept.trigger, concept.class_word), options.pictures))
            for subject, concept in zip(options.subjects, concepts, strict=True)
        ]
        folder = EvaluationFolder.start(
            options.out, _settings(options, host, loras, prompts, meters), overwrite=options.overwrite
        )
        if calibration is not None:
            folder.data["calibration"] = calibration.as_dict()
        empty = np.zeros((0, 8, 8, 3), np.uint8)
        for subject, concept, texts in zip(options.subjects, concepts, prompts, strict=True):
            about = {"kind": subject.kind, "trigger": concept.trigger, "prompts": list(texts)}
            folder.put_concept(subject.name, about, pictures.get(subject.name, empty))
        references = [
            References.of(subject.kind, pictures[subject.name], meters)
            if subject.name in pictures
            else References(subject.kind, None, None)
            for subject in options.subjects
        ]
        return cls(options, ImageGenerator(host), meters, folder, prompts, references, ways, [*warnings, *notes])

    def run(self, way: Way, progress: Progress) -> None:
        """Paint what is missing, measure, note."""
        options, scores, counts = self.options, list[ConceptScore](), dict[str, int]()
        self.folder.begin_way(way.name, way.source)
        per = self.generator.steps(options.pictures, options.sampling)
        progress.phase(Phase.GENERATE, per * len(options.subjects), way.label)
        for subject, updates, texts, own in zip(
            options.subjects, way.updates, self.prompts, self.references, strict=True
        ):
            seeds = [options.seed + k for k in range(len(texts))]
            painted = self._painted(way, subject.name, updates, texts, seeds, progress)
            rivals = [other for other in self.references if other is not own]
            scores.append(score(subject.name, painted, texts, own, self.meters, rivals))
            counts[subject.name] = len(painted)
        drifted = self._drift(way, progress) if way.neutral is not None else None
        self.folder.put_way(way.name, way.label, counts)
        rows: list[dict[str, Any]] = [row for row in self.folder.data["rows"] if row["method"] != way.name]
        known = [s.as_dict() for s in scores]
        rows.append(make_row(way.name, {}, len(options.subjects), 0, known, drifted))
        order = list(dict.fromkeys([*(known.name for known in self.ways), *(row["method"] for row in rows)]))
        self.folder.data["rows"] = sorted(rows, key=lambda row: order.index(row["method"]))
        self.folder.data.setdefault("scores", {})[way.name] = known
        self.folder.save()

    def _painted(
        self, way: Way, name: str, updates: Updates, texts: Sequence[str], seeds: Sequence[int], progress: Progress
    ) -> Pictures:
        """From the folder where all of them are there, else from the model."""
        paths = [self.folder.picture_path(way.name, name, k + 1) for k in range(len(texts))]
        if all(path.is_file() for path in paths):
            return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
        painted = self.generator.sample(updates, texts, seeds, self.options.sampling, progress=progress).numpy()
        for path, picture in zip(paths, painted, strict=True):
            write_picture(path, picture)
        return painted

    def _drift(self, way: Way, progress: Progress) -> float | None:
        options = self.options
        if not options.neutral:
            return None
        texts = [prompt for _ in range(NEUTRAL_SEEDS) for prompt in options.neutral]
        seeds = [options.seed + NEUTRAL_OFFSET + k for k in range(len(texts))]
        steps = 2 * self.generator.steps(len(texts), options.sampling)
        progress.phase(Phase.GENERATE, steps, f"neutral prompts, {way.label}")
        plain = Way("none", "no LoRA", (), {})
        base = self._painted(plain, "neutral", {}, texts, seeds, progress)
        changed = self._painted(way, "neutral", way.neutral or {}, texts, seeds, progress)
        return drift(base, changed, NEUTRAL_SEEDS)


def _ways(
    options: EvaluateOptions, host: DiffusionHost, concepts: Sequence[Concept]
) -> tuple[list[Way], list[FileWarning]]:
    """No LoRA, each alone, all stacked where wanted, then every merged file under its stem."""
    count = len(concepts)
    ways = [
        Way("none", "no LoRA", [{}] * count, None),
        Way("single", "single LoRAs", [concept.deltas for concept in concepts], None),
    ]
    if options.stacked:
        summed = stack([concept.deltas for concept in concepts])
        ways.append(Way("stacked", "all LoRAs stacked", [summed] * count, summed))
    warnings: list[FileWarning] = []
    shapes = host_shapes(host)
    for path in options.merged:
        lora = read_files([path], host.layers())[0]
        check_families([lora], host.info.family)
        deltas, notes = weighted_deltas(lora, 1.0, 1.0, host.base_weight, shapes)
        warnings += [*lora.warnings, *notes]
        name = path.stem
        while name in {way.name for way in ways}:
            name += "+"
        ways.append(Way(name, path.stem, [deltas] * count, deltas, lora.sha256))
    return ways, warnings


def _in_turn(prompts: Sequence[str], count: int) -> list[str]:
    return [prompts[k % len(prompts)] for k in range(count)]


def _settings(
    options: EvaluateOptions,
    host: DiffusionHost,
    loras: Sequence[LoraFile],
    prompts: Sequence[Sequence[str]],
    meters: Meters,
) -> dict[str, Any]:
    """All that the pictures and numbers of every way depend on; nothing of the machine."""
    return {
        "checkpoint": host.info.name,
        "checkpoint_sha256": host.info.sha256,
        "sampling": asdict(options.sampling),
        "seed": options.seed,
        "pictures": options.pictures,
        "neutral_prompts": list(options.neutral),
        "meters": meters.names(),
        "thresholds": dict(meters.thresholds),
        "loras": [_input(s, lora, p) for s, lora, p in zip(options.subjects, loras, prompts, strict=True)],
    }


def _input(subject: Subject, lora: LoraFile, prompts: Sequence[str]) -> dict[str, Any]:
    choice: LoraChoice = subject.choice
    return {
        "name": subject.name,
        "sha256": lora.sha256,
        "weight": choice.weight,
        "te_weight": choice.text_weight,
        "prompts": list(prompts),
    }
