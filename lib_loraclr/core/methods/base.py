"""The interface of a merge method: what it sees of one layer and what it says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lib_loraclr.core.problem import LayerProblem, LayerSolution, Statistics

__all__ = ["LayerProblem", "LayerSolution", "MergeMethod", "Option", "Statistics"]


@dataclass(frozen=True)
class Option:
    """One option of a method, enough to draw a control, parse a command line and write a schema."""

    name: str
    default: float | int | str | bool
    summary: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


class MergeMethod(Protocol):
    """A merge method describes itself, so that tab, API, command line and documentation need no second list."""

    name: str
    summary: str
    reference: str
    needs_statistics: bool
    options: tuple[Option, ...]

    def settle(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options that take effect, where one of them decides over others (complete and validated before)."""
        return options

    def solve(self, problem: LayerProblem, options: Mapping[str, Any], *, seed: int = 0) -> LayerSolution:
        """Merge one layer; options are already complete and validated."""
        ...
