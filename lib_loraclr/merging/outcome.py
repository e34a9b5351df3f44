"""What a merge hands back: the answer that command line, API and tab show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_loraclr.core.fidelity import ConceptFidelity
from lib_loraclr.formats import FileWarning


@dataclass(frozen=True)
class ConceptOutcome:
    """How one concept fared, on prompts the solver did not see; None where the method ran without the model.

    `kept`: share of the LoRA's own response that the merge reproduces (1: all, 0: none, below 0: worse than nothing),
    in the model's predictions where the merge was distilled, else in the features of its layers.
    `nearest_other`: name of the wrong LoRA that the merge resembles most on this concept's features.
    `drift`: what the merge changes on neutral prompts, in units of what the LoRAs change on their own.
    """

    name: str
    kept: float | None = None
    nearest_other: str | None = None
    drift: float | None = None

    @classmethod
    def of(cls, fidelity: ConceptFidelity, names: Sequence[str]) -> ConceptOutcome:
        """From the measurement; `names` are those of all measured concepts."""
        other = fidelity.nearest_other
        nearest = None if other is None else names[other]
        return cls(names[fidelity.concept], fidelity.kept, nearest, fidelity.drift)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form; numbers rounded to six digits, non-finite ones null."""
        return {
            "name": self.name,
            "kept": finite(self.kept),
            "nearest_other": self.nearest_other,
            "drift": finite(self.drift),
        }


@dataclass(frozen=True)
class MergeOutcome:
    """A finished merge. `seconds` has at least capture, solve and total."""

    out: Path
    method: str
    sha256: str
    bytes: int
    seconds: Mapping[str, float]
    peak_memory_mib: float
    concepts: Sequence[ConceptOutcome]
    warnings: Sequence[FileWarning] = ()
    report: Sequence[Path] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints as the last line."""
        return {
            "ok": True,
            "out": str(self.out),
            "method": self.method,
            "seconds": {name: round(self.seconds.get(name, 0.0), 3) for name in ("capture", "solve", "total")},
            "peak_memory_mib": round(self.peak_memory_mib, 1),
            "concepts": [concept.as_dict() for concept in self.concepts],
            "warnings": [warning.as_dict() for warning in self.warnings],
        }


def finite(value: float | None) -> float | None:
    """A number that JSON can hold, or None."""
    return None if value is None or not math.isfinite(value) else round(float(value), 6)
