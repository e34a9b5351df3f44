"""One layer of a merge: what a method sees of it and what it hands back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lib_loraclr.core.deltas import Delta, LayerShape
from lib_loraclr.core.moments import SecondMoment


@dataclass(frozen=True)
class Statistics:
    """Second moments of one layer's inputs.

    `concepts[i]`: inputs while concept i's prompts run; `neutral`: inputs of class-word and empty prompts (target: no
    change); `held_out[i]`: moments of prompts the solver does not see, for the fidelity report.
    """

    concepts: Sequence[SecondMoment]
    neutral: SecondMoment | None = None
    held_out: Sequence[SecondMoment] | None = None


@dataclass(frozen=True)
class LayerProblem:
    """One layer of a merge. `deltas[i]` has the user's weight folded in; None where concept i leaves it alone."""

    name: str
    shape: LayerShape
    deltas: Sequence[Delta | None]
    statistics: Statistics | None = None


@dataclass(frozen=True)
class LayerSolution:
    """A merged layer and what the solver has to say about it (loss history, active hinges, conditioning ...)."""

    delta: Delta
    info: dict[str, Any] = field(default_factory=dict)
