"""What version 0.1.0 has written is read as it was meant: recipes, requests, layouts, and the line in a picture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lib_loraclr.app.application import CatalogueEntry
from lib_loraclr.core.errors import InputError
from lib_loraclr.frontends.api.requests import merge_options
from lib_loraclr.frontends.cli.merge import options_of
from lib_loraclr.frontends.cli.parser import build_parser
from lib_loraclr.frontends.panel.axes import with_axes
from lib_loraclr.frontends.tab import settings
from lib_loraclr.merging.config import MergeConfig, config_of
from lib_loraclr.merging.options import parse_merge_options
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


def check_plan(plan: MergeConfig, steps: int) -> None:
    assert (plan.options.preset, plan.distill.total_steps) == ("distilled", steps)
    assert plan.distill.text_encoder_slowdown_after == 300
    options = plan.method_options
    assert (options["margin"], options["norm_penalty"], options["prior_preservation"]) == (1.4, 0.002, 0.2)
    assert (plan.capture.prompts, plan.capture.size) == (6, (512, 768))


def test_a_recipe_is_read_and_written_with_the_new_names() -> None:
    plan = config_of(parse_merge_options(written("recipe.json")))
    check_plan(plan, 2 * 150)
    again = plan.options.as_recipe()
    assert not {"anchor", "shrink", "distill", "text_steps", "negatives", "metric"} & set(again["option"])
    assert {**again, "option": {}, "preset": "best"} == {**written("recipe.json"), "option": {}}
    assert config_of(parse_merge_options(again)) == plan
    full = config_of(parse_merge_options(written("recipe-full.json")))
    assert (full.options.preset, full.method_options["prior_preservation"]) == ("layerwise", 0.3)
    assert full.distill.total_steps == 0


def test_the_recipe_in_a_merged_file_sets_the_tab() -> None:
    values = settings.from_recipe(written("merged-metadata.json"))
    assert (values["preset"], values["method"], values["rank_energy"]) == ("distilled", "contrastive", 0.95)
    assert (values["contrastive.norm_penalty"], values["contrastive.prior_preservation"]) == (0.002, 0.2)
    assert (values["capture.distill_steps_per_lora"], values["capture.text_encoder_slowdown_after"]) == (150, 300)
    assert values["capture.size"] == "512x768"


class Catalogue:
    def entries(self, refresh: bool = False) -> list[CatalogueEntry]:
        return [CatalogueEntry(name, Path(f"/loras/{name}.safetensors")) for name in ("anna", "ben")]

    def folder(self) -> Path:
        return Path("/loras")


def test_a_request_is_read() -> None:
    options = merge_options(Catalogue(), written("api-body.json"), None)  # type: ignore[arg-type]
    plan = config_of(options)
    assert (options.preset, options.rank, options.overwrite, options.lora[0].te_weight) == ("layerwise", "8", True, 0.5)
    assert (plan.method_options["norm_penalty"], plan.method_options["prior_preservation"]) == (0.002, 0.2)


def test_a_command_line_is_read_and_wins_over_the_recipe() -> None:
    line = ["merge", str(HERE / "recipe.json"), "--preset", "full", "--option", "distill=7", "--option", "shrink=0.5"]
    options = options_of(build_parser().parse_args(line))
    assert options.preset == "layerwise"
    plan = config_of(options)
    assert plan.method_options["norm_penalty"] == 0.5
    assert plan.options.option["distill_steps_per_lora"] == 7


@pytest.mark.parametrize(("name", "value"), [("negatives", "paper"), ("metric", "attention")])
def test_what_is_gone_is_refused_in_a_sentence(name: str, value: str) -> None:
    raw = written("recipe.json")
    raw["option"][name] = value
    with pytest.raises(InputError, match=f"The option {name} can only be") as caught:
        config_of(parse_merge_options(raw))
    assert (caught.value.code, caught.value.key) == ("bad-option", name)
