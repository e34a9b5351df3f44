"""The LoRAs of a job: read, checked against each other and against the checkpoint, weights folded into their deltas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lib_loraclr.capture import CaptureConcept
from lib_loraclr.core.deltas import Delta, LayerShape
from lib_loraclr.core.errors import InputError
from lib_loraclr.formats import FileWarning, LoraFile, read_lora
from lib_loraclr.hosts.ports import DiffusionHost
from lib_loraclr.jobs.options import LoraChoice

BaseWeight = Callable[[str], Tensor]


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


def read_files(files: Sequence[Path], layers: Iterable[str] | None = None) -> list[LoraFile]:
    """The files' contents; `layers` are the checkpoint's layer names where they are known."""
    names = None if layers is None else list(layers)
    return [read_lora(file, layers=names) for file in files]


def check_families(loras: Sequence[LoraFile], base: str | None = None) -> None:
    """Raise InputError when the files were made for different base models, or for another than `base`."""
    known = [lora for lora in loras if lora.family != "unknown"]
    wanted, owner = (
        (base, "the checkpoint") if base else (known[0].family, f"'{known[0].path.name}'") if known else ("", "")
    )
    for lora in known:
        if lora.family != wanted:
            raise InputError(
                "family-mismatch",
                f"The LoRA is for {_family(lora.family)}, but {owner} is {_family(wanted)}; they cannot work together.",
                file=str(lora.path),
                key="lora",
            )


def _family(name: str) -> str:
    return {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "SDXL"}.get(name, name)


def family_of(loras: Sequence[LoraFile], base: str | None) -> str:
    """The family of the result: the checkpoint's, else what the files agree on."""
    return base or next((lora.family for lora in loras if lora.family != "unknown"), "unknown")


def needs_base(loras: Sequence[LoraFile]) -> bool:
    """Whether any layer of any file is only defined together with the base weight (DoRA, OFT, ...)."""
    return any(update.needs_base for lora in loras for update in lora.layers.values())


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


def unique_name(stem: str, taken: Sequence[str]) -> str:
    """`stem`, or `stem (2)` and so on when it is taken."""
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem} ({count})"
    return name


def weighted_deltas(
    lora: LoraFile, weight: float, te_weight: float, base: BaseWeight | None, layers: Mapping[str, LayerShape] | None
) -> tuple[dict[str, Delta], list[FileWarning]]:
    """The file's true deltas times their weight, float32 on the CPU, without layers of weight 0.

    Raises InputError for a delta that does not fit its layer of the checkpoint, for a file none of whose layers the
    checkpoint has, and for a type that needs base weights where there are none.
    """
    deltas: dict[str, Delta] = {}
    missing: list[str] = []
    for name, update in lora.layers.items():
        key = update.keys[0] if update.keys else name
        if layers is not None and name not in layers:
            missing.append(key)
            continue
        if layers is not None:
            update.check_fits(layers[name])
        factor = te_weight if name.startswith("text_encoder") else weight
        if update.needs_base and base is None:
            raise InputError(
                "needs-checkpoint",
                f"The type {update.kind} is only defined together with a base model; give a checkpoint.",
                file=str(lora.path),
                key=key,
            )
        delta = update.delta(base(name) if update.needs_base and base is not None else None)
        if layers is not None:
            _check_fit(lora, key, delta, layers[name])
        if factor != 0.0:
            exact = delta.to("cpu", torch.float32)
            deltas[name] = exact if factor == 1.0 else exact.scaled(factor)
    return deltas, _missing_layers(lora, missing)


def _check_fit(lora: LoraFile, key: str, delta: Delta, shape: LayerShape) -> None:
    if delta.shape != (shape.out_features, shape.in_features):
        raise InputError(
            "shape-mismatch",
            f"The LoRA's layer is {delta.shape[0]} x {delta.shape[1]}, the checkpoint's {shape.out_features} x "
            f"{shape.in_features}; it was made for another model.",
            file=str(lora.path),
            key=key,
        )


def _missing_layers(lora: LoraFile, missing: Sequence[str]) -> list[FileWarning]:
    if not missing:
        return []
    if len(missing) == len(lora.layers):
        raise InputError(
            "no-layer-fits",
            "The checkpoint has none of the LoRA's layers; it was made for another model.",
            file=str(lora.path),
            key=missing[0],
        )
    message = f"The checkpoint does not have {len(missing)} of the LoRA's {len(lora.layers)} layers; they are left out."
    return [FileWarning("unmatched-layers", message, str(lora.path), missing[0])]


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


def host_shapes(host: DiffusionHost) -> dict[str, LayerShape]:
    """Shape of every layer of a loaded model that can be hooked."""
    shapes: dict[str, LayerShape] = {}
    for name, module in host.layers().items():
        weight = module.weight
        if isinstance(weight, Tensor):
            shapes[name] = LayerShape.of(weight.shape)
    return shapes


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


def find_lora(name: str, folder: Path | None) -> Path:
    """A LoRA by path, or by name (with or without .safetensors) in `folder` and below. Raises InputError."""
    direct = Path(name).expanduser()
    if direct.is_file():
        return direct
    if folder is not None:
        beside = folder / name
        options = [beside, beside.with_name(beside.name + ".safetensors")]
        options += sorted(path for path in folder.rglob("*.safetensors") if path.stem == name)
        for path in options:
            if path.is_file():
                return path
    place = f" in '{folder}'" if folder is not None else ""
    raise InputError("file-not-found", f"There is no LoRA '{name}'{place}.", file=name, key="lora")
