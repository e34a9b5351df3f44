"""What a merge request may say, as data, and bodies of requests to the options of jobs: LoRAs and output by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_loraclr.app.application import Catalogue, CatalogueEntry
from lib_loraclr.app.catalogue import entry_of, lora_path
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.methods import METHODS
from lib_loraclr.merging.config import JOB_OPTIONS
from lib_loraclr.merging.inputs import KINDS
from lib_loraclr.merging.options import (
    CONTENT,
    DTYPES,
    OPTIONS_VERSION,
    PRESETS,
    LoraChoice,
    MergeOptions,
    parse_merge_options,
)
from lib_loraclr.options import Field, FieldReader, Fields, as_value, by_name, fields_of, new_names, object_schema

# What a request may say: a recipe's fields but for those that name places of this machine.
REQUEST = by_name(
    [
        Field("name", "", "Of the new LoRA.", required=True),
        Field("loras", (), "Names of LoRAs, or objects with a name.", required=True),
        Field("task", "", "A job id of your own."),
        *(field for name, field in fields_of(MergeOptions).items() if field.group == CONTENT or name == "overwrite"),
    ]
)
LORA = by_name([
    Field("name", "", "Of the LoRA in the catalogue.", required=True),
    *(field for name, field in fields_of(LoraChoice).items() if name != "file"),
])  # fmt: skip
MOST = 256  # LoRAs in one request


def merge_options(catalogue: Catalogue, body: Mapping[str, Any], cache: Path | None) -> MergeOptions:
    """Validated options of `POST merge`. Raises InputError."""
    body = new_names(REQUEST, body)
    _refuse_unknown(REQUEST, body)
    name = body.get("name")
    if not isinstance(name, str):
        raise InputError("bad-output-name", "The new LoRA needs a name.", key="name")
    raw = {key: value for key, value in body.items() if key not in ("name", "loras", "task")}
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
    if not isinstance(one, str | Mapping):
        raise InputError("bad-option", "Each of loras is a name or an object with a name.", key="loras")
    choice = {"name": one} if isinstance(one, str) else new_names(LORA, one)
    _refuse_unknown(LORA, choice, "loras")
    entry = entry_of(catalogue, choice.pop("name", None))
    return {"file": str(entry.path), **choice}


def _refuse_unknown(fields: Fields, data: Mapping[str, Any], place: str = "") -> None:
    unknown = {name: value for name, value in data.items() if name not in fields}
    FieldReader().refuse(unknown, fields, place, code="bad-option")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise InputError("empty-selection", "No LoRA was chosen; give a list of names in loras.", key="loras")
    if len(value) > MOST:
        raise InputError("bad-option", f"A request may name {MOST} LoRAs.", key="loras")
    return value


def schema() -> dict[str, Any]:
    """Fields, their choices and every method's options with defaults, limits and a sentence each."""
    merge = fields_of(MergeOptions)
    lora = {"oneOf": [{"type": "string"}, object_schema(LORA)]}
    request = object_schema(REQUEST)
    request["properties"]["loras"] |= {"type": "array", "items": lora}
    return {
        "version": OPTIONS_VERSION,
        "merge": {
            "fields": list(REQUEST),
            "lora_fields": list(LORA),
            "request": request,
            "presets": list(PRESETS),
            "default_preset": merge["preset"].default,
            "dtypes": list(DTYPES),
            "ranks": merge["rank"].metavar,
            "default_method": merge["method"].default,
            "methods": [
                {
                    "name": method.name,
                    "title": method.title,
                    "summary": method.summary,
                    "needs_model": method.needs_statistics,
                    "options": [_option(option) for option in method.options],
                }
                for method in METHODS.values()
            ],
            "capture_options": [_option(option) for option in JOB_OPTIONS],
        },
        "overlap": {"kinds": list(KINDS)},
    }


def _option(field: Field) -> dict[str, Any]:
    facts = {"name": field.name, "default": as_value(field, field.default), "summary": field.help}
    limits = {"minimum": field.low, "maximum": field.high, "choices": list(field.choices) or None}
    return facts | {name: value for name, value in limits.items() if value is not None}
