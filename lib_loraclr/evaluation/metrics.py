"""What pictures are measured by: the interfaces of the metrics, and the threshold from which two show the same one.

An embedder turns pictures into unit vectors: the cosine of two is near 1 where they show the same thing (a face, a
style, a motif). A text alignment says how far pictures show what their prompts ask for. Implementations: `network` (a
small network from a file), `hosts/standalone/metrics` (CLIP, a face embedder), or anything else with these methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lib_loraclr.core.errors import InputError
from lib_loraclr.evaluation.folder import Pictures, pictures_in, read_pictures

Numbers = NDArray[np.float64]


class Embedder(Protocol):
    """Pictures to unit vectors. `name` keys thresholds and reports."""

    @property
    def name(self) -> str: ...

    def vectors(self, pictures: Pictures) -> Numbers:
        """(n, d); a row of zeros where a picture holds nothing to embed (no face), which makes its cosine 0."""
        ...


class TextAlignment(Protocol):
    """How well a picture shows what its prompt says."""

    @property
    def name(self) -> str: ...

    def score(self, pictures: Pictures, prompts: Sequence[str]) -> Numbers:
        """(n,), more is better; NaN where the prompt says nothing that this metric knows."""
        ...


@dataclass(frozen=True)
class Metrics:
    """The metrics of one evaluation; a column whose metric is None stays empty.

    `style` stands in for `identity` for concepts of kind "style". `thresholds`: by embedder name, the mean cosine to
    the references from which a picture counts as showing the concept; fixed beforehand, on other identities.
    """

    identity: Embedder | None = None
    image: Embedder | None = None
    text: TextAlignment | None = None
    style: Embedder | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict[str, float])

    def for_kind(self, kind: str) -> Embedder | None:
        """What says whether a picture shows a concept of this kind."""
        return self.style if kind == "style" else self.identity

    def names(self) -> dict[str, str | None]:
        """Column -> name of the metric behind it."""
        parts = {"identity": self.identity, "image": self.image, "text": self.text, "style": self.style}
        return {column: None if metric is None else metric.name for column, metric in parts.items()}


def cosines(vectors: Numbers, references: Numbers) -> Numbers:
    """Mean cosine of each unit vector (n, d) to the references (m, d) of one concept, (n,)."""
    return (vectors @ references.T).mean(1)


@dataclass(frozen=True)
class Calibration:
    """How well an embedder tells held-out identities apart, and where the line is drawn.

    At `threshold` as many own pictures are refused as strange ones are taken: `equal_error`. `accuracy` is the mean of
    the shares of own pictures taken and of strange ones refused there.
    """

    threshold: float
    equal_error: float
    accuracy: float
    own: float
    other: float
    identities: int

    def as_dict(self) -> dict[str, float]:
        """The JSON form, rounded."""
        return {
            "threshold": round(self.threshold, 4),
            "equal_error": round(self.equal_error, 4),
            "accuracy": round(self.accuracy, 4),
            "own_cosine": round(self.own, 4),
            "other_cosine": round(self.other, 4),
            "identities": self.identities,
        }


def calibrate(references: Sequence[Numbers], probes: Sequence[Numbers]) -> Calibration:
    """From unit vectors of held-out identities: references[i] (m, d) and other pictures probes[i] (k, d) of the same.

    A probe is compared as generated pictures are: by its mean cosine to all references of an identity. Raises
    ValueError for fewer than two identities.
    """
    if len(references) < 2 or len(references) != len(probes):
        raise ValueError("a threshold needs at least two identities, each with references and probes")
    own = np.concatenate([cosines(probe, known) for probe, known in zip(probes, references, strict=True)])
    other = np.concatenate(
        [cosines(probe, known) for i, probe in enumerate(probes) for j, known in enumerate(references) if i != j]
    )
    return _at_equal_error(own, other, len(references))


def _at_equal_error(own: Numbers, other: Numbers, identities: int) -> Calibration:
    """The cut, half-way between neighbouring cosines, where both error rates are nearest to each other."""
    values = np.unique(np.concatenate([own, other]))
    cuts = (values[:-1] + values[1:]) / 2 if len(values) > 1 else values
    missed = np.searchsorted(np.sort(own), cuts) / len(own)
    taken = 1 - np.searchsorted(np.sort(other), cuts) / len(other)
    # among equally good cuts the middle one: a gap between both groups is split in half
    best = np.flatnonzero(np.abs(missed - taken) == np.abs(missed - taken).min())
    k = int(best[len(best) // 2])
    error = float(missed[k] + taken[k]) / 2
    return Calibration(float(cuts[k]), error, 1 - error, float(own.mean()), float(other.mean()), identities)


def calibrated(metrics: Metrics, folder: Path) -> tuple[Metrics, Calibration]:
    """With the threshold that tells the identities of `folder` apart: one sub-folder each, half of it references.

    Raises InputError for fewer than two identities with two pictures or more.
    """
    if metrics.identity is None:
        raise InputError("bad-option", "There is no identity embedder whose threshold could be fixed.", key="held_out")
    people = [pictures_in(path) for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
    people = [paths for paths in people if len(paths) > 1]
    if len(people) < 2:
        message = "The held-out identities need at least two sub-folders with two pictures or more."
        raise InputError("bad-option", message, file=str(folder), key="held_out")
    vectors = [metrics.identity.vectors(read_pictures(paths)) for paths in people]
    halves = [(len(rows) + 1) // 2 for rows in vectors]
    calibration = calibrate(
        [rows[:half] for rows, half in zip(vectors, halves, strict=True)],
        [rows[half:] for rows, half in zip(vectors, halves, strict=True)],
    )
    thresholds = {**metrics.thresholds, metrics.identity.name: calibration.threshold}
    return replace(metrics, thresholds=thresholds), calibration
