"""The LoRAs of a job: read, checked against each other and the checkpoint, and how much they interfere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_loraclr.capture.concept import Concept, class_word_in, guess_kind
from lib_loraclr.core.deltas import Delta, LayerShape
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.linalg import exact_float32
from lib_loraclr.core.overlap import overlap_matrix
from lib_loraclr.formats import FileWarning, LoraFile
from lib_loraclr.formats.weighted import (
    BaseWeight,
    check_families,
    family_of,
    host_shapes,
    needs_base,
    read_files,
    shape_without_model,
    unique_name,
    weighted_deltas,
)
from lib_loraclr.merging.options import LoraChoice
from lib_loraclr.merging.outcome import finite
from lib_loraclr.model import DiffusionHost, Phase, Progress


@dataclass(frozen=True)
class MergeInput:
    """One chosen LoRA: what the user says of it, what its file holds, and the concept that a merge makes of both.

    The concept's deltas have the weights folded in, and no layer of weight 0.
    """

    choice: LoraChoice
    lora: LoraFile
    concept: Concept

    @property
    def file(self) -> str:
        """The path as the user gave it, for messages."""
        return str(self.choice.file)


def read_inputs(choices: Sequence[LoraChoice]) -> list[LoraFile]:
    """Every chosen file, read and checked.

    Raises InputError file-not-found, same-file, hash-mismatch, family-mismatch, and all that is wrong with one file.
    """
    for choice in choices:
        if not choice.file.is_file():
            raise InputError("file-not-found", "The LoRA file does not exist.", file=str(choice.file), key="lora")
    for index, choice in enumerate(choices):
        for other in choices[:index]:
            if choice.file.samefile(other.file):
                raise InputError("same-file", "The same LoRA file was chosen twice.", file=str(choice.file), key="lora")
    loras = read_files([choice.file for choice in choices])
    for index, (choice, lora) in enumerate(zip(choices, loras, strict=True)):
        file = str(choice.file)
        if choice.sha256 and choice.sha256.lower() != lora.sha256.lower():
            raise InputError(
                "hash-mismatch", "This is not the file that the recipe was made with.", file=file, key="sha256"
            )
        twin = next((other for other in loras[:index] if other.sha256 == lora.sha256), None)
        if twin is not None:
            raise InputError("same-file", f"The file is a copy of '{twin.path}', also chosen.", file=file, key="lora")
    check_families(loras)
    return loras


def make_inputs(
    choices: Sequence[LoraChoice],
    loras: Sequence[LoraFile],
    base: BaseWeight | None,
    layers: Mapping[str, LayerShape] | None,
) -> tuple[list[MergeInput], list[FileWarning]]:
    """Inputs with unique names, and what the user should know. `layers` are the checkpoint's, None without one."""
    inputs: list[MergeInput] = []
    warnings: list[FileWarning] = [warning for lora in loras for warning in lora.warnings]
    for choice, lora in zip(choices, loras, strict=True):
        deltas, notes = weighted_deltas(lora, choice.weight, choice.text_weight, base, layers)
        warnings += notes
        inputs.append(MergeInput(choice, lora, _concept(choice, lora, deltas, [i.concept.name for i in inputs])))
        if not deltas:
            warnings.append(
                FileWarning("no-effect", "With these weights the LoRA contributes nothing.", str(choice.file))
            )
    if not any(item.concept.deltas for item in inputs):
        raise InputError("empty-selection", "Every LoRA has weight 0; there is nothing to merge.", key="lora")
    check_shapes(inputs)
    return inputs, warnings


def _concept(choice: LoraChoice, lora: LoraFile, deltas: Mapping[str, Delta], taken: Sequence[str]) -> Concept:
    """What the user does not say comes from the file, or is guessed, here and nowhere else."""
    trigger = choice.trigger if choice.trigger is not None else (lora.triggers[0] if lora.triggers else "")
    class_word = choice.class_word if choice.class_word is not None else class_word_in(trigger)
    kind = choice.kind or guess_kind(trigger, class_word)
    name = unique_name(choice.file.stem, taken)
    return Concept(name, trigger.strip(), class_word.strip(), deltas, kind, choice.prompts)


def check_shapes(inputs: Sequence[MergeInput]) -> None:
    """Raise InputError when two files disagree about the shape of a layer (only possible without a checkpoint)."""
    seen: dict[str, tuple[tuple[int, int], MergeInput]] = {}
    for item in inputs:
        for name, delta in item.concept.deltas.items():
            shape, first = seen.setdefault(name, (delta.shape, item))
            if delta.shape != shape:
                raise InputError(
                    "shape-mismatch",
                    f"The layer {name} is {delta.shape[0]} x {delta.shape[1]} here and {shape[0]} x {shape[1]} in "
                    f"'{first.choice.file.name}'; the LoRAs were made for different models.",
                    file=item.file,
                    key=(item.lora.layers[name].keys or (name,))[0],
                )


def require_triggers(inputs: Sequence[MergeInput]) -> None:
    """Before a capture: a trigger that was neither given nor in the metadata is an InputError."""
    for item in inputs:
        if not item.concept.trigger and item.choice.trigger is None:
            raise InputError(
                "no-trigger",
                "The file does not say what calls its concept in a prompt; give a trigger ('' for a style without).",
                file=item.file,
                key="trigger",
            )


def shapes_without_model(inputs: Sequence[MergeInput]) -> dict[str, LayerShape]:
    """Of every layer that an input changes, as far as the files and their family tell."""
    family = family_of([item.lora for item in inputs], None)
    shapes: dict[str, LayerShape] = {}
    for item in inputs:
        for name, delta in item.concept.deltas.items():
            if name not in shapes:
                updates = [other.lora.layers[name] for other in inputs if name in other.lora.layers]
                shapes[name] = shape_without_model(name, delta, updates, family)
    return shapes


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
