"""Layouts written for other programs, as regional specs.

Forge Couple: one line of the prompt per region, side by side or by a mapping of boxes.

Mix-of-Show's region text: `[prompt]-*-[negative]-*-[top, left, bottom, right]|…`, positions in pixels.

Regional Prompter: regions in the prompt, divided by keywords, and ratios of a grid.

BREAK (or AND) divides regions in reading order. ADDCOL and ADDROW divide them in two directions; ADDCOMM ends a part
that is common to all regions, ADDBASE ends the base prompt, which every region keeps to the base ratio.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lib_loraclr.core.errors import InputError
from lib_loraclr.regional.grid import boxes_of, read_ratios
from lib_loraclr.regional.shapes import SMALLEST_AREA, Box
from lib_loraclr.regional.spec import MAX_REGIONS, BaseRules, Region, RegionalSpec


@dataclass(frozen=True)
class Imported:
    """The spec, the picture's own prompt and negative that go with it, and what could not be taken over."""

    spec: RegionalSpec
    prompt: str
    negative: str = ""
    notes: tuple[str, ...] = ()


def bad(message: str) -> InputError:
    """The error of an importer."""
    return InputError("bad-import", message, key="text")


def checked(regions: Sequence[Region]) -> tuple[Region, ...]:
    """The regions. Raises InputError "bad-import" for none or too many."""
    if not regions:
        raise bad("There are no regions in this text.")
    if len(regions) > MAX_REGIONS:
        raise bad(f"There are {len(regions)} regions in this text; at most {MAX_REGIONS} are possible.")
    return tuple(regions)


def trimmed(text: str) -> str:
    """A piece of a prompt without the separators' commas and blanks around it."""
    return text.strip().strip(",").strip()


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


def import_mix_of_show(text: str, *, size: tuple[int, int], prompt: str = "", negative: str = "") -> Imported:
    """The spec that computes what Mix-of-Show's sampler does: hard boxes, equal shares, a missing negative is empty.

    `size` is (width, height) in pixels; an empty position is the whole picture. Raises InputError "bad-import".
    """
    regions = [_region(part, size) for part in text.strip().split("|") if part.strip()]
    spec = RegionalSpec(
        regions=checked(regions), raster="mix-of-show", feather=0.0, base=BaseRules(negative="empty"), pooled=False
    )
    return Imported(spec, prompt, negative)


def _region(part: str, size: tuple[int, int]) -> Region:
    fields = part.split("-*-")
    if len(fields) != 3:
        raise bad("A region of Mix-of-Show is [prompt]-*-[negative]-*-[top, left, bottom, right].")
    prompt, negative = (field.replace("[", "").replace("]", "").strip() for field in fields[:2])
    return Region(shape=_box(fields[2], size), prompt=prompt, negative=negative, negative_mode="replace")


def _box(text: str, size: tuple[int, int]) -> Box:
    try:
        position = json.loads(text)
    except ValueError:
        position = None
    if position == []:
        return Box(0.0, 0.0, 1.0, 1.0)
    if not isinstance(position, list) or len(position) != 4 or not all(type(v) in (int, float) for v in position):
        raise bad(f"'{text.strip()[:40]}' is not a position [top, left, bottom, right].")
    width, height = size
    top, left, bottom, right = (float(value) for value in position)
    box = Box(max(0.0, left / width), max(0.0, top / height), min(1.0, right / width), min(1.0, bottom / height))
    if not box.area >= SMALLEST_AREA:
        raise bad(f"The position {text.strip()[:40]} has no area in a picture of {width} x {height}.")
    return box


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


def import_text(text: str, negative: str = "", *, size: tuple[int, int] = (512, 512)) -> Imported:
    """A layout by its notation: `-*-` is Mix-of-Show's, capital keywords Regional Prompter's, else a line a region.

    `size` (width, height) is what Mix-of-Show's pixel positions refer to. Raises InputError "bad-import".
    """
    if "-*-" in text:
        return import_mix_of_show(text, size=size, negative=negative)
    if any(word in text for word in ("BREAK", "ADDCOL", "ADDROW", "ADDBASE", "ADDCOMM")):
        return import_regional_prompter(text, negative)
    return import_forge_couple(text, negative)
