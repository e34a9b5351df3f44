"""JSON to `RegionalSpec`: every field checked, every problem named by its place in the JSON.

A spec is data from strangers (API, a picture's infotext, a preset file): nothing here opens files or runs text.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from lib_loraclr.core.errors import InputError
from lib_loraclr.options import FieldReader, fields_of
from lib_loraclr.regional.grid import grid_boxes
from lib_loraclr.regional.shapes import MAX_VERTICES, SMALLEST_AREA, Box, Mask, Polygon, Shape
from lib_loraclr.regional.spec import MAX_REGIONS, VERSION, Region, RegionalSpec, RegionLora

MAX_LORAS = 8
MAX_JSON = 8_000_000

Migration = Callable[[dict[str, Any]], dict[str, Any]]
MIGRATIONS: dict[int, Migration] = {}  # version n -> what makes a spec of version n one of version n + 1


def parse_spec(raw: str | Mapping[str, Any] | None) -> RegionalSpec:
    """The spec of a JSON text or object; None and empty text are the empty spec.

    Raises InputError "bad-regions" or
    "bad-mask" for the first problem; `key` is its place, such as `regions[2].shape.r`.
    """
    spec, problems = validate_spec(raw)
    if problems:
        raise problems[0]
    return spec


def validate_spec(raw: str | Mapping[str, Any] | None) -> tuple[RegionalSpec, list[InputError]]:
    """What can be read of `raw` and every problem; a field with a problem has its default, a bad region is left out."""
    reader = _Reader()
    spec = reader.spec(raw)
    return spec, reader.problems


def _bad(message: str, key: str | None) -> InputError:
    return InputError("bad-regions", message, key=key)


@dataclass
class _Reader:
    problems: list[InputError] = field(default_factory=list)

    def spec(self, raw: str | Mapping[str, Any] | None) -> RegionalSpec:
        try:
            data = _upgraded(_as_object(raw))
        except InputError as error:
            self.problems.append(error)
            return RegionalSpec()
        listed = data.pop("regions", [])
        data.pop("v", None)
        if not isinstance(listed, Sequence) or isinstance(listed, str):
            self.note("'regions' must be a list.", "regions")
            listed = []
        items = cast("Sequence[Any]", listed)
        if len(items) > MAX_REGIONS:
            self.note(f"There are {len(items)} regions; at most {MAX_REGIONS} are possible.", "regions")
            items = items[:MAX_REGIONS]
        boxes = self.grid(data)
        found = [self.region(item, f"regions[{k}]", boxes, k) for k, item in enumerate(items)]
        regions: list[Region] = []
        for region in found:
            if region is not None and region.id and region.id in [other.id for other in regions]:
                self.note("Two regions have the same id.", "regions")
                region = replace(region, id="")
            regions += [] if region is None else [region]
        return RegionalSpec(regions=tuple(regions), **self.fields(RegionalSpec, data, ""))

    def grid(self, data: dict[str, Any]) -> Sequence[Box]:
        """The boxes of a top-level "grid", for regions without a shape."""
        text = data.pop("grid", None)
        if text is None:
            return ()
        try:
            return grid_boxes(str(text))
        except InputError as error:
            self.problems.append(error)
            return ()

    def region(self, raw: Any, key: str, boxes: Sequence[Box], number: int) -> Region | None:
        if not isinstance(raw, Mapping):
            self.note("A region must be an object.", key)
            return None
        data = dict(cast("Mapping[str, Any]", raw))
        try:
            shape = self.shape(data.pop("shape", None), f"{key}.shape", boxes[number] if number < len(boxes) else None)
        except InputError as error:
            self.problems.append(error)
            return None
        loras = self.loras(data.pop("loras", []), f"{key}.loras")
        return Region(shape=shape, loras=loras, **self.fields(Region, data, key))

    def loras(self, raw: Any, key: str) -> tuple[RegionLora, ...]:
        if not isinstance(raw, Sequence) or isinstance(raw, str) or len(cast("Sequence[Any]", raw)) > MAX_LORAS:
            self.note(f"'loras' must be a list of at most {MAX_LORAS} entries.", key)
            return ()
        found: list[RegionLora] = []
        for index, item in enumerate(cast("Sequence[Any]", raw)):
            place = f"{key}[{index}]"
            if not isinstance(item, Mapping) or not cast("Mapping[str, Any]", item).get("name"):
                self.note("A LoRA of a region must be an object with a name.", place)
                continue
            values = self.fields(RegionLora, dict(cast("Mapping[str, Any]", item)), place)
            found.append(RegionLora(**{name: value for name, value in values.items() if name != "extra"}))
        return tuple(found)

    def shape(self, raw: Any, key: str, fallback: Box | None) -> Shape:
        if raw is None and fallback is not None:
            return fallback
        if not isinstance(raw, Mapping):
            raise _bad("A region needs a shape.", key)
        data = cast("Mapping[str, Any]", raw)
        kind = data.get("t")
        if kind == "box":
            return _box(data.get("r"), f"{key}.r")
        if kind == "poly":
            return _polygon(data.get("p"), f"{key}.p")
        if kind == "mask":
            mask = _mask(data, key)
        elif kind == "png":
            mask = _png(data.get("png"), f"{key}.png")
        else:
            raise _bad(f"There is no shape '{kind}'; a shape is a box, poly, mask or png.", f"{key}.t")
        if mask.area < SMALLEST_AREA:
            raise _bad("The mask is empty.", key)
        return mask

    def fields(self, kind: type[Any], data: dict[str, Any], key: str) -> dict[str, Any]:
        """Constructor arguments of `kind` from its JSON object, unknown keys under `extra`."""
        reader = FieldReader(code="bad-regions", problems=self.problems)
        values, unknown = reader.values(fields_of(kind), data, key)
        return {**values, "extra": unknown}

    def note(self, message: str, key: str) -> None:
        self.problems.append(_bad(message, key))


def finite(raw: Any, name: str, key: str) -> float:
    """`raw` as a finite number; text and booleans are none. Raises InputError "bad-regions"."""
    if isinstance(raw, bool) or not isinstance(raw, int | float) or abs(raw) > 1e12 or not math.isfinite(raw):
        raise _bad(f"'{name}' must be a finite number, not {_shown(raw)}.", key)
    return float(raw)


def _as_object(raw: str | Mapping[str, Any] | None) -> dict[str, Any]:
    if raw is None:
        return {}
    if isinstance(raw, str):
        if len(raw) > MAX_JSON:
            raise _bad("The regions are too long to be read.", None)
        try:
            loaded: Any = json.loads(raw) if raw.strip() else {}
        except (ValueError, RecursionError):
            raise _bad("The regions are not valid JSON.", None) from None
    else:
        loaded = raw
    if not isinstance(loaded, Mapping):
        raise _bad("The regions must be a JSON object.", None)
    return {str(name): value for name, value in cast("Mapping[Any, Any]", loaded).items()}


def _upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """`data` as the current version; a spec without a version is one of the current version."""
    version = data.get("v", VERSION)
    if isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise _bad(f"'v' must be a version number, not {_shown(version)}.", "v")
    if version > VERSION:
        raise _bad(f"These regions are of version {version}; this program knows versions up to {VERSION}.", "v")
    for step in range(version, VERSION):
        if step not in MIGRATIONS:
            raise _bad(f"Regions of version {version} cannot be read any more.", "v")
        data = MIGRATIONS[step](data)
    return data


def _box(raw: Any, key: str) -> Box:
    """[x0, y0, x1, y1]; corners in any order, cut to the picture."""
    x0, y0, x1, y1 = (min(1.0, max(0.0, finite(value, "r", key))) for value in _list_of(raw, 4, "r", key))
    box = Box(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    if box.area < SMALLEST_AREA:
        raise _bad("The box has no area inside the picture.", key)
    return box


def _polygon(raw: Any, key: str) -> Polygon:
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise _bad("'p' must be a list of points.", key)
    listed = cast("Sequence[Any]", raw)
    if not 3 <= len(listed) <= MAX_VERTICES:
        raise _bad(f"A polygon has 3 to {MAX_VERTICES} points, not {len(listed)}.", key)
    points: list[tuple[float, float]] = []
    for point in listed:
        x, y = (finite(value, "p", key) for value in _list_of(point, 2, "p", key))
        points.append((min(2.0, max(-1.0, x)), min(2.0, max(-1.0, y))))
    polygon = Polygon(tuple(points))
    box = polygon.bounds
    inside = Box(max(0.0, box.left), max(0.0, box.top), min(1.0, box.right), min(1.0, box.bottom))
    if inside.right <= inside.left or inside.bottom <= inside.top or inside.area < SMALLEST_AREA:
        raise _bad("The polygon has no area inside the picture.", key)
    return polygon


def _mask(data: Mapping[str, Any], key: str) -> Mask:
    sizes = [
        finite(data.get(name, 1 if name == "bits" else None), name, f"{key}.{name}") for name in ("w", "h", "bits")
    ]
    packed = data.get("z")
    if not isinstance(packed, str) or not all(size.is_integer() for size in sizes):
        raise _bad("A mask needs w, h and its data z.", key)
    return Mask.unpacked(int(sizes[0]), int(sizes[1]), int(sizes[2]), packed, key)


def _png(raw: Any, key: str) -> Mask:
    if not isinstance(raw, str) or len(raw) > MAX_JSON:
        raise _bad("A mask needs a PNG as base64.", key)
    try:
        data = base64.b64decode(raw.partition(",")[2] if raw.startswith("data:") else raw, validate=True)
    except (binascii.Error, ValueError):
        raise _bad("The PNG of the mask is not valid base64.", key) from None
    return Mask.from_png(data, key)


def _list_of(raw: Any, count: int, name: str, key: str) -> Sequence[Any]:
    if not isinstance(raw, Sequence) or isinstance(raw, str) or len(cast("Sequence[Any]", raw)) != count:
        raise _bad(f"'{name}' must be a list of {count} numbers, not {_shown(raw)}.", key)
    return cast("Sequence[Any]", raw)


def _shown(raw: Any) -> str:
    shown = repr(raw) if not isinstance(raw, str) else f"'{raw}'"
    return shown if len(shown) <= 40 else shown[:37] + "…"
