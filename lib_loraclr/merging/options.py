"""The options of a merge: one parse and validate point for command line, recipe file, API and tab.

A recipe is a JSON object with the names of `MergeOptions` and `version`. An entry of `lora` is either the command
line's text `FILE[:WEIGHT[:TE_WEIGHT]]` or an object with the names of `LoraChoice`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_loraclr.capture.concept import KINDS
from lib_loraclr.capture.prompts import check_templates
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.methods import METHODS
from lib_loraclr.formats import recipe_of
from lib_loraclr.formats.safetensors_io import SafetensorsFile
from lib_loraclr.formats.weighted import find_lora
from lib_loraclr.options import Field, FieldReader, as_json, fields_of, option, resolve

OPTIONS_VERSION = 1
PRESETS = {
    "distilled": "Distilled",
    "layerwise": "Layer-wise",
    "text": "Text",
    "instant": "Instant",
}  # name -> what a control calls it
OLD_PRESETS = {"best": "distilled", "full": "layerwise"}  # of version 0.1.0
DEFAULT_PRESET = "distilled"
DTYPES = ("fp16", "bf16", "fp32")
DEFAULT_METHOD = "gradient-fusion"
DEFAULT_MODEL_FREE_METHOD = "sum"
CONTENT = "content"  # group of the options that decide what is in the merged file
LORA_SYNTAX = "FILE[:WEIGHT[:TE_WEIGHT]]"

OptionValue = float | int | str | bool


def parse_lora_argument(argument: str, folder: Path | None = None) -> LoraChoice:
    """`FILE[:WEIGHT[:TE_WEIGHT]]` to a choice.

    Paths may hold colons (drive letters, names): at most two trailing fields are taken, only when they are numbers,
    and never when the longer text is a file that exists.
    """
    parts = argument.split(":")
    numbers: list[float] = []
    while True:
        path = ":".join(parts)
        rest = _float_or_none(parts[-1]) if len(parts) > 1 and len(numbers) < 2 else None
        if rest is None or resolve(path, folder).is_file():
            break
        numbers.insert(0, rest)
        parts.pop()
    if not path:
        raise InputError("bad-option", f"'{argument}' names no file; write FILE[:WEIGHT[:TE_WEIGHT]].", key="lora")
    weight, te_weight = (*numbers, None, None)[:2]
    return LoraChoice(resolve(path, folder), 1.0 if weight is None else weight, te_weight)


def _float_or_none(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _rank(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("text")
    return str(value)


@dataclass(frozen=True)
class LoraChoice:
    """One input: effective update = `weight` * delta in the UNet and `te_weight` * delta in the text encoder.

    `trigger` None means "what the file's metadata says", the empty text that the LoRA has no trigger (styles). With
    `sha256` a recipe can insist on the very files it was made with.
    """

    file: Path = option(None, "The LoRA file.", kind="path", required=True)
    weight: float = option(1.0, "Its weight in the UNet; may be negative or 0.")
    te_weight: float | None = option(None, "Its weight in the text encoder; default: as in the UNet.", kind="number")
    trigger: str | None = option(
        None, "What calls the LoRA in a prompt; default: what its metadata says; '' for a style without one.",
        kind="text", metavar="TEXT",
    )  # fmt: skip
    class_word: str | None = option(
        None, "What the concept is without its LoRA, such as 'woman'; keeps the merge from changing that.", kind="text",
        metavar="TEXT",
    )  # fmt: skip
    kind: str | None = option(
        None, "What the LoRA shows: decides what the model draws while it is watched; default: style where trigger "
        "and class word end with that word, else character.", kind="text", choices=KINDS, metavar="KIND",
    )  # fmt: skip
    sha256: str | None = option(None, "What the file's hash must be.", kind="text")
    prompts: tuple[str, ...] = option(
        (), "What the model draws while the LoRA is watched, {c} for trigger and class word, {other} for something "
        "else; default: the usual prompts of its kind.", kind="list", check=check_templates,
    )  # fmt: skip

    @property
    def text_weight(self) -> float:
        """The weight of the text encoder's layers."""
        return self.weight if self.te_weight is None else self.te_weight


