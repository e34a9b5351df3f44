"""`evaluate`: paint every concept alone and in every merge, measure, keep pictures and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib_loraclr.capture import Concept
from lib_loraclr.core.deltas import Delta, stack
from lib_loraclr.core.errors import InputError
from lib_loraclr.evaluation.folder import EvaluationFolder, Pictures, read_picture, read_pictures, write_picture
from lib_loraclr.evaluation.metrics import Calibration, Metrics
from lib_loraclr.evaluation.options import EvaluateOptions, Subject
from lib_loraclr.evaluation.page import render_page
from lib_loraclr.evaluation.scores import References, drift, make_row, score
from lib_loraclr.formats import FileWarning, LoraFile
from lib_loraclr.formats.output import probe, write_text
from lib_loraclr.formats.weighted import check_families, host_shapes, read_files, weighted_deltas
from lib_loraclr.generation.generator import ImageGenerator
from lib_loraclr.merging.inputs import make_inputs
from lib_loraclr.merging.options import LoraChoice
from lib_loraclr.model import DiffusionHost, HostOpener, Phase, Progress, resolve_device
from lib_loraclr.timing import Stopwatch

NEUTRAL_SEEDS = 2
NEUTRAL_OFFSET = 10_000
Deltas = Mapping[str, Delta]

MetricsOpener = Callable[[EvaluateOptions], "tuple[Metrics, Calibration | None]"]
"""Which metrics there are; called before the model is loaded, so that what is missing is said at once."""


@dataclass(frozen=True)
class MethodVariant:
    """One method of drawing the concepts: `deltas[concept]` act while it is drawn, `neutral` while neutral prompts are.

    `source` is the hash of the merged file, so that pictures of an earlier file of the same name are not taken for its.
    """

    name: str
    label: str
    deltas: Sequence[Deltas]
    neutral: Deltas | None
    source: str = ""


@dataclass(frozen=True)
class EvaluateOutcome:
    """`rows` as the tables have them, one per variant."""

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
    options: EvaluateOptions, *, open_host: HostOpener, open_metrics: MetricsOpener, progress: Progress
) -> EvaluateOutcome:
    """Compare the single LoRAs, their stack and merged files on the same prompts and seeds.

    Pictures are kept as they are made: an evaluation that was stopped goes on where it was. Raises InputError.
    """
    watch = Stopwatch()
    _check(options)
    pictures = {s.name: read_pictures(s.references) for s in options.subjects if s.references}
    metrics, calibration = open_metrics(options)
    loras = read_files([subject.choice.file for subject in options.subjects])
    check_families(loras)
    device = str(resolve_device(options.device))
    progress.phase(Phase.LOAD, 1)
    host = open_host(options.checkpoint, device)
    progress.step()
    with host.ready():
        job = _Job.prepare(options, host, loras, metrics, calibration, pictures)
        for variant in job.variants:
            job.run(variant, progress)
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
    metrics: Metrics
    folder: EvaluationFolder
    prompts: list[tuple[str, ...]]
    references: list[References]
    variants: list[MethodVariant]
    warnings: list[FileWarning]

    @classmethod
    def prepare(
        cls,
        options: EvaluateOptions,
        host: DiffusionHost,
        loras: list[LoraFile],
        metrics: Metrics,
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
        variants, notes = _variants(options, host, concepts)
        prompts = [
            tuple(_in_turn(subject.filled(concept.trigger, concept.class_word), options.pictures))
            for subject, concept in zip(options.subjects, concepts, strict=True)
        ]
        folder = EvaluationFolder.start(
            options.out, _settings(options, host, loras, prompts, metrics), overwrite=options.overwrite
        )
        if calibration is not None:
            folder.data["calibration"] = calibration.as_dict()
        empty = np.zeros((0, 8, 8, 3), np.uint8)
        for subject, concept, texts in zip(options.subjects, concepts, prompts, strict=True):
            about = {"kind": subject.kind, "trigger": concept.trigger, "prompts": list(texts)}
            folder.put_concept(subject.name, about, pictures.get(subject.name, empty))
        references = [
            References.of(subject.kind, pictures[subject.name], metrics)
            if subject.name in pictures
            else References(subject.kind, None, None)
            for subject in options.subjects
        ]
        return cls(options, ImageGenerator(host), metrics, folder, prompts, references, variants, [*warnings, *notes])

    @property
    def names(self) -> list[str]:
        """Names of the concepts."""
        return [subject.name for subject in self.options.subjects]

    def run(self, variant: MethodVariant, progress: Progress) -> None:
        """Make the pictures that are missing, measure all, and note the numbers."""
        options, scores = self.options, list[dict[str, Any]]()
        self.folder.begin_variant(variant.name, variant.source)
        per_concept = self.generator.steps(options.pictures, options.sampling)
        progress.phase(Phase.GENERATE, per_concept * len(options.subjects), variant.label)
        for subject, deltas, prompts, references in zip(
            options.subjects, variant.deltas, self.prompts, self.references, strict=True
        ):
            pictures = self._pictures(variant.name, subject.name, deltas, prompts, options.seed, progress)
            rivals = [others for others in self.references if others is not references]
            scores.append(score(subject.name, pictures, prompts, references, self.metrics, rivals).as_dict())
        drifted = self._drift(variant, progress) if variant.neutral is not None else None
        self.folder.put_variant(variant.name, variant.label, dict.fromkeys(self.names, options.pictures))
        self.folder.put_scores(
            make_row(variant.name, {}, len(scores), 0, scores, drifted), scores, [one.name for one in self.variants]
        )
        self.folder.save()

    def _pictures(
        self, variant: str, name: str, deltas: Deltas, prompts: Sequence[str], seed: int, progress: Progress
    ) -> Pictures:
        """Picture k on prompt k with seed `seed` + k: from the folder where all are there, else from the model."""
        paths = [self.folder.picture_path(variant, name, k + 1) for k in range(len(prompts))]
        if all(path.is_file() for path in paths):
            return np.stack([np.asarray(read_picture(path)) for path in paths])
        seeds = [seed + k for k in range(len(prompts))]
        pictures = self.generator.sample(deltas, prompts, seeds, self.options.sampling, progress=progress).numpy()
        for path, picture in zip(paths, pictures, strict=True):
            write_picture(path, picture)
        return pictures

    def _drift(self, variant: MethodVariant, progress: Progress) -> float | None:
        options = self.options
        if not options.neutral:
            return None
        prompts, seed = list(options.neutral) * NEUTRAL_SEEDS, options.seed + NEUTRAL_OFFSET
        steps = 2 * self.generator.steps(len(prompts), options.sampling)
        progress.phase(Phase.GENERATE, steps, f"neutral prompts, {variant.label}")
        base = self._pictures("none", "neutral", {}, prompts, seed, progress)
        changed = self._pictures(variant.name, "neutral", variant.neutral or {}, prompts, seed, progress)
        return drift(base, changed, NEUTRAL_SEEDS)


def _variants(
    options: EvaluateOptions, host: DiffusionHost, concepts: Sequence[Concept]
) -> tuple[list[MethodVariant], list[FileWarning]]:
    """No LoRA, each alone, all stacked where wanted, then every merged file under its stem."""
    count = len(concepts)
    variants = [
        MethodVariant("none", "no LoRA", [{}] * count, None),
        MethodVariant("single", "single LoRAs", [concept.deltas for concept in concepts], None),
    ]
    if options.stacked:
        summed = stack([concept.deltas for concept in concepts])
        variants.append(MethodVariant("stacked", "all LoRAs stacked", [summed] * count, summed))
    warnings: list[FileWarning] = []
    shapes = host_shapes(host)
    for path in options.merged:
        lora = read_files([path], host.layers())[0]
        check_families([lora], host.info.family)
        deltas, notes = weighted_deltas(lora, 1.0, 1.0, host.base_weight, shapes)
        warnings += [*lora.warnings, *notes]
        name = path.stem
        while name in {variant.name for variant in variants}:
            name += "+"
        variants.append(MethodVariant(name, path.stem, [deltas] * count, deltas, lora.sha256))
    return variants, warnings


def _in_turn(prompts: Sequence[str], count: int) -> list[str]:
    return [prompts[k % len(prompts)] for k in range(count)]


def _settings(
    options: EvaluateOptions,
    host: DiffusionHost,
    loras: Sequence[LoraFile],
    prompts: Sequence[Sequence[str]],
    metrics: Metrics,
) -> dict[str, Any]:
    """All that the pictures and numbers of every variant depend on; nothing of the machine."""
    return {
        "checkpoint": host.info.name,
        "checkpoint_sha256": host.info.sha256,
        "sampling": asdict(options.sampling),
        "seed": options.seed,
        "pictures": options.pictures,
        "neutral_prompts": list(options.neutral),
        "metrics": metrics.names(),
        "thresholds": dict(metrics.thresholds),
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
