"""What the panel's JavaScript is told, read off the layout's fields: defaults, labels, ranges, old names."""

from __future__ import annotations

from typing import Any

from lib_loraclr.options import Field, fields_of
from lib_loraclr.regional import Box, Region, RegionalSpec, spec_as_json
from lib_loraclr.regional.preview import COLOURS
from lib_loraclr.regional.spec import MAX_REGIONS, SUBJECTS_SEPARATE_UNTIL


def panel_form() -> dict[str, Any]:
    """Defaults of layout and region, and the fields of both, as JSON values for the panel."""
    spec = spec_as_json(RegionalSpec(), full=True)
    whole = RegionalSpec(regions=(Region(Box(0.0, 0.0, 1.0, 1.0)),))
    region = dict(spec_as_json(whole, full=True)["regions"][0])
    for key in ("shape", "prompt", "id"):
        region.pop(key)
    spec["regions"] = []
    layout = _dotted(RegionalSpec)
    groups = dict.fromkeys(field.group for field in layout.values() if field.group)
    return {
        "defaults": {"spec": spec, "region": region},
        "oldNames": {"spec": _old_names(RegionalSpec), "region": _old_names(Region)},
        "maxRegions": MAX_REGIONS,
        "colours": [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in COLOURS],
        "subjectsSeparateUntil": SUBJECTS_SEPARATE_UNTIL,
        "regionFields": [_control(name, field) for name, field in fields_of(Region).items() if field.title],
        "groups": [
            {"label": group, "fields": [_control(key, field) for key, field in layout.items() if field.group == group]}
            for group in groups
        ],
    }


def _dotted(kind: type[Any], prefix: str = "") -> dict[str, Field]:
    """The layout's fields by dotted key ("isolation.strength")."""
    fields: dict[str, Field] = {}
    for name, field in fields_of(kind).items():
        fields |= {prefix + name: field} if field.part is None else _dotted(field.part, f"{prefix}{name}.")
    return fields


def _old_names(kind: type[Any]) -> dict[str, Any]:
    """{"names": old -> new, "parts": the same of nested objects by their new name}."""
    fields = fields_of(kind).values()
    names = {alias: field.name for field in fields for alias in field.aliases}
    return {"names": names, "parts": {field.name: _old_names(field.part) for field in fields if field.part}}


def _control(key: str, field: Field) -> dict[str, Any]:
    """One field for `javascript/loraclr_regional.js`."""
    is_number = field.type not in ("text", "flag")
    limits = {"low": field.low, "high": field.high} if is_number else {}
    control = {"kind": field.type, **limits, "optional": field.optional, **field.form}
    control |= {"key": key, "label": field.label, "help": field.help}
    if field.choices:
        control["choices"] = [[choice, field.words(choice)] for choice in field.choices]
    return {name: value for name, value in control.items() if value is not None}