@dataclass(frozen=True)
class MergeOptions:
    """Everything a merge depends on. Fields of the group CONTENT decide what is in the file."""

    lora: tuple[LoraChoice, ...] = option(
        None, "An input, repeated; WEIGHT scales it in the UNet (may be negative or 0), TE_WEIGHT in the text encoder "
        "(default: WEIGHT).", kind="list", part=LoraChoice, entry=parse_lora_argument, required=True,
        metavar=LORA_SYNTAX,
    )  # fmt: skip
    out: Path = option(None, "The merged file, .safetensors.", kind="path", required=True, metavar="FILE")
    checkpoint: Path | None = option(
        None, "The base model (.safetensors); needed by data-driven methods.", kind="path", metavar="C"
    )
    method: str = option(DEFAULT_METHOD, f"One of {', '.join(METHODS)}.", title="Method", group=CONTENT, metavar="NAME")
    preset: str = option(
        DEFAULT_PRESET, "Distilled: layer-wise, then the new LoRA learns from each single one; the most likeness, and "
        "the time and memory of a short training. Layer-wise: every layer, solved alone, minutes. Text: text encoder "
        "and attention only, seconds. Instant: files only, no sampling, concepts bleed.",
        title="Preset", choices=PRESETS, renamed=OLD_PRESETS, group=CONTENT,
    )  # fmt: skip
    rank: str = option(
        "exact", "Exact keeps everything (the sum of the LoRAs' ranks); the others trade likeness for a smaller file.",
        title="Rank", kind="any", check=_rank, group=CONTENT, metavar="exact|N|energy=SHARE|size=MB",
    )  # fmt: skip
    dtype: str = option(
        "fp16", "fp16 halves the file and every WebUI reads it. bf16 for models that run in it. fp32 is exact.",
        title="Precision", choices=DTYPES, group=CONTENT,
    )  # fmt: skip
    device: str = option("auto", "cpu, cuda, cuda:1 …; auto takes a GPU when there is one.", metavar="D")
    seed: int = option(0, "Same seed, same inputs: same file, byte for byte.", title="Seed", group=CONTENT, metavar="S")
    overwrite: bool = option(
        False, "Replaces the file when it exists. Off: an existing file is never touched.",
        title="Replace a LoRA of this name",
    )  # fmt: skip
    report: Path | None = option(
        None, "A report (JSON and one HTML page) that compares with simpler ways to merge; costs three more solves.",
        kind="path", title="Full report", metavar="DIR",
    )  # fmt: skip
    cache: Path | None = option(
        None, "Where captured statistics are kept, so that the next merge only solves.", kind="path", metavar="DIR"
    )
    option: Mapping[str, OptionValue] = option(
        None, "Options of the method and of the capture, by name.", kind="table", group=CONTENT, metavar="NAME=VALUE"
    )

    def as_recipe(self) -> dict[str, Any]:
        """The recipe as JSON data; parsing it again gives equal options."""
        return {"version": OPTIONS_VERSION, **as_json(self, full=True, empty=False)}


def parse_merge_options(
    raw: Mapping[str, Any], *, folder: Path | None = None, source: str | None = None
) -> MergeOptions:
    """Typed options from a recipe-shaped mapping.

    Relative paths are resolved against `folder` (a recipe's own folder) when it is given. `source` is the file that an
    error names. Raises InputError with `key` for an unknown name, a wrong type, a missing or an empty value.
    """
    reader, data = FieldReader(source, folder), dict(raw)
    version = data.pop("version", None)
    if version is not None and reader.value(Field("version", OPTIONS_VERSION, ""), version) != OPTIONS_VERSION:
        message = f"The recipe has version {version}; this program reads version {OPTIONS_VERSION}."
        raise InputError("bad-version", message, file=source, key="version")
    if data.get("preset") == "instant" and data.get("method") is None:
        data["method"] = DEFAULT_MODEL_FREE_METHOD
    if data.get("lora") in (None, [], ()):
        raise InputError("empty-selection", "No LoRA was chosen; give at least one.", file=source, key="lora")
    options: MergeOptions = reader.make(MergeOptions, data)
    table: Mapping[str, Any] = options.option
    for name, value in table.items():
        if not isinstance(value, str | int | float | bool) or (isinstance(value, float) and not math.isfinite(value)):
            raise reader.wrong(f"option.{name}", "a number, a text or true/false", value)
    return options


KEPT = tuple(field.name for field in fields_of(MergeOptions).values() if field.group == CONTENT)


def load_recipe(path: Path, *, lora_folder: Path | None = None) -> tuple[dict[str, Any], Path]:
    """The raw options and the folder that their relative paths start from.

    A merged file holds the names and hashes of its inputs; they are looked up in `lora_folder`, else beside the file.
    Raises InputError file-not-found, bad-recipe, no-recipe.
    """
    if not path.is_file():
        raise InputError("file-not-found", "The recipe does not exist.", file=str(path))
    if path.suffix.lower() == ".safetensors":
        return _from_merged(path, lora_folder or path.parent), path.parent.absolute()
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError("bad-recipe", f"The recipe is not readable JSON: {error}.", file=str(path)) from error
    if not isinstance(raw, dict):
        raise InputError("bad-recipe", "The recipe is not a JSON object.", file=str(path))
    return raw, path.parent.absolute()


def _from_merged(path: Path, folder: Path) -> dict[str, Any]:
    recipe = recipe_of(SafetensorsFile.open(path).metadata)
    if recipe is None:
        raise InputError("no-recipe", "The file holds no recipe; it was not merged by this program.", file=str(path))
    fields = [name for name in fields_of(LoraChoice) if name != "file"]
    entries: list[dict[str, Any]] = []
    for stored in recipe.get("inputs", ()):
        file = find_lora(str(stored.get("file", stored.get("name", ""))), folder).absolute()
        entries.append({"file": str(file), **{name: stored[name] for name in fields if name in stored}})
    return {"version": recipe.get("format"), "lora": entries, **{name: recipe[name] for name in KEPT if name in recipe}}


def recipe_for_file(options: MergeOptions, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a merged file stores: all that its content depends on, names instead of paths, nothing of the machine."""
    stored = {name: value for name, value in options.as_recipe().items() if name in KEPT}
    return {**stored, "format": OPTIONS_VERSION, "inputs": [dict(entry) for entry in inputs]}
