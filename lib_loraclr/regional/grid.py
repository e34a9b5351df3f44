"""Boxes from ratios, in the notation of Regional Prompter.

Numbers alone divide one way: "1,2,1" is three columns, the middle one twice as wide. With ";" every group is a row and
its first number is the row's height: "1,2,1;2,4,6" is a row with columns 2:1 over a row, twice as high, with 4:6.
With `stacked` the picture is divided into rows first: "1,2,1" is three rows, and in "1;2;1,2;4;6" every group between
commas is a column, its first number the column's width, the rest the heights of its boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from lib_loraclr.core.errors import InputError
from lib_loraclr.regional.shapes import Box

MAX_CELLS = 64


def grid_boxes(ratios: str, *, stacked: bool = False) -> tuple[Box, ...]:
    """The boxes in reading order. Raises InputError "bad-grid" for text that is no ratios or too many boxes."""
    return boxes_of(read_ratios(ratios, stacked=stacked), stacked=stacked)


def read_ratios(ratios: str, *, stacked: bool = False) -> list[tuple[float, list[float]]]:
    """(share of the group, shares of its cells), group by group; not normalised."""
    outer, inner = (",", ";") if stacked else (";", ",")
    if ";" not in ratios:
        return [(1.0, [_ratio(part, ratios) for part in ratios.split(",")])]
    groups: list[tuple[float, list[float]]] = []
    for group in ratios.split(outer):
        numbers = [_ratio(part, ratios) for part in group.split(inner)]
        groups.append((numbers[0], numbers[1:] or [1.0]))
    return groups


def boxes_of(groups: Sequence[tuple[float, Sequence[float]]], *, stacked: bool = False) -> tuple[Box, ...]:
    """Boxes of groups and cells; edges that two boxes share are equal to the last bit."""
    if sum(len(cells) for _, cells in groups) > MAX_CELLS:
        raise InputError("bad-grid", f"A grid has at most {MAX_CELLS} boxes.", key="grid")
    boxes: list[Box] = []
    outer = _edges([share for share, _ in groups])
    for (first, last), (_, cells) in zip(pairwise(outer), groups, strict=True):
        inner = _edges(cells)
        for start, end in pairwise(inner):
            boxes.append(Box(first, start, last, end) if stacked else Box(start, first, end, last))
    return tuple(boxes)


def _edges(shares: Sequence[float]) -> list[float]:
    total, sums = sum(shares), 0.0
    edges = [0.0]
    for share in shares[:-1]:
        sums += share
        edges.append(sums / total)
    return [*edges, 1.0]


def _ratio(text: str, whole: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (math.isfinite(value) and 0 < value < 1e9):
        raise InputError(
            "bad-grid", f"'{whole[:60]}' is not a list of ratios such as 1,2,1 or 1,2,1;2,4,6.", key="grid"
        )
    return value
