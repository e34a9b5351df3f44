"""The LoRAs of a job: read, checked against each other and against the checkpoint, weights folded into their deltas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lib_loraclr.capture import CaptureConcept
from lib_loraclr.core.deltas import Delta, LayerShape
from lib_loraclr.core.errors import InputError
from lib_loraclr.formats import FileWarning, LoraFile
from lib_loraclr.formats.weighted import BaseWeight, check_families, read_files, unique_name, weighted_deltas
from lib_loraclr.merging.options import LoraChoice


@dataclass(frozen=True)
class Concept:
    """One chosen LoRA: `name` is unique in the job; `deltas` have the weights folded in and no layer of weight 0."""

    name: str
    choice: LoraChoice
    lora: LoraFile
    trigger: str
    class_word: str
    deltas: Mapping[str, Delta]

    @property
    def file(self) -> str:
        """The path as the user gave it, for messages."""
        return str(self.choice.file)

    @property
    def asked(self) -> CaptureConcept:
        """What a model is shown of it."""
        return CaptureConcept(self.name, self.trigger, self.class_word, self.deltas, self.choice.prompts)


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


def make_concepts(
    choices: Sequence[LoraChoice],
    loras: Sequence[LoraFile],
    base: BaseWeight | None,
    layers: Mapping[str, LayerShape] | None,
) -> tuple[list[Concept], list[FileWarning]]:
    """Concepts with unique names, and what the user should know. `layers` are the checkpoint's, None without one."""
    concepts: list[Concept] = []
    warnings: list[FileWarning] = [warning for lora in loras for warning in lora.warnings]
    for choice, lora in zip(choices, loras, strict=True):
        deltas, notes = weighted_deltas(lora, choice.weight, choice.text_weight, base, layers)
        warnings += notes
        name = unique_name(choice.file.stem, [concept.name for concept in concepts])
        trigger = choice.trigger if choice.trigger is not None else (lora.triggers[0] if lora.triggers else "")
        word = choice.class_word if choice.class_word is not None else class_word_in(trigger)
        concepts.append(Concept(name, choice, lora, trigger.strip(), word.strip(), deltas))
        if not deltas:
            warnings.append(
                FileWarning("no-effect", "With these weights the LoRA contributes nothing.", str(choice.file))
            )
    if not any(concept.deltas for concept in concepts):
        raise InputError("empty-selection", "Every LoRA has weight 0; there is nothing to merge.", key="lora")
    check_shapes(concepts)
    return concepts, warnings


# fmt: off
CLASS_WORDS = frozenset((
    "woman", "style", "elf", "man", "girl", "boy", "person", "character", "lady", "guy", "child", "baby", "dog", "cat",
    "horse", "bird", "animal", "creature", "monster", "robot", "toy", "doll", "car", "vehicle", "house",
    "building", "chair", "lamp", "bag", "backpack", "shoe", "hat", "dress", "shirt", "sword", "vase", "cup",
    "bottle", "plant", "flower",
))
# fmt: on


def class_word_in(trigger: str) -> str:
    """The class word that a trigger such as "alice woman" brings along, or nothing."""
    words = trigger.lower().replace(",", " ").split()
    return words[-1] if len(words) > 1 and words[-1] in CLASS_WORDS else ""


def check_shapes(concepts: Sequence[Concept]) -> None:
    """Raise InputError when two files disagree about the shape of a layer (only possible without a checkpoint)."""
    seen: dict[str, tuple[tuple[int, int], Concept]] = {}
    for concept in concepts:
        for name, delta in concept.deltas.items():
            shape, first = seen.setdefault(name, (delta.shape, concept))
            if delta.shape != shape:
                raise InputError(
                    "shape-mismatch",
                    f"The layer {name} is {delta.shape[0]} x {delta.shape[1]} here and {shape[0]} x {shape[1]} in "
                    f"'{first.choice.file.name}'; the LoRAs were made for different models.",
                    file=concept.file,
                    key=(concept.lora.layers[name].keys or (name,))[0],
                )


def require_triggers(concepts: Sequence[Concept]) -> None:
    """Before a capture: a trigger that was neither given nor in the metadata is an InputError."""
    for concept in concepts:
        if not concept.trigger and concept.choice.trigger is None:
            raise InputError(
                "no-trigger",
                "The file does not say what calls its concept in a prompt; give a trigger ('' for a style without).",
                file=concept.file,
                key="trigger",
            )
