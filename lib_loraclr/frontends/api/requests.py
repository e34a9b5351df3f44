"""Bodies of requests to the options of jobs: LoRAs by their names in the catalogue, the output by its name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_loraclr.app.application import Catalogue, CatalogueEntry
from lib_loraclr.app.catalogue import entry_of
from lib_loraclr.app.names import lora_path
from lib_loraclr.core.errors import InputError
from lib_loraclr.merging.options import MergeOptions, parse_merge_options

PLAIN = ("method", "preset", "rank", "dtype", "seed", "overwrite", "option")
LORA_FIELDS = ("weight", "te_weight", "trigger", "class_word", "sha256")
MOST = 256  # LoRAs in one request


def merge_options(catalogue: Catalogue, body: Mapping[str, Any], cache: Path | None) -> MergeOptions:
    """Validated options of `POST merge`. Raises InputError."""
    known = {"name", "loras", "task", *PLAIN}
    unknown = sorted(set(body) - known)
    if unknown:
        message = f"The request has an unknown field {unknown[0]!r}; known: {', '.join(sorted(known))}."
        raise InputError("bad-option", message, key=unknown[0])
    name = body.get("name")
    if not isinstance(name, str):
        raise InputError("bad-output-name", "The new LoRA needs a name.", key="name")
    raw: dict[str, Any] = {key: body[key] for key in PLAIN if key in body}
    raw["lora"] = [_choice(catalogue, one) for one in _list(body.get("loras"))]
    raw["out"] = str(lora_path(catalogue.folder(), name))
    if cache is not None:
        raw["cache"] = str(cache)
    return parse_merge_options(raw)


def names_of(catalogue: Catalogue, body: Mapping[str, Any]) -> list[CatalogueEntry]:
    """The LoRAs of `POST overlap`: names, or objects with a name. Raises InputError."""
    entries = [
        entry_of(catalogue, one.get("name") if isinstance(one, Mapping) else one) for one in _list(body.get("loras"))
    ]
    if len(entries) < 2:
        raise InputError("empty-selection", "An overlap needs two LoRAs or more.", key="loras")
    return entries


def _choice(catalogue: Catalogue, one: Any) -> dict[str, Any]:
    given = {"name": one} if isinstance(one, str) else one
    if not isinstance(given, Mapping):
        raise InputError("bad-option", "Each of loras is a name or an object with a name.", key="loras")
    unknown = sorted(set(given) - {"name", *LORA_FIELDS})
    if unknown:
        message = f"An entry of loras has an unknown field {unknown[0]!r}; known: name, {', '.join(LORA_FIELDS)}."
        raise InputError("bad-option", message, key=f"loras.{unknown[0]}")
    entry = entry_of(catalogue, given.get("name"))
    return {"file": str(entry.path), **{key: given[key] for key in LORA_FIELDS if given.get(key) is not None}}


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise InputError("empty-selection", "No LoRA was chosen; give a list of names in loras.", key="loras")
    if len(value) > MOST:
        raise InputError("bad-option", f"A request may name {MOST} LoRAs.", key="loras")
    return value
