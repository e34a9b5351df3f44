"""What version 0.1.0 has written is read as it was meant: layouts, and the line in a picture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from lib_loraclr.frontends.panel.axes import with_axes
from lib_loraclr.regional import RegionalSpec, dump_spec, parse_spec, spec_as_json, validate_spec

HERE = Path(__file__).parent


def written(name: str) -> Any:
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def check_layout(spec: RegionalSpec) -> None:
    first = spec.regions[0]
    assert (first.strength, first.weight, first.order, first.isolate) == (0.75, 2.0, 2, False)
    assert (first.negative, first.negative_mode) == ("fog", "replace")
    isolation = spec.isolation
    assert (isolation.strength, isolation.end, isolation.min_cells, isolation.separate_until) == (0.5, 0.3, 4, 0.25)
    assert (spec.separator, spec.base.negative, spec.base.in_regions) == ("AND", "empty", 0.25)
    assert (spec.hires.prompt_suffix, spec.extra, first.extra) == ("sharp", {"future": {"a": 1}}, {"later": [1]})


def test_a_layout_is_read_and_written_with_the_new_names() -> None:
    spec, problems = validate_spec(written("layout.json"))
    assert problems == []
    check_layout(spec)
    data = spec_as_json(spec)
    assert data["isolation"] == {"strength": 0.5, "end": 0.3, "min_cells": 4, "separate_until": 0.25}
    assert (data["regions"][0]["strength"], data["regions"][0]["isolate"]) == (0.75, False)
    assert not {"iso", "sep"} & set(data)
    assert not {"rho", "w", "z", "iso", "neg", "negmode"} & set(data["regions"][0])
    assert parse_spec(dump_spec(spec)) == spec


def test_the_line_in_a_picture_is_read() -> None:
    line = (HERE / "infotext.txt").read_text(encoding="utf-8").splitlines()[-1]
    fields = dict(re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', line))
    check_layout(parse_spec(json.loads(fields["Regional"])))


def test_a_plot_changes_an_old_layout() -> None:
    values = {"isolation.strength": 0.9, "isolation.separate_until": 0.1, "region 1 strength": 0.3}
    _, raw = with_axes(True, written("layout.json"), values)
    spec = parse_spec(raw)
    assert (spec.isolation.strength, spec.isolation.separate_until, spec.isolation.end) == (0.9, 0.1, 0.3)
    assert spec.regions[0].strength == 0.3


def test_an_error_names_the_key_as_it_is_written() -> None:
    _, problems = validate_spec({"iso": {"solo": 2}})
    assert [problem.key for problem in problems] == ["iso.solo"]
