"""What a merge request may say, as data: made from the options themselves, so that it cannot be out of date."""

from __future__ import annotations

from typing import Any

from lib_loraclr.core.methods import METHODS
from lib_loraclr.frontends.api.requests import LORA_FIELDS, PLAIN
from lib_loraclr.merging.config import JOB_OPTIONS
from lib_loraclr.merging.options import DEFAULT_METHOD, DEFAULT_PRESET, DTYPES, OPTIONS_VERSION, PRESETS
from lib_loraclr.merging.overlap import KINDS
from lib_loraclr.options import Field, as_value


def schema() -> dict[str, Any]:
    """Fields, their choices and every method's options with defaults, limits and a sentence each."""
    return {
        "version": OPTIONS_VERSION,
        "merge": {
            "fields": ["name", "loras", "task", *PLAIN],
            "lora_fields": ["name", *LORA_FIELDS],
            "presets": list(PRESETS),
            "default_preset": DEFAULT_PRESET,
            "dtypes": list(DTYPES),
            "ranks": "exact, a number from 1, energy=0.95 (share) or size=20 (MB)",
            "default_method": DEFAULT_METHOD,
            "methods": [
                {
                    "name": method.name,
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
