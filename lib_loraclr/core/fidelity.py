"""What a merge keeps of each concept, from second moments alone: per layer, and summed over layers.

Every number is a ratio of response energies |dW X|^2 per row, and energies add up, so one class serves a layer and a
whole merge: a layer counts by how strongly the concept's own LoRA acts in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from lib_loraclr.core.deltas import Delta, inner
from lib_loraclr.core.fusion import energy, grams
from lib_loraclr.core.moments import SecondMoment
from lib_loraclr.core.problem import LayerProblem


@dataclass(frozen=True)
class ConceptFidelity:
    """Energies of concept i: `energy` |dW_i X_i|^2; `distances[j]` |(dW - dW_j) X_i|^2, a LoRA that leaves the layer
    alone standing for no change; `hits`: the part of `energy` in layers where dW is nearest to dW_i among all;
    `neutral` |dW X_0|^2 with `reference`, the mean energy of the concepts, None without neutral inputs.
    """

    concept: int
    energy: float
    distances: tuple[float, ...]
    hits: float
    neutral: float | None
    reference: float
    held_out: bool

    @property
    def kept(self) -> float | None:
        """1 - |(dW - dW_i) X_i|^2 / |dW_i X_i|^2: 1 perfect, 0 as if nothing were there; None if it never acts."""
        return 1.0 - self.distances[self.concept] / self.energy if self.energy > 0 else None

    @property
    def nearest_other(self) -> int | None:
        """The wrong concept whose LoRA comes nearest to what the merge does on this concept's inputs."""
        others = [j for j in range(len(self.distances)) if j != self.concept]
        return min(others, key=lambda j: self.distances[j]) if others else None

    @property
    def separation(self) -> float | None:
        """How much farther the nearest wrong concept is than the own one, in units of the own response.

        Negative where the merge acts more like the wrong one; about sqrt(2) for a perfect merge of unrelated LoRAs.
        """
        other = self.nearest_other
        if other is None or self.energy <= 0:
            return None
        return (sqrt(self.distances[other]) - sqrt(self.distances[self.concept])) / sqrt(self.energy)

    @property
    def accuracy(self) -> float | None:
        """Share of the own response's energy that sits in layers where the merge is nearest to the own LoRA."""
        return self.hits / self.energy if self.energy > 0 else None

    @property
    def drift(self) -> float | None:
        """|dW X_0| on neutral inputs over the root mean square response of the concepts; the same for each of them."""
        return sqrt(self.neutral / self.reference) if self.neutral is not None and self.reference > 0 else None

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """The JSON form, concepts by name."""
        other = self.nearest_other
        return {
            "name": names[self.concept],
            "kept": _rounded(self.kept),
            "nearest_other": None if other is None else names[other],
            "separation": _rounded(self.separation),
            "accuracy": _rounded(self.accuracy),
            "drift": _rounded(self.drift),
            "held_out": self.held_out,
        }


def fidelity(problem: LayerProblem, merged: Delta) -> list[ConceptFidelity] | None:
    """Fidelity of a merged layer, on held-out inputs where there are any; None without statistics."""
    statistics = problem.statistics
    if statistics is None:
        return None
    unseen = statistics.held_out or ()
    held_out = len(unseen) == len(statistics.concepts) and all(moment.rows > 0 for moment in unseen)
    moments = unseen if held_out else statistics.concepts
    table, energies = _distances(problem.deltas, merged, moments)
    reference = sum(energies) / max(len(energies), 1)
    neutral = None
    if statistics.neutral is not None:
        neutral = float(energy(merged, next(grams([statistics.neutral], merged.device))))
    return [
        ConceptFidelity(i, energy, tuple(row), energy * (row[i] <= min(row)), neutral, reference, held_out)
        for i, (row, energy) in enumerate(zip(table, energies, strict=True))
    ]


def summarise(layers: Iterable[Sequence[ConceptFidelity] | None]) -> list[ConceptFidelity]:
    """Fidelity per concept over all layers that have it: energies are summed, so ratios weigh layers by energy."""
    known = [layer for layer in layers if layer]
    return [_total([layer[i] for layer in known]) for i in range(len(known[0]))] if known else []


def kept_on(deltas: Sequence[Delta | None], merged: Delta, moments: Sequence[SecondMoment]) -> Tensor:
    """kept (N,) float64 on these moments; NaN where a LoRA does nothing."""
    kept: list[float] = []
    for delta, gram in zip(deltas, grams(moments, merged.device), strict=True):
        response = float(energy(delta, gram))
        if delta is None or response <= 0:
            kept.append(float("nan"))
            continue
        image = merged.after(gram)
        lost = float(inner(image, merged) - 2 * inner(image, delta)) + response
        kept.append(1.0 - max(0.0, lost) / response)
    return torch.tensor(kept, dtype=torch.float64)


def _distances(
    deltas: Sequence[Delta | None], merged: Delta, moments: Sequence[SecondMoment]
) -> tuple[list[list[float]], list[float]]:
    """|(dW - dW_j) X_i|^2 per row, [i][j], and |dW_i X_i|^2, [i]."""
    rows: list[Tensor] = []
    energies: list[Tensor] = []
    for i, gram in enumerate(grams(moments, merged.device)):
        image = merged.after(gram)
        responses = [energy(delta, gram) for delta in deltas]
        both = [gram.new_zeros(()) if delta is None else inner(image, delta) for delta in deltas]
        rows.append(inner(image, merged) - 2 * torch.stack(both) + torch.stack(responses))
        energies.append(responses[i])
    return torch.stack(rows).clamp(min=0).cpu().tolist(), torch.stack(energies).cpu().tolist()


def _total(parts: Sequence[ConceptFidelity]) -> ConceptFidelity:
    neutral = [part.neutral for part in parts if part.neutral is not None]
    return ConceptFidelity(
        concept=parts[0].concept,
        energy=sum(part.energy for part in parts),
        distances=tuple(map(sum, zip(*(part.distances for part in parts), strict=True))),
        hits=sum(part.hits for part in parts),
        neutral=sum(neutral) if neutral else None,
        reference=sum(part.reference for part in parts if part.neutral is not None or not neutral),
        held_out=all(part.held_out for part in parts),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
