"""Blind ratings of an evaluation's pictures: what is shown in which order, what was said, means with intervals."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from lib_loraclr.core.errors import InputError
from lib_loraclr.evaluation.folder import EvaluationFolder

FILE = "ratings.csv"
LOW, HIGH = 1, 5
# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; beyond, the normal's 1.96 is near enough.
STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One picture to rate beside the references of its concept. `variant` is what the rater must not know."""

    variant: str
    concept: str
    prompt: str
    picture: Path
    references: tuple[Path, ...]


@dataclass(frozen=True)
class Rating:
    """One line of the CSV file."""

    rater: str
    variant: str
    concept: str
    picture: str
    identity: int
    quality: int


@dataclass(frozen=True)
class Mean:
    """Mean with the half width of its 95 % confidence interval; None of a single rating."""

    value: float
    half: float | None
    count: int


def trials_of(folder: Path) -> list[Trial]:
    """Every picture of an evaluation that has references. Raises InputError for what is no evaluation.

    The files must lie inside the folder: what evaluation.json names elsewhere is not shown.
    """
    try:
        data = EvaluationFolder.open(folder).data
        trials = [trial for concept in data["concepts"] for trial in _trials(folder, concept, data["variants"])]
    except InputError as error:
        raise InputError(error.code, f"{folder} cannot be rated: {error.message}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{folder} cannot be read as an evaluation: {type(error).__name__} {error}."
        raise InputError("bad-evaluation", message) from error
    if not trials:
        raise InputError("bad-evaluation", f"{folder} holds no picture with references to rate.")
    return trials


def _trials(folder: Path, concept: Mapping[str, Any], variants: Sequence[Mapping[str, Any]]) -> list[Trial]:
    name, prompts = str(concept["name"]), [str(prompt) for prompt in concept.get("prompts", ())] or [""]
    references = tuple(path for file in concept["references"] if (path := _inside(folder, str(file))))
    return [
        Trial(str(variant["name"]), name, prompts[k % len(prompts)], path, references)
        for variant in (variants if references else ())
        for k, file in enumerate(variant["pictures"].get(name, ()))
        if (path := _inside(folder, str(file)))
    ]


def _inside(folder: Path, name: str) -> Path | None:
    path = (folder / name).resolve()
    return path if path.is_relative_to(folder.resolve()) and path.is_file() else None


def order_for(rater: str, trials: Sequence[Trial], ratings: Iterable[Rating]) -> list[int]:
    """Numbers of the trials that this rater has not rated, in an order of their own.

    The variants take turns: whenever a rater stops, every variant has been seen about equally often.
    """
    seen = {(r.variant, r.concept, r.picture) for r in ratings if r.rater == rater}
    rng = random.Random(hashlib.sha256(rater.encode("utf-8")).hexdigest())
    by_variant: dict[str, list[int]] = {}
    for k, trial in enumerate(trials):
        if (trial.variant, trial.concept, trial.picture.name) not in seen:
            by_variant.setdefault(trial.variant, []).append(k)
    for numbers in by_variant.values():
        rng.shuffle(numbers)
    order: list[int] = []
    while any(by_variant.values()):
        turn = [numbers.pop() for numbers in by_variant.values() if numbers]
        rng.shuffle(turn)
        order += turn
    return order


def append(folder: Path, rating: Rating) -> None:
    """Add one line; a line is written at once, so that two raters can work side by side. Raises ValueError."""
    if not (LOW <= rating.identity <= HIGH and LOW <= rating.quality <= HIGH):
        raise ValueError(f"a rating is a whole number from {LOW} to {HIGH}")
    path = folder / FILE
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    if not path.exists():
        writer.writerow([field.name for field in fields(Rating)])
    writer.writerow(_harmless(value) for value in astuple(rating))
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, stream.getvalue().encode("utf-8"))
    finally:
        os.close(handle)


def _harmless(value: object) -> object:
    """A text that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def read(folder: Path) -> list[Rating]:
    """All ratings so far; lines that are none are left out."""
    path = folder / FILE
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        ratings = [_rating(row) for row in csv.DictReader(stream)]
    return [rating for rating in ratings if rating is not None]


def _rating(row: Mapping[str, Any]) -> Rating | None:
    row = {**row, "variant": row.get("variant", row.get("way"))}  # the column's name in version 0.1.0
    try:
        rater, variant, concept, picture = (
            str(row[name]).removeprefix("'") for name in ("rater", "variant", "concept", "picture")
        )
        rating = Rating(rater, variant, concept, picture, int(row["identity"]), int(row["quality"]))
    except (KeyError, TypeError, ValueError):
        return None
    return rating if LOW <= rating.identity <= HIGH and LOW <= rating.quality <= HIGH else None


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and 95 % interval by Student's t. Needs at least one value."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return Mean(mean, None, count)
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    quantile = STUDENT[count - 2] if count - 2 < len(STUDENT) else 1.96
    return Mean(mean, quantile * math.sqrt(variance / count), count)


def summary(ratings: Iterable[Rating]) -> dict[str, dict[str, Mean]]:
    """Variant -> identity and quality, the best identity first."""
    by_variant: dict[str, list[Rating]] = {}
    for rating in ratings:
        by_variant.setdefault(rating.variant, []).append(rating)
    means = {
        variant: {"identity": mean_of([r.identity for r in rated]), "quality": mean_of([r.quality for r in rated])}
        for variant, rated in by_variant.items()
    }
    return dict(sorted(means.items(), key=lambda item: -item[1]["identity"].value))
