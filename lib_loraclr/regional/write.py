"""`RegionalSpec` to JSON, and the JSON schema of it."""

from __future__ import annotations

import base64
import json
from typing import Any

from lib_loraclr.options import as_json, json_schema
from lib_loraclr.regional.shapes import MAX_MASK_SIDE, MAX_VERTICES, Box, Polygon, Shape
from lib_loraclr.regional.spec import MAX_REGIONS, VERSION, Region, RegionalSpec, RegionLora


def spec_as_json(spec: RegionalSpec, *, full: bool = False) -> dict[str, Any]:
    """The spec as JSON values; fields at their default are left out unless `full`. Unknown keys come back."""
    data = as_json(spec, full=full)
    data["regions"] = [_region(region, full) for region in spec.regions]
    return {"v": VERSION, **data}


def dump_spec(spec: RegionalSpec) -> str:
    """One line of JSON without spaces: the form of infotext, presets and the panel's hidden field."""
    return json.dumps(spec_as_json(spec), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def shape_as_json(shape: Shape) -> dict[str, Any]:
    """One shape."""
    if isinstance(shape, Box):
        return {"t": "box", "r": [shape.left, shape.top, shape.right, shape.bottom]}
    if isinstance(shape, Polygon):
        return {"t": "poly", "p": [list(point) for point in shape.points]}
    return {"t": "png", "png": base64.b64encode(shape.png()).decode("ascii")}


def spec_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of version 1, with defaults and a sentence for every field."""
    region = json_schema(Region)
    region["properties"]["shape"] = _shape_schema()
    region["properties"]["loras"] = {"type": "array", "items": {**json_schema(RegionLora), "required": ["name"]}}
    region["required"] = ["shape"]
    schema = json_schema(RegionalSpec)
    schema["properties"] = {
        "v": {"const": VERSION},
        "regions": {"type": "array", "maxItems": MAX_REGIONS, "items": region},
        "grid": {"type": "string", "description": "ratios such as 1,2;1,1: boxes for regions without a shape"},
        **schema["properties"],
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Regions of a picture", **schema}


def _region(region: Region, full: bool) -> dict[str, Any]:
    data: dict[str, Any] = {"shape": shape_as_json(region.shape), **as_json(region, full=full)}
    if region.loras or full:
        data["loras"] = [as_json(lora, full=full) for lora in region.loras]
    return data


def _shape_schema() -> dict[str, Any]:
    pair = {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number"}}
    side = {"type": "integer", "minimum": 1, "maximum": MAX_MASK_SIDE}

    def kind(name: str, **properties: Any) -> dict[str, Any]:
        return {"type": "object", "required": ["t", *properties], "properties": {"t": {"const": name}, **properties}}

    mask = kind("mask", w=side, h=side, z={"type": "string", "description": "base64 of deflated cells, row by row"})
    mask["properties"]["bits"] = {"enum": [1, 8], "default": 1}
    return {
        "oneOf": [
            kind("box", r={"type": "array", "minItems": 4, "maxItems": 4, "items": {"type": "number"},
                           "description": "left, top, right, bottom as shares of the picture"}),
            kind("poly", p={"type": "array", "minItems": 3, "maxItems": MAX_VERTICES, "items": pair}),
            mask,
            kind("png", png={"type": "string", "description": "a PNG as base64 or data URL; bright is inside"}),
        ]
    }  # fmt: skip
