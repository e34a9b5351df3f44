"""Recipes: a merge's options as a JSON file, or as the metadata of a file that was merged before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats import recipe_of
from lib_loraclr.formats.safetensors_io import SafetensorsFile
from lib_loraclr.formats.weighted import find_lora
from lib_loraclr.merging.options import CONTENT, OPTIONS_VERSION, LoraChoice, MergeOptions
from lib_loraclr.options import fields_of

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
