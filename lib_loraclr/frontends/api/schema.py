"""What a merge request may say, as data: made from the options themselves, so that it cannot be out of date."""

from __future__ import annotations

from typing import Any

from lib_loraclr.core.methods import METHODS
from lib_loraclr.frontends.api.requests import LORA, REQUEST
from lib_loraclr.merging.config import JOB_OPTIONS
from lib_loraclr.merging.options import DTYPES, OPTIONS_VERSION, PRESETS, MergeOptions
from lib_loraclr.merging.overlap import KINDS
from lib_loraclr.options import Field, as_value, fields_of, object_schema


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
