"""The interface of a merge method: what it sees of one layer and what it says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from lib_loraclr.core.problem import LayerProblem, LayerSolution, Statistics
from lib_loraclr.options import Field, Retired

__all__ = ["Field", "LayerProblem", "LayerSolution", "MergeMethod", "Retired", "Statistics"]


class MergeMethod(Protocol):
    """A merge method describes itself, so that tab, API, command line and documentation need no second list.

    `title` is what lists of methods show, in the order of `place`; `label` is the short name in tables. `retired` are
    options of older versions.
    """

    name: str
    title: str
    label: str
    place: int
    summary: str
    reference: str
    needs_statistics: bool
    options: tuple[Field, ...]
    retired: tuple[Retired, ...] = ()

    def settle(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options that take effect, where one of them decides over others (complete and validated before)."""
        return options

    def solve(self, problem: LayerProblem, options: Mapping[str, Any], *, seed: int = 0) -> LayerSolution:
        """Merge one layer; options are already complete and validated."""
        ...
