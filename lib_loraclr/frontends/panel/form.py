"""What the panel's JavaScript is told: defaults, fields with labels and ranges, all read off the spec's own rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lib_loraclr.regional import Box, Region, RegionalSpec, spec_as_json
from lib_loraclr.regional.rules import Rule, ruled
from lib_loraclr.regional.spec import MAX_REGIONS, SUBJECTS_SOLO

FieldForm = dict[str, Any]

# JSON key -> (label, how the control differs from what the rule says)
REGION_FIELDS: Mapping[str, tuple[str, FieldForm]] = {
    "neg": ("Negative prompt", {"kind": "long", "empty": "What must not stand here"}),
    "negmode": (
        "Negative is",
        {"choices": {"append": "added to the main one", "replace": "in its place", "inherit": "left out"}},
    ),
    "rho": ("Strength", {}),
    "w": ("Share in overlaps", {"soft": 3.0, "step": 0.05}),
    "feather": ("Soft edge", {"soft": 0.25, "step": 0.005, "empty": "auto"}),
    "cfg": ("CFG scale", {"soft": 15.0, "step": 0.5, "empty": "main", "shown": 7.0}),
    "steps": ("Acts from, to", {}),
    "iso": ("Isolated from the others", {}),
}
GROUPS: Sequence[tuple[str, Mapping[str, tuple[str, FieldForm]]]] = (
    (
        "Blending",
        {
            "overlap": (
                "Where regions overlap",
                {"choices": {"average": "equal shares", "weighted": "shares by weight", "top": "the topmost wins"}},
            ),
            "feather": ("Soft edges", {"soft": 0.25, "step": 0.005}),
            "raster": (
                "Small layers",
                {
                    "choices": {
                        "coverage": "exact share of each cell",
                        "grow": "small regions grow to a cell",
                        "mix-of-show": "hard boxes, as Mix-of-Show",
                    }
                },
            ),
            "steps": ("Regions act from, to", {}),
        },
    ),
    (
        "Main prompt",
        {
            "base.in_regions": ("Its share inside regions", {}),
            "base.prepend": ("Put it before every region's prompt", {}),
            "base.neg": (
                "Regions without a negative",
                {"choices": {"inherit": "use the main one", "empty": "use none"}},
            ),
            "mode": (
                "Region prompts are",
                {"choices": {"fields": "in their own fields", "text": "parts of the main prompt"}},
            ),
            "sep": (
                "Parts are divided by",
                {
                    "choices": {
                        "auto": "whatever is found",
                        "BREAK": "BREAK, ADDCOL, ADDROW …",
                        "AND": "AND",
                        "line": "line breaks",
                    }
                },
            ),
        },
    ),
    (
        "Isolation",
        {
            "iso.s": ("Strength", {}),
            "iso.start": ("From", {}),
            "iso.end": ("To", {}),
            "iso.min": ("Smallest layer, cells", {"soft": 64}),
            "iso.solo": ("Each its own picture until", {}),
            "pooled": ("SDXL: own pooled vector for every region", {}),
        },
    ),
    (
        "Hires fix",
        {
            "hires.on": ("Regions act in the second pass", {}),
            "hires.strength": ("Strength there", {}),
            "hires.isolate": ("Isolation there", {}),
            "hires.prompt_suffix": ("Added to region prompts", {}),
        },
    ),
)


def panel_form() -> dict[str, Any]:
    """Defaults of layout and region, and the fields of both, as JSON values for the panel."""
    spec = spec_as_json(RegionalSpec(), full=True)
    whole = RegionalSpec(regions=(Region(Box(0.0, 0.0, 1.0, 1.0)),))
    region = dict(spec_as_json(whole, full=True)["regions"][0])
    for key in ("shape", "prompt", "id"):
        region.pop(key)
    spec["regions"] = []
    rules = {rule.key: rule for _, rule in ruled(Region)}
    layout = _layout_rules(RegionalSpec, "")
    return {
        "defaults": {"spec": spec, "region": region},
        "maxRegions": MAX_REGIONS,
        "subjectsSolo": SUBJECTS_SOLO,
        "regionFields": [_field(key, rules[key], *form) for key, form in REGION_FIELDS.items()],
        "groups": [
            {"label": label, "fields": [_field(key, layout[key], *form) for key, form in fields.items()]}
            for label, fields in GROUPS
        ],
    }


def _layout_rules(kind: type[Any], prefix: str) -> dict[str, Rule]:
    """Rules of the layout's fields by dotted key ("iso.s")."""
    found: dict[str, Rule] = {}
    for _, rule in ruled(kind):
        if rule.part is not None:
            found |= _layout_rules(rule.part, f"{prefix}{rule.key}.")
        else:
            found[prefix + rule.key] = rule
    return found


def _field(key: str, rule: Rule, label: str, form: FieldForm) -> FieldForm:
    """One field for `javascript/loraclr_regional_fields.js`."""
    known = {name: value for name, value in dataclasses.asdict(rule).items() if name in ("kind", "low", "high")}
    field = {**known, "optional": rule.optional, **form, "key": key, "label": label, "help": _sentence(rule.help)}
    words = form.get("choices", {})
    if rule.choices:
        field["choices"] = [[choice, words.get(choice, choice)] for choice in rule.choices]
    return {name: value for name, value in field.items() if value is not None}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
