"""The spec's one JSON form: what comes in, what goes out, and what is refused with which words."""

from __future__ import annotations

import base64
import json
import re
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_loraclr.core.errors import InputError
from lib_loraclr.regional import Box, Mask, Polygon, dump_spec, parse_spec, spec_as_json, spec_schema, validate_spec
from lib_loraclr.regional import parse as parse_module
from lib_loraclr.regional.grid import grid_boxes
from lib_loraclr.regional.texts import region_prompts

BOX = {"t": "box", "r": [0.05, 0.1, 0.48, 1.0]}
FULL = {"t": "box", "r": [0, 0, 1, 1]}
RICH: dict[str, Any] = {
    "v": 1, "overlap": "top", "feather": 0.1, "base": {"in_regions": 0.25, "negative": "empty"}, "steps": [0, 0.9],
    "isolation": {"strength": 0.5, "end": 0.3, "separate_until": 0.25}, "hires": {"strength": 0.5}, "pooled": False,
    "future": {"a": 1},
    "regions": [
        {"id": "a", "shape": BOX, "prompt": 'Anna said: "hi", <lora:a:1> [x:y:0.5]\nline', "negative": "fog",
         "negative_mode": "replace", "order": 2, "weight": 2.0, "strength": 0.75, "feather": 0.0,
         "steps": [0.5, 1.0], "cfg": 5.5, "isolate": False, "concept": "anna",
         "loras": [{"name": "x", "te": 0.5}], "later": [1]},
        {"id": "b", "shape": {"t": "poly", "p": [[0.5, 0.1], [0.95, 0.2], [0.9, 1.0]]}, "on": False},
        {"id": "c", "shape": {"t": "mask", "w": 3, "h": 2, "bits": 1, "z": "eNrbAgAAtQC1"}},
    ],
}  # fmt: skip


def test_text_object_and_nothing_are_the_same_spec() -> None:
    assert parse_spec(json.dumps(RICH)) == parse_spec(RICH)
    empty = parse_spec(None)
    assert empty == parse_spec("") == parse_spec("{}") == parse_spec({}) == parse_spec({"regions": []})
    assert empty.active() == ()
    least = parse_spec({"regions": [{"shape": FULL, "prompt": "x"}]})
    assert least.regions[0].shape == Box(0, 0, 1, 1)
    assert dump_spec(least) == '{"v":1,"regions":[{"shape":{"t":"box","r":[0.0,0.0,1.0,1.0]},"prompt":"x"}]}'


def test_everything_comes_back_unknown_keys_too() -> None:
    spec = parse_spec(RICH)
    assert parse_spec(dump_spec(spec)) == spec
    assert parse_spec(spec_as_json(spec, full=True)) == spec
    back = spec_as_json(spec)
    assert back["future"] == {"a": 1}
    assert back["regions"][0]["later"] == [1]
    assert {key: back["regions"][0][key] for key in RICH["regions"][0]} == RICH["regions"][0] | {
        "loras": [{"name": "x", "te": 0.5}]
    }
    assert [region.id for region in spec.active()] == ["a", "c"]


