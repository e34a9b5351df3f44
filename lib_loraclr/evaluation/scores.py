"""From pictures to the numbers of a table: per concept, per merge, and the drift of what should not change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib_loraclr.evaluation.folder import Pictures
from lib_loraclr.evaluation.metrics import Metrics, Numbers, cosines

DIGITS = 4
COLUMNS = ("text", "image", "identity_cosine", "identity_rate", "worst_identity_cosine", "drift")


@dataclass(frozen=True)
class References:
    """The vectors of a concept's reference pictures, (m, d) each; None where there is no such metric."""

    kind: str
    identity: Numbers | None
    image: Numbers | None

    @classmethod
    def of(cls, kind: str, pictures: Pictures, metrics: Metrics) -> References:
        """Embed the reference pictures once."""
        who = metrics.for_kind(kind)
        return cls(
            kind,
            None if who is None else who.vectors(pictures),
            None if metrics.image is None else metrics.image.vectors(pictures),
        )


@dataclass(frozen=True)
class ConceptScore:
    """One concept's pictures in numbers; None where no metric knows.

    `identity`: mean cosine to the references of every single picture. `nearest`: share of the pictures that are nearer
    to this concept than to any rival.
    """

    name: str
    text: float | None
    image: float | None
    identity: tuple[float, ...]
    threshold: float | None
    nearest: float | None = None

    @property
    def identity_cosine(self) -> float | None:
        """Mean over the pictures."""
        return float(np.mean(self.identity)) if self.identity else None

    @property
    def identity_rate(self) -> float | None:
        """Share of the pictures that count as showing the concept."""
        if self.threshold is None or not self.identity:
            return None
        return float(np.mean(np.asarray(self.identity) >= self.threshold))

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, rounded."""
        return {
            "name": self.name,
            "text": rounded(self.text),
            "image": rounded(self.image),
            "identity_cosine": rounded(self.identity_cosine),
            "identity_rate": rounded(self.identity_rate),
            "nearest": rounded(self.nearest),
        }


def score(
    name: str,
    pictures: Pictures,
    prompts: Sequence[str],
    references: References,
    metrics: Metrics,
    rivals: Sequence[References] = (),
) -> ConceptScore:
    """Measure the pictures of one concept; `rivals` are the other concepts of the same evaluation."""
    text = image = nearest = threshold = None
    identity: tuple[float, ...] = ()
    if metrics.text is not None:
        alignments = metrics.text.score(pictures, prompts)
        text = None if np.isnan(alignments).all() else float(np.nanmean(alignments))
    if metrics.image is not None and references.image is not None:
        image = float(cosines(metrics.image.vectors(pictures), references.image).mean())
    who = metrics.for_kind(references.kind)
    if who is not None and references.identity is not None:
        vectors = who.vectors(pictures)
        to_itself = cosines(vectors, references.identity)
        identity, threshold = tuple(float(value) for value in to_itself), metrics.thresholds.get(who.name)
        alike = [r.identity for r in rivals if r.identity is not None and (r.kind == "style") == _styled(references)]
        if alike:
            to_rivals = np.stack([cosines(vectors, rival) for rival in alike])
            nearest = float((to_itself > to_rivals.max(0)).mean())
    return ConceptScore(name, text, image, identity, threshold, nearest)


def _styled(references: References) -> bool:
    return references.kind == "style"


def drift(base: Pictures, changed: Pictures, seeds: int) -> float:
    """How far neutral pictures moved: 0 not at all, 1 as far as another seed of the same prompt is away.

    Pictures (prompts * seeds, h, w, 3): all prompts with the first seed, all with the second … At least two seeds give
    the unit. Root mean square over pixels, mean over pictures.
    """
    moved = _distance(base, changed).mean()
    rows = base.reshape(seeds, -1, *base.shape[1:])
    unit = np.mean([_distance(rows[k], rows[(k + 1) % seeds]).mean() for k in range(seeds)])
    return float(moved / unit) if unit > 0 else float("nan")


def _distance(a: Pictures, b: Pictures) -> Numbers:
    """(n,) root mean square difference of two rows of pictures, 0 to 1."""
    difference = (a.astype(np.float64) - b.astype(np.float64)) / 255
    return np.sqrt((difference**2).mean(axis=(1, 2, 3)))


def make_row(
    method: str,
    options: Mapping[str, Any],
    n: int,
    draw: int,
    scores: Sequence[Mapping[str, Any]],
    drifted: float | None,
) -> dict[str, Any]:
    """One line of a table: means over concepts (`ConceptScore.as_dict`), and the concept that fares worst."""
    identities = [s["identity_cosine"] for s in scores if s["identity_cosine"] is not None]
    return {
        "method": method,
        "options": dict(options),
        "n": n,
        "draw": draw,
        "text": _mean([s["text"] for s in scores]),
        "image": _mean([s["image"] for s in scores]),
        "identity_cosine": _mean(identities),
        "identity_rate": _mean([s["identity_rate"] for s in scores]),
        "worst_identity_cosine": rounded(min(identities, default=None)),
        "drift": rounded(drifted),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return rounded(float(np.mean(known))) if known else None


def rounded(value: float | None) -> float | None:
    """A number as tables store it; None for what is not a number."""
    return None if value is None or not np.isfinite(value) else round(float(value), DIGITS)
