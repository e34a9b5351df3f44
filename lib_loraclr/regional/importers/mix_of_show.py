"""Mix-of-Show's region text: `[prompt]-*-[negative]-*-[top, left, bottom, right]|…`, positions in pixels."""

from __future__ import annotations

import json

from lib_loraclr.regional.importers.imported import Imported, bad, checked
from lib_loraclr.regional.shapes import SMALLEST_AREA, Box
from lib_loraclr.regional.spec import BaseRules, Region, RegionalSpec


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
