"""Regional Prompter: regions in the prompt, divided by keywords, and ratios of a grid.

BREAK (or AND) divides regions in reading order. ADDCOL and ADDROW divide them in two directions; ADDCOMM ends a part
that is common to all regions, ADDBASE ends the base prompt, which every region keeps to the base ratio.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lib_loraclr.core.errors import InputError
from lib_loraclr.regional.grid import boxes_of, read_ratios
from lib_loraclr.regional.importers.imported import Imported, bad, checked, trimmed
from lib_loraclr.regional.shapes import Box
from lib_loraclr.regional.spec import BaseRules, Region, RegionalSpec

PIECE = re.compile(r"\b(?:BREAK|AND|ADDCOL|ADDROW)\b")
BREAKS = re.compile(r"\b(?:BREAK|AND)\b")
BASE_RATIO = "0.2"


@dataclass(frozen=True)
class _Parts:
    common: str
    base: str
    cells: list[list[str]]  # outer groups of region prompts
    two_way: bool


def import_regional_prompter(
    prompt: str, negative: str = "", *, ratios: str = "1,1", mode: str = "Columns", base_ratio: str = "",
    use_base: bool = False, use_common: bool = False,
) -> Imported:  # fmt: skip
    """The spec of a prompt with keywords and the settings beside it, by Regional Prompter's names and defaults.

    `mode` is "Columns" or "Rows" (older versions: "Horizontal", "Vertical"). Ratios that do not fit the number of
    regions give equal regions and a note, as there. Raises InputError "bad-import".
    """
    stacked = mode in ("Rows", "Vertical")
    parts = _split(prompt, stacked=stacked, use_base=use_base, use_common=use_common)
    notes: list[str] = []
    boxes, texts = _boxes(parts, ratios, stacked, notes)
    floors = _floors(base_ratio, len(boxes)) if parts.base else [0.0] * len(boxes)
    even = len(set(floors)) == 1
    negatives, base_negative = _negatives(negative, len(boxes), bool(parts.base) or use_base, notes)
    regions = [
        Region(
            shape=box, prompt=_with(parts.common, text), strength=1.0 if even else 1 - floor,
            negative=own or "", negative_mode="append" if own is None else "replace",
        )
        for box, text, floor, own in zip(boxes, texts, floors, negatives, strict=True)
    ]  # fmt: skip
    whole = _with(parts.common, parts.base) or ", ".join(texts)
    spec = RegionalSpec(regions=checked(regions), base=BaseRules(in_regions=floors[0] if even else 0.0))
    return Imported(spec, whole, base_negative, tuple(notes))


def _split(prompt: str, *, stacked: bool, use_base: bool, use_common: bool) -> _Parts:
    common = base = ""
    if "ADDCOMM" in prompt:
        common, prompt = prompt.split("ADDCOMM", 1)
    elif use_common:
        common, prompt = _first(prompt)
    if "ADDBASE" in prompt:
        base, prompt = prompt.split("ADDBASE", 1)
    elif use_base:
        base, prompt = _first(prompt)
    two_way = "ADDCOL" in prompt or "ADDROW" in prompt
    outer, inner = ("ADDCOL", "ADDROW") if stacked else ("ADDROW", "ADDCOL")
    if two_way:
        cells = [[_joined(cell) for cell in group.split(inner)] for group in prompt.split(outer)]
    else:
        cells = [[trimmed(piece) for piece in BREAKS.split(prompt)]]
    return _Parts(trimmed(common), trimmed(base), cells, two_way)


def _first(prompt: str) -> tuple[str, str]:
    pieces = PIECE.split(prompt, maxsplit=1)
    if len(pieces) < 2:
        raise bad("With a base or common prompt there must be regions after it.")
    return pieces[0], pieces[1]


def _boxes(parts: _Parts, ratios: str, stacked: bool, notes: list[str]) -> tuple[Sequence[Box], list[str]]:
    """Boxes and the text of each. Ratios rule where the text says nothing about rows and columns."""
    texts = [text for group in parts.cells for text in group]
    sizes = [len(group) for group in parts.cells]
    try:
        groups = read_ratios(ratios, stacked=stacked)
    except InputError:
        groups = []
    if parts.two_way:
        outer_only = all(size == 1 for size in sizes)
        if outer_only and len(groups) == 1 and len(groups[0][1]) == len(sizes):
            groups = [(share, [1.0]) for share in groups[0][1]]  # "1,2" with rows alone: heights of the rows
        if [len(cells) for _, cells in groups] != sizes:
            notes.append("The ratios do not fit the rows and columns of the prompt; all parts are equal.")
            groups = [(1.0, [1.0] * size) for size in sizes]
        return boxes_of(groups, stacked=stacked), texts
    if sum(len(cells) for _, cells in groups) != len(texts):
        notes.append(f"The ratios do not fit {len(texts)} regions; all are equal.")
        groups = [(1.0, [1.0] * len(texts))]
    try:
        return boxes_of(groups, stacked=stacked), texts
    except InputError as error:
        raise bad(error.message) from None


def _floors(base_ratio: str, count: int) -> list[float]:
    """Base ratio of every region; one number is for all, the last one goes on."""
    values: list[float] = []
    for part in re.split(r"[,;]", base_ratio.strip() or BASE_RATIO):
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        values.append(min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0)
    return [values[min(index, len(values) - 1)] for index in range(count)]


def _negatives(negative: str, count: int, based: bool, notes: list[str]) -> tuple[list[str | None], str]:
    """(own negative of every region or None, the picture's negative)."""
    pieces = [trimmed(piece) for piece in PIECE.split(negative)]
    if len(pieces) == 1:
        return [None] * count, pieces[0]
    base = pieces.pop(0) if based and len(pieces) > count else pieces[0]
    if len(pieces) != count:
        notes.append(f"The negative prompt has {len(pieces)} parts for {count} regions; the last one goes on.")
    return [pieces[min(index, len(pieces) - 1)] for index in range(count)], base


def _with(common: str, text: str) -> str:
    return ", ".join(part for part in (common, text) if part)


def _joined(cell: str) -> str:
    """A cell's text; BREAK inside a cell only starts a new chunk, which a region's own prompt does not need."""
    return ", ".join(part for part in (trimmed(piece) for piece in BREAKS.split(cell)) if part)