def test_the_spec_survives_the_line_that_a_picture_carries() -> None:
    """The WebUI quotes with JSON and reads back with this expression (infotext_utils, `re_param`)."""
    mask = Mask(64, 64, bytes(255 if (x // 7 + y // 5) % 3 else 0 for y in range(64) for x in range(64)))
    spec = parse_spec({**RICH, "regions": [*RICH["regions"], {"shape": {"t": "mask", **_packed(mask)}}]})
    line = f"Steps: 20, Regional: {json.dumps(dump_spec(spec), ensure_ascii=False)}, Size: 512x512"
    found = dict(re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', line))
    assert "\n" not in line
    assert found["Size"] == "512x512"
    assert parse_spec(json.loads(found["Regional"])) == spec


def packed(mask: Mask) -> tuple[int, str]:
    """(bits, base64 of the deflated cells) as version 0.1.0 wrote a mask: one bit a cell if all are 0 or 255."""
    bits, raw = 8, mask.values
    if not raw.translate(None, b"\x00\xff"):
        padded = raw + bytes(-len(raw) % 8)
        bits, raw = 1, bytes(sum(128 >> bit for bit in range(8) if padded[k + bit]) for k in range(0, len(padded), 8))
    return bits, base64.b64encode(zlib.compress(raw, 9)).decode("ascii")


def _packed(mask: Mask) -> dict[str, Any]:
    bits, data = packed(mask)
    return {"w": mask.width, "h": mask.height, "bits": bits, "z": data}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.data())
def test_masks_come_back(width: int, height: int, data: st.DataObject) -> None:
    cells = st.sampled_from([0, 255]) if data.draw(st.booleans()) else st.integers(0, 255)
    values = bytes(data.draw(st.lists(cells, min_size=width * height, max_size=width * height)))
    mask = Mask(width, height, values)
    assert Mask.unpacked(width, height, *packed(mask)) == mask
    assert Mask.from_png(mask.png()) == mask


def test_one_bit_masks_put_the_first_cell_highest() -> None:
    """10110000 01000000: nine cells, 1 0 1 1 0 0 0 0 0 1."""
    import base64
    import zlib

    packed = base64.b64encode(zlib.compress(bytes([0b10110000, 0b01000000]))).decode()
    assert Mask.unpacked(5, 2, 1, packed).values == bytes(255 * bit for bit in (1, 0, 1, 1, 0, 0, 0, 0, 0, 1))


BAD: list[tuple[Any, str | None, str]] = [
    ("{", None, "not valid JSON"),
    ("[1]", None, "JSON object"),
    ("[" * 100_000, None, "not valid JSON"),
    ({"v": 2}, "v", "version 2"),
    ({"v": True}, "v", "version number"),
    ({"v": 0}, "v", "cannot be read"),
    ({"regions": [{"shape": FULL}] * 200}, "regions", "200 regions; at most 64"),
    ({"regions": "x"}, "regions", "list"),
    ({"regions": [3]}, "regions[0]", "object"),
    ({"regions": [{}]}, "regions[0].shape", "needs a shape"),
    ({"regions": [{"shape": {"t": "star"}}]}, "regions[0].shape.t", "no shape 'star'"),
    ({"regions": [{"shape": {"t": "box", "r": [0.5, 0, 0.5, 1]}}]}, "regions[0].shape.r", "no area"),
    ({"regions": [{"shape": {"t": "box", "r": [2, 2, 3, 3]}}]}, "regions[0].shape.r", "no area"),
    ({"regions": [{"shape": {"t": "box", "r": [0, 0, 1]}}]}, "regions[0].shape.r", "list of 4"),
    ('{"regions":[{"shape":{"t":"box","r":[0,0,NaN,1]}}]}', "regions[0].shape.r", "finite"),
    ('{"feather":Infinity}', "feather", "finite"),
    ({"feather": "wide"}, "feather", "finite number"),
    ({"feather": 0.9}, "feather", "0 to 0.5"),
    ({"pooled": 1}, "pooled", "true or false"),
    ({"overlap": "sum"}, "overlap", "average, weighted, top"),
    ({"steps": [0.6, 0.2]}, "steps", "end before"),
    ({"isolation": {"min_cells": 2.5}}, "isolation.min_cells", "whole"),
    ({"isolation": 3}, "isolation", "object"),
    ({"isolation": {"separate_until": 1.5}}, "isolation.separate_until", "0 to 1"),
    ({"regions": [{"shape": FULL, "weight": -1}]}, "regions[0].weight", "0 to 10"),
    ({"regions": [{"shape": FULL, "loras": [{"te": 1}]}]}, "regions[0].loras[0]", "name"),
    ({"regions": [{"shape": FULL, "id": "a"}, {"shape": FULL, "id": "a"}]}, "regions", "same id"),
    ({"regions": [{"shape": {"t": "poly", "p": [[0, 0], [1, 1]]}}]}, "regions[0].shape.p", "3 to"),
    ({"regions": [{"shape": {"t": "poly", "p": [[2, 2], [3, 2], [3, 3]]}}]}, "regions[0].shape.p", "no area"),
    ({"regions": [{"shape": {"t": "mask", "w": 4, "h": 2, "z": "eNrbAgAAtQC1"}}]}, None, ""),
    (
        {"regions": [{"shape": {"t": "mask", "w": 40, "h": 20, "z": "eNrbAgAAtQC1"}}]},
        "regions[0].shape",
        "fit its size",
    ),
    ({"regions": [{"shape": {"t": "mask", "w": 4, "h": 2, "z": "?"}}]}, "regions[0].shape", "damaged"),
    ({"regions": [{"shape": {"t": "mask", "w": 99999, "h": 2, "z": "eJw="}}]}, "regions[0].shape", "1 to 2048"),
    ({"regions": [{"shape": {"t": "png", "png": "AAAA"}}]}, "regions[0].shape.png", "not a PNG"),
    ({"grid": "1,x", "regions": [{}]}, "grid", "not a list of ratios"),
]


@pytest.mark.parametrize(("raw", "key", "words"), BAD)
def test_bad_specs_are_refused_by_place_and_in_words(raw: Any, key: str | None, words: str) -> None:
    spec, problems = validate_spec(raw)
    if not words:
        assert problems == []
        return
    assert problems[0].key == key
    assert words in problems[0].message
    with pytest.raises(InputError, match=re.escape(words)):
        parse_spec(raw)
    assert parse_spec(spec_as_json(spec)) == spec, "what is left must be usable"


def test_a_bomb_is_not_unpacked() -> None:
    bomb = base64.b64encode(zlib.compress(bytes(50_000_000))).decode()
    with pytest.raises(InputError, match="fit its size"):
        Mask.unpacked(8, 8, 8, bomb)


def test_old_versions_go_through_every_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(data: dict[str, Any]) -> dict[str, Any]:
        return {("feather" if key == "blur" else key): value for key, value in data.items()}

    monkeypatch.setitem(parse_module.MIGRATIONS, 0, rename)
    assert parse_spec({"v": 0, "blur": 0.3}).feather == 0.3


def test_a_grid_gives_regions_their_boxes() -> None:
    spec = parse_spec({"grid": "1,1,3;1,1", "regions": [{}, {"shape": BOX}, {}]})
    assert [region.shape for region in spec.regions] == [
        Box(0, 0, 0.25, 0.5), Box(0.05, 0.1, 0.48, 1.0), Box(0, 0.5, 1, 1),
    ]  # fmt: skip
    assert grid_boxes("1,3") == (Box(0, 0, 0.25, 1), Box(0.25, 0, 1, 1))
    assert grid_boxes("1,3", stacked=True) == (Box(0, 0, 1, 0.25), Box(0, 0.25, 1, 1))
    assert grid_boxes("1;1,1;1;3", stacked=True) == (Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 0.25), Box(0.5, 0.25, 1, 1))
    for wrong in ("", "1,,2", "0,1", "1,-1", "nan", ",".join(["1"] * 65)):
        with pytest.raises(InputError):
            grid_boxes(wrong)


def test_the_schema_names_every_field_with_its_default() -> None:
    schema = spec_schema()
    region = schema["properties"]["regions"]["items"]
    full = spec_as_json(parse_spec({"regions": [{"shape": FULL}]}), full=True)
    assert set(full) <= set(schema["properties"])
    assert set(full["regions"][0]) == set(region["properties"])
    assert all(full[key] == schema["properties"][key]["default"] for key in ("overlap", "feather", "steps", "raster"))
    assert full["isolation"]["end"] == schema["properties"]["isolation"]["properties"]["end"]["default"] == 0.4
    assert (
        full["isolation"]["separate_until"]
        == schema["properties"]["isolation"]["properties"]["separate_until"]["default"]
        == 0.0
    )
    assert all(rule.get("description") for key, rule in region["properties"].items() if key not in ("shape", "loras"))
    json.dumps(schema)


def test_what_a_region_says() -> None:
    def texts(region: dict[str, Any], negative: str = "fog", **spec: Any) -> tuple[str, str | None]:
        hires = spec.pop("is_hires", False)
        parsed = parse_spec({**spec, "regions": [{"shape": FULL, **region}]})
        one = region_prompts(parsed, "a park,", negative, hires=hires, triggers={"anna": "zor woman"})[0]
        return one.positive, one.negative

    assert texts({"prompt": "x"}) == ("x", None)
    assert texts({"prompt": "x"}, base={"prepend": True}) == ("a park, x", None)
    assert texts({"prompt": "x"}, hires={"prompt_suffix": "sharp"}) == ("x", None)
    assert texts({"prompt": "x"}, hires={"prompt_suffix": "sharp"}, is_hires=True) == ("x, sharp", None)
    assert texts({"prompt": "red coat", "concept": "anna"}) == ("zor woman, red coat", None)
    assert texts({"prompt": "zor woman, red", "concept": "anna"}) == ("zor woman, red", None)
    assert texts({"negative": "hat"}) == ("", "fog, hat")
    assert texts({"negative": "hat", "negative_mode": "replace"}) == ("", "hat")
    assert texts({"negative": "hat", "negative_mode": "inherit"}) == ("", None)
    assert texts({"negative": "fog", "negative_mode": "replace"}) == ("", None)
    assert texts({}, base={"negative": "empty"}) == ("", "")
    assert texts({}, "", base={"negative": "empty"}) == ("", None)
    assert texts({"loras": [{"name": "ink"}]}) == ("", "fog")  # the same words, but with its LoRA
    assert texts({"loras": [{"name": "ink"}], "negative_mode": "inherit"}) == ("", "fog")


def test_polygon_areas() -> None:
    assert Polygon(((0, 0), (1, 0), (0, 1))).area == 0.5
    assert Polygon(((0, 0), (0.5, 0), (0.5, 0.5), (0, 0.5))).area == 0.25
