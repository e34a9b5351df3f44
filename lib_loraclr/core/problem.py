"""One layer of a merge: what a method sees of it and what it hands back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from lib_loraclr.core.deltas import Delta, LayerShape
from lib_loraclr.core.moments import SecondMoment


@dataclass(frozen=True)
class Statistics:
    """Second moments of one layer's inputs.

    `concepts[i]`: inputs while concept i's prompts run; `neutral`: inputs of class-word and empty prompts (target: no
    change); `cross[(i, j)]`: X_i^T X_j / rows for captures in lock step, only where paper negatives are wanted;
    `held_out[i]`: moments of prompts the solver does not see, for the fidelity report.
    """

    concepts: Sequence[SecondMoment]
    neutral: SecondMoment | None = None
    cross: Mapping[tuple[int, int], Tensor] | None = None
    held_out: Sequence[SecondMoment] | None = None


class OutputMetric(Protocol):
    """What an error e of the layer's output costs: e^T A e, with another A for every concept's inputs.

    The matrices are symmetric, positive semidefinite, (out, out), float64 and of mean diagonal about 1, so that they
    can be compared with the plain |e|^2; each is made when it is asked for.
    """

    def concept(self, index: int, device: torch.device) -> Tensor:
        """A_i, on the inputs of concept i."""
        ...

    def neutral(self, device: torch.device) -> Tensor:
        """A_0, on neutral inputs."""
        ...


@dataclass(frozen=True)
class LayerProblem:
    """One layer of a merge. `deltas[i]` has the user's weight folded in; None where concept i leaves it alone.

    `metric` is used by methods that are asked to; None is the plain one, `plain_because` says why where another one
    could have been expected.
    """

    name: str
    shape: LayerShape
    deltas: Sequence[Delta | None]
    statistics: Statistics | None = None
    metric: OutputMetric | None = None
    plain_because: str = ""


@dataclass(frozen=True)
class LayerSolution:
    """A merged layer and what the solver has to say about it (loss history, active hinges, conditioning ...)."""

    delta: Delta
    info: dict[str, Any] = field(default_factory=dict)
