"""Forge Couple: one line of the prompt per region, side by side or by a mapping of boxes."""

from __future__ import annotations

import json
import math
from typing import Any

from lib_loraclr.regional.grid import boxes_of
from lib_loraclr.regional.importers.imported import Imported, bad, checked, trimmed
from lib_loraclr.regional.shapes import SMALLEST_AREA, Box
from lib_loraclr.regional.spec import BaseRules, Region, RegionalSpec

BACKGROUNDS = ("None", "First Line", "Last Line")


def import_forge_couple(
    text: str, negative: str = "", *, direction: str = "Horizontal", background: str = "None", weight: float = 0.5,
    mapping: str | None = None, separator: str = "\n",
) -> Imported:  # fmt: skip
    """The lines of `text` as tiles in a `direction` ("Horizontal": side by side, or "Vertical"), or, with `mapping`
    (its JSON: [[x0, x1, y0, y1, weight], …], one row a line), as boxes.

    A background line becomes the picture's own prompt with a floor of weight / (1 + weight) in every tile.
    Raises InputError "bad-import".
    """  # fmt: skip
    separator = separator.replace("\\n", "\n") or "\n"
    lines = [trimmed(line) for line in text.split(separator if separator.strip() else "\n")]
    lines = [line for line in lines if line]
    if mapping is not None:
        return _mapped(lines, negative, mapping)
    if background not in BACKGROUNDS:
        raise bad(f"The background is one of {', '.join(BACKGROUNDS)}, not '{background}'.")
    prompt, floor = "", 0.0
    if background != "None" and len(lines) > 1:
        prompt = lines.pop(0 if background == "First Line" else -1)
        floor = min(1.0, max(0.0, weight / (1 + weight)))
    if len(lines) < 2:
        raise bad("Forge Couple needs at least two lines, one for each region.")
    boxes = boxes_of([(1.0, [1.0] * len(lines))], stacked=direction == "Vertical") if len(lines) <= 64 else ()
    regions = checked([Region(shape=box, prompt=line) for box, line in zip(boxes, lines, strict=False)])
    spec = RegionalSpec(regions=regions, base=BaseRules(in_regions=floor))
    return Imported(spec, prompt or ", ".join(lines), negative)


def _mapped(lines: list[str], negative: str, mapping: str) -> Imported:
    try:
        rows: Any = json.loads(mapping)
    except ValueError:
        rows = None
    if not isinstance(rows, list):
        raise bad("The mapping is not a JSON list of [x0, x1, y0, y1, weight].")
    notes: list[str] = []
    if len(rows) != len(lines):
        notes.append(f"The mapping has {len(rows)} boxes and the prompt {len(lines)} lines; the rest is left out.")
    regions: list[Region] = []
    for line, row in zip(lines, rows, strict=False):
        box, weight = _row(row)
        regions.append(Region(shape=box, prompt=line, weight=weight))
    spec = RegionalSpec(regions=checked(regions), overlap="weighted")
    return Imported(spec, ", ".join(lines[: len(regions)]), negative, tuple(notes))


def _row(row: Any) -> tuple[Box, float]:
    numeric = isinstance(row, list) and len(row) in (4, 5) and all(type(v) in (int, float) for v in row)
    if not numeric or not all(math.isfinite(value) for value in row):
        raise bad("A row of the mapping is [x0, x1, y0, y1, weight].")
    left, right, top, bottom = (min(1.0, max(0.0, float(value))) for value in row[:4])
    box = Box(left, top, right, bottom)
    if not box.area >= SMALLEST_AREA:
        raise bad("A box of the mapping has no area.")
    return box, min(10.0, max(0.0, float(row[4]))) if len(row) == 5 else 1.0
