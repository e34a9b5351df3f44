"""How much LoRAs interfere with each other, before any merge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_loraclr.capture.concept import Concept
from lib_loraclr.core.linalg import exact_float32
from lib_loraclr.core.overlap import overlap_matrix
from lib_loraclr.formats.lora_file import FileWarning
from lib_loraclr.formats.weighted import host_shapes, needs_base
from lib_loraclr.merging.inputs import make_inputs, read_inputs
from lib_loraclr.merging.options import LoraChoice
from lib_loraclr.merging.outcome import finite
from lib_loraclr.model import DiffusionHost, Phase, Progress

KINDS = ("cosine", "inputs", "outputs")


@dataclass(frozen=True)
class Overlap:
    """`matrix[i][j]`: 0 for LoRAs that change unrelated directions, 1 for the same ones; the diagonal is 1."""

    names: list[str]
    matrix: list[list[float]]
    warnings: Sequence[FileWarning] = ()

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        matrix = [[finite(value) for value in row] for row in self.matrix]
        return {"names": self.names, "matrix": matrix, "warnings": [warning.as_dict() for warning in self.warnings]}


def overlap(
    files: Sequence[Path],
    *,
    kind: str = "cosine",
    open_host: Callable[[], DiffusionHost] | None = None,
    progress: Progress,
) -> Overlap:
    """Compare every pair of files. `open_host` is used only for types that are defined by the base weight."""
    choices = [LoraChoice(file) for file in files]
    progress.phase(Phase.READ, 1)
    loras = read_inputs(choices)
    progress.step()
    with ExitStack() as stack:
        host = open_host() if open_host is not None and needs_base(loras) else None
        if host is not None:
            stack.enter_context(host.ready())
        inputs, warnings = make_inputs(
            choices, loras, host.base_weight if host else None, host_shapes(host) if host else None
        )
    concepts = [item.concept for item in inputs]
    return Overlap([concept.name for concept in concepts], overlap_of(concepts, kind), warnings)


def overlap_of(concepts: Sequence[Concept], kind: str = "cosine") -> list[list[float]]:
    """The N x N interference of concepts that are loaded already."""
    with exact_float32():
        return overlap_matrix([concept.deltas for concept in concepts], kind).tolist()
