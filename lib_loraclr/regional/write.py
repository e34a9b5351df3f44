"""`RegionalSpec` to JSON, and the JSON schema of it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from lib_loraclr.regional.rules import Rule, ruled
from lib_loraclr.regional.shapes import MAX_MASK_SIDE, MAX_VERTICES, Box, Polygon, Shape
from lib_loraclr.regional.spec import MAX_REGIONS, VERSION, Region, RegionalSpec, RegionLora


def spec_as_json(spec: RegionalSpec, *, full: bool = False) -> dict[str, Any]:
    """The spec as JSON values; fields at their default are left out unless `full`. Unknown keys come back."""
    data = _fields(spec, full)
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
    bits, packed = shape.packed()
    return {"t": "mask", "w": shape.width, "h": shape.height, "bits": bits, "z": packed}


def spec_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of version 1, with defaults and a sentence for every field."""
    region = _schema(Region)
    region["properties"]["shape"] = _shape_schema()
    region["properties"]["loras"] = {"type": "array", "items": {**_schema(RegionLora), "required": ["name"]}}
    region["required"] = ["shape"]
    schema = _schema(RegionalSpec)
    schema["properties"] = {
        "v": {"const": VERSION},
        "regions": {"type": "array", "maxItems": MAX_REGIONS, "items": region},
        "grid": {"type": "string", "description": "ratios such as 1,2;1,1: boxes for regions without a shape"},
        **schema["properties"],
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Regions of a picture", **schema}


def _region(region: Region, full: bool) -> dict[str, Any]:
    data: dict[str, Any] = {"shape": shape_as_json(region.shape), **_fields(region, full)}
    if region.loras or full:
        data["loras"] = [_fields(lora, full) for lora in region.loras]
    return data


def _fields(value: Any, full: bool) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for item, rule in ruled(type(value)):
        current = getattr(value, item.name)
        if rule.part is not None:
            inner = _fields(current, full)
            if inner:
                data[rule.key] = inner
        elif full or current != item.default:
            data[rule.key] = list(current) if isinstance(current, tuple) else current
    return {**data, **getattr(value, "extra", {})}


def _schema(kind: type[Any]) -> dict[str, Any]:
    properties = {rule.key: _rule_schema(rule, item) for item, rule in ruled(kind)}
    return {"type": "object", "properties": properties}


def _rule_schema(rule: Rule, item: dataclasses.Field[Any]) -> dict[str, Any]:
    if rule.part is not None:
        return {**_schema(rule.part), "description": rule.help}
    name = {"number": "number", "whole": "integer", "flag": "boolean", "text": "string", "span": "array"}[rule.kind]
    schema: dict[str, Any] = {"type": [name, "null"] if rule.optional else name, "description": rule.help}
    default = item.default
    schema["default"] = list(default) if isinstance(default, tuple) else default
    limits = {key: value for key, value in (("minimum", rule.low), ("maximum", rule.high)) if value is not None}
    if rule.kind == "span":
        schema |= {"minItems": 2, "maxItems": 2, "items": {"type": "number", **limits}}
    else:
        schema |= limits
    return schema | ({"enum": list(rule.choices)} if rule.choices else {})


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
