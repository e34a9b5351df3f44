"""Options and recipes: every wrong name and type gets an error with its key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lib_loraclr.core.errors import InputError
from lib_loraclr.core.methods import METHODS
from lib_loraclr.merging.config import JOB_OPTIONS, config_of
from lib_loraclr.merging.options import LoraChoice, load_recipe, parse_lora_argument, parse_merge_options

GOOD: dict[str, Any] = {"lora": ["a.safetensors"], "out": "m.safetensors"}


@pytest.mark.parametrize(
    ("text", "file", "weight", "te_weight"),
    [
        ("a.safetensors", "a.safetensors", 1.0, None),
        ("a.safetensors:0.5", "a.safetensors", 0.5, None),
        ("a.safetensors:-1:0", "a.safetensors", -1.0, 0.0),
        ("a.safetensors:1e-1:.5", "a.safetensors", 0.1, 0.5),
        ("C:\\loras\\a.safetensors", "C:\\loras\\a.safetensors", 1.0, None),
        ("C:\\loras\\a.safetensors:0.7", "C:\\loras\\a.safetensors", 0.7, None),
        ("odd:name.safetensors:0.7:0.2", "odd:name.safetensors", 0.7, 0.2),
        ("a:1:2:3", "a:1", 2.0, 3.0),
        ("a.safetensors:nan", "a.safetensors:nan", 1.0, None),
        ("a.safetensors:", "a.safetensors:", 1.0, None),
    ],
)
def test_lora_argument(text: str, file: str, weight: float, te_weight: float | None) -> None:
    assert parse_lora_argument(text) == LoraChoice(Path(file), weight, te_weight)


def test_a_file_that_exists_keeps_its_colons(tmp_path: Path) -> None:
    (tmp_path / "take:2").write_bytes(b"")
    assert parse_lora_argument(f"{tmp_path}/take:2") == LoraChoice(tmp_path / "take:2")
    assert parse_lora_argument(f"{tmp_path}/take:2:0.5") == LoraChoice(tmp_path / "take:2", 0.5)
    assert parse_lora_argument("take:2:0.5", folder=tmp_path) == LoraChoice(tmp_path / "take:2", 0.5)


@pytest.mark.parametrize(
    ("change", "code", "key"),
    [
        ({"marign": 1}, "unknown-option", "marign"),
        ({"lora": []}, "empty-selection", "lora"),
        ({"lora": None}, "empty-selection", "lora"),
        ({"lora": "a.safetensors"}, "bad-option", "lora"),
        ({"lora": [3]}, "bad-option", "lora[0]"),
        ({"lora": [{"file": "a", "wieght": 1}]}, "unknown-option", "lora[0].wieght"),
        ({"lora": [{"weight": 1}]}, "missing-option", "lora[0].file"),
        ({"lora": ["a", {"file": "b", "weight": "1"}]}, "bad-option", "lora[1].weight"),
        ({"lora": [{"file": "a", "weight": True}]}, "bad-option", "lora[0].weight"),
        ({"lora": [{"file": "a", "te_weight": float("inf")}]}, "bad-option", "lora[0].te_weight"),
        ({"lora": [{"file": "a", "trigger": 5}]}, "bad-option", "lora[0].trigger"),
        ({"out": ""}, "missing-option", "out"),
        ({"out": 7}, "bad-option", "out"),
        ({"preset": "quick"}, "bad-option", "preset"),
        ({"dtype": "fp8"}, "bad-option", "dtype"),
        ({"seed": 1.5}, "bad-option", "seed"),
        ({"seed": True}, "bad-option", "seed"),
        ({"overwrite": 1}, "bad-option", "overwrite"),
        ({"method": ["sum"]}, "bad-option", "method"),
        ({"option": ["margin=1"]}, "bad-option", "option"),
        ({"option": {"margin": [1]}}, "bad-option", "option.margin"),
        ({"option": {"margin": float("nan")}}, "bad-option", "option.margin"),
        ({"version": 99}, "bad-version", "version"),
        ({"version": "1"}, "bad-option", "version"),
    ],
)
def test_wrong_recipes_name_the_key(change: dict[str, Any], code: str, key: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_merge_options({**GOOD, **change}, source="recipe.json")
    assert (caught.value.code, caught.value.key, caught.value.file) == (code, key, "recipe.json")


@pytest.mark.parametrize(
    ("change", "code", "key"),
    [
        ({"method": "magic"}, "unknown-method", None),
        ({"option": {"marign": 1}}, "bad-option", "marign"),
        ({"option": {"margin": "wide"}}, "bad-option", "margin"),
        ({"option": {"margin": -1}}, "bad-option", "margin"),
        ({"option": {"prompts": 0}}, "bad-option", "prompts"),
        ({"option": {"size": "512"}}, "bad-option", "size"),
        ({"option": {"size": "513x512"}}, "bad-option", "size"),
        ({"rank": "big"}, "bad-rank", "rank"),
        ({"rank": 0}, "bad-rank", "rank"),
        ({"preset": "instant", "method": "contrastive"}, "bad-option", "preset"),
        ({"device": "abacus"}, "bad-device", "device"),
    ],
)
def test_options_that_cannot_work(change: dict[str, Any], code: str, key: str | None) -> None:
    with pytest.raises(InputError) as caught:
        config_of(parse_merge_options({**GOOD, **change}))
    assert (caught.value.code, caught.value.key) == (code, key)


def test_instant_chooses_a_model_free_method() -> None:
    plan = config_of(parse_merge_options({**GOOD, "preset": "instant", "device": "cpu"}))
    assert plan.method.name == "sum"
    assert not plan.samples


def test_capture_options_do_not_hide_options_of_a_method() -> None:
    capture = {option.name for option in JOB_OPTIONS}
    assert all(capture.isdisjoint(option.name for option in method.options) for method in METHODS.values())


def test_a_recipe_comes_back_as_it_was(tmp_path: Path) -> None:
    raw = {
        "version": 1,
        "checkpoint": "base.safetensors",
        "lora": [
            {"file": "a.safetensors", "weight": -0.5, "te_weight": 0, "trigger": "", "class_word": "cat"},
            "b:0.5",
        ],
        "method": "ties",
        "rank": 16,
        "seed": 7,
        "out": "m.safetensors",
        "option": {"density": 0.3},
    }
    options = parse_merge_options(raw)
    assert options.rank == "16"
    assert options.lora[0].trigger == ""
    assert options.lora[1] == LoraChoice(Path("b"), 0.5)
    again = json.loads(json.dumps(options.as_recipe()))
    assert parse_merge_options(again) == options


def test_the_kind_of_a_lora_survives_the_recipe() -> None:
    options = parse_merge_options({**GOOD, "lora": [{"file": "a.safetensors", "kind": "style"}, "b.safetensors"]})
    assert parse_merge_options(options.as_recipe()).lora[0].kind == "style"
    assert "kind" not in options.as_recipe()["lora"][1], "nobody said one"
    with pytest.raises(InputError) as caught:
        parse_merge_options({**GOOD, "lora": [{"file": "a", "kind": "vehicle"}]})
    assert (caught.value.code, caught.value.key) == ("bad-option", "lora[0].kind")


def test_prompts_of_a_lora_are_templates_and_survive_the_recipe() -> None:
    mine = ["a sketch of {c}", "{c} beside {other}"]
    options = parse_merge_options({**GOOD, "lora": [{"file": "a.safetensors", "prompts": mine}, "b.safetensors"]})
    assert options.lora[0].prompts == tuple(mine)
    assert "prompts" not in options.as_recipe()["lora"][1]
    assert parse_merge_options(json.loads(json.dumps(options.as_recipe()))) == options
    for wrong in ("{trigger}", "{", "{0}", "{c.x}", 3):
        with pytest.raises(InputError) as caught:
            parse_merge_options({**GOOD, "lora": [{"file": "a", "prompts": ["{c}", wrong]}]})
        assert caught.value.key == "lora[0].prompts"


def test_paths_of_a_recipe_start_from_its_folder(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({**GOOD, "report": "/elsewhere"}), encoding="utf-8")
    raw, folder = load_recipe(recipe)
    options = parse_merge_options(raw, folder=folder)
    assert options.lora[0].file == tmp_path / "a.safetensors"
    assert options.out == tmp_path / "m.safetensors"
    assert options.report == Path("/elsewhere")


@pytest.mark.parametrize("text", ["", "{", "[1]", '"text"', "\x80"])
def test_a_recipe_that_is_no_json_object(tmp_path: Path, text: str) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        load_recipe(recipe)
    assert (caught.value.code, caught.value.file) == ("bad-recipe", str(recipe))


def test_a_margin_does_not_change_the_model_that_runs_in_refinement() -> None:
    given = {**GOOD, "method": "contrastive", "device": "cpu"}
    plans = [config_of(parse_merge_options({**given, "option": {"margin": m}, "rank": r}))
             for m, r in ((1.1, "exact"), (1.4, "8"))]  # fmt: skip
    assert plans[0].student_options == plans[1].student_options
    ridged = config_of(parse_merge_options({**given, "option": {"ridge": 0.01}}))
    assert ridged.student_options["ridge"] == 0.01
