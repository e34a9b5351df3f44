"""Settings to options and back, names of new files, and what a merge will cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ui_parts import LAYERS, write_lora

from lib_loraclr.app.catalogue import free_name, lora_path
from lib_loraclr.app.cost import MergeCost, Pace, file_bytes
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.methods import METHODS
from lib_loraclr.frontends.tab import settings
from lib_loraclr.frontends.tab.estimate import estimate
from lib_loraclr.frontends.tab.facts import FileFacts
from lib_loraclr.merging.config import JOB_OPTIONS, MergeConfig, config_of
from lib_loraclr.merging.pipeline import merge
from lib_loraclr.model import ModelInfo, Phase, SilentProgress

CPU = ModelInfo("tiny", "sd1", "", 64, torch.device("cpu"), torch.float32)


def options(folder: Path, values: dict[str, Any], *names: str) -> Any:
    loras = [{"file": str(folder / f"{name}.safetensors"), "trigger": name} for name in names or ("anna", "ben")]
    return settings.options_of(values, loras, folder, cache=None, device="cpu")


def test_untouched_settings_are_the_jobs_own_defaults(folder: Path) -> None:
    plan = config_of(options(folder, settings.defaults()))
    bare = config_of(replace(plan.options, option={}))
    assert plan == bare
    assert plan.options.out == folder / "merged.safetensors"


def test_every_option_of_every_method_has_a_control() -> None:
    own = {f"{method.name}.{option.name}" for method in METHODS.values() for option in method.options}
    assert set(settings.NAMES) == {*settings.SIMPLE, *own, *(f"capture.{option.name}" for option in JOB_OPTIONS)}
    assert len(set(settings.NAMES)) == len(settings.NAMES)


def test_only_the_chosen_methods_options_count(folder: Path) -> None:
    values = {**settings.defaults(), "preset": "instant", "method": "ties", "ties.density": 0.4, "ties.rank": 3.0}
    found = options(folder, values)
    assert found.option == {"density": 0.4, "scale": 1.0, "rank": 3}
    assert config_of(found).method.name == "ties"


def test_emptied_controls_mean_their_default() -> None:
    values = settings.named(dict.fromkeys(settings.NAMES))
    assert values == settings.defaults()


@pytest.mark.parametrize(
    ("kind", "text"), [("exact", "exact"), ("fixed", "24"), ("energy", "energy=0.9"), ("size", "size=12.5")]
)
def test_rank_there_and_back(kind: str, text: str) -> None:
    values = {**settings.defaults(), "rank_kind": kind, "rank_fixed": 24.0, "rank_energy": 0.9, "rank_size": 12.5}
    assert settings.rank_of(values) == text
    found = settings.from_recipe({"rank": text})
    assert found["rank_kind"] == kind
    assert kind == "exact" or found[f"rank_{kind}"] == values[f"rank_{kind}"]


def test_a_recipe_of_a_real_merge_sets_every_setting(folder: Path, tmp_path: Path) -> None:
    values = {**settings.defaults(), "preset": "instant", "method": "dare", "dare.drop": 0.25, "dtype": "fp32"}
    values |= {"seed": 11, "rank_kind": "fixed", "rank_fixed": 5, "name": "both"}
    outcome = merge(options(folder, values), open_host=None, progress=SilentProgress())  # type: ignore[arg-type]
    recipe = FileFacts().facts(outcome.out).recipe
    assert recipe is not None
    found = settings.from_recipe(recipe)
    assert {name: found[name] for name in found} == {name: values[name] for name in found}
    assert {"preset", "method", "dare.drop", "dare.scale", "dtype", "seed", "rank_kind", "rank_fixed"} <= set(found)


def test_a_strange_recipe_sets_only_what_makes_sense() -> None:
    strange = {
        "method": "magic", "preset": 3, "rank": "many", "dtype": "int4", "seed": True, "option": {"margin": "wide"},
    }  # fmt: skip
    assert settings.from_recipe(strange) == {}
    assert settings.from_recipe({"method": "ties", "option": [1]}) == {"method": "ties"}


@pytest.mark.parametrize(
    ("changed", "before", "after"),
    [
        ("preset", ("instant", "contrastive"), ("instant", "sum")),
        ("preset", ("layerwise", "ties"), ("layerwise", "gradient-fusion")),
        ("preset", ("text", "gradient-fusion"), ("text", "gradient-fusion")),
        ("method", ("layerwise", "svd"), ("instant", "svd")),
        ("method", ("instant", "contrastive"), ("distilled", "contrastive")),
        ("method", ("text", "gradient-fusion"), ("text", "gradient-fusion")),
    ],
)
def test_preset_and_method_settle_each_other(changed: str, before: tuple[str, str], after: tuple[str, str]) -> None:
    assert settings.settle(*before, changed=changed) == after


@pytest.mark.parametrize("name", ["", "  ", "a/b", "..\\x", "../up", "a:b", "nul", "CON.x", "x.", ".hidden", "a" * 200])
def test_names_that_are_no_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        lora_path(tmp_path, name)
    assert caught.value.code == "bad-output-name"


def test_names(tmp_path: Path) -> None:
    assert lora_path(tmp_path, " my LoRA.safetensors ") == tmp_path / "my LoRA.safetensors"
    assert free_name(tmp_path, "m") == "m"
    for name in ("M", "m-2", "m-3"):
        (tmp_path / f"{name}.safetensors").touch()
    assert free_name(tmp_path, "m") == "m-4"
    assert free_name(tmp_path, "m-3") == "m-4"


def test_the_estimated_file_is_the_written_one(folder: Path) -> None:
    for dtype, rank in (("fp16", "exact"), ("fp32", "exact"), ("fp16", "fixed")):
        values = {**settings.defaults(), "preset": "instant", "method": "sum", "dtype": dtype, "overwrite": True}
        values |= {"rank_kind": rank, "rank_fixed": 3}
        plan = config_of(options(folder, values))
        layouts = [FileFacts().layers(choice.file) for choice in plan.options.lora]
        expected, at_most = file_bytes(plan, layouts)
        written = merge(plan.options, open_host=None, progress=SilentProgress()).bytes  # type: ignore[arg-type]
        assert not at_most
        assert abs(expected - written) < 3000 + 0.02 * written  # metadata and header names are not counted


FULL = {"preset": "layerwise"}


def test_layouts_have_every_layer_with_its_sides(folder: Path) -> None:
    layout = FileFacts().layers(folder / "anna.safetensors")
    assert sorted((item.out_features, item.in_features) for item in layout) == sorted(LAYERS.values())
    assert {item.rank for item in layout} == {4}


def test_steps_are_counted_by_hand(folder: Path) -> None:
    values = {**settings.defaults(), "gradient-fusion.rounds": 2, "capture.sampling_steps": 10}
    values |= {"capture.prompts": 5, "capture.neutral_prompts": 8, "capture.held_out_prompts": 1}
    plan = config_of(options(folder, values))
    # per round: 2 LoRAs x 5 pictures + 8 neutral; three rounds; once 2 x 1 held out
    cost = MergeCost.of(plan)
    assert cost.count(Phase.WATCH).rows == 10 * (3 * (2 * 5 + 8) + 2 * 1)
    # four pictures a batch: 2 batches a LoRA, 2 neutral; held out 1 batch a LoRA
    assert cost.sampling_steps() == 10 * (3 * (2 * 2 + 2) + 2 * 1)


def test_pace_is_learned_and_a_cached_merge_samples_nothing(folder: Path) -> None:
    plan: MergeConfig = config_of(options(folder, {**settings.defaults(), "preset": "layerwise"}))
    layouts = [FileFacts().layers(choice.file) for choice in plan.options.lora]
    pace = Pace()
    first = estimate(plan, layouts, CPU, pace)
    assert not first.measured
    steps = MergeCost.of(plan).count(Phase.WATCH).rows
    pace.learn(CPU, plan, Phase.WATCH, steps, 2.0 * steps)
    second = estimate(plan, layouts, CPU, pace)
    assert second.measured
    assert second.seconds == pytest.approx(2.0 * steps, abs=10)
    cached = estimate(plan, layouts, CPU, pace, cached=True)
    assert (cached.steps, cached.seconds is not None and cached.seconds < 10) == (0, True)
    assert estimate(plan, layouts, None, pace).seconds is None


def test_a_distillation_is_counted_by_hand(folder: Path) -> None:
    values = {
        **settings.defaults(),
        "preset": "distilled",
        "capture.sampling_steps": 10,
        "capture.distill_steps_per_lora": 50,
    }
    plan = config_of(options(folder, values))
    layouts = [FileFacts().layers(choice.file) for choice in plan.options.lora]
    pace = Pace()
    pace.learn(CPU, plan, Phase.WATCH, 1, 1.0)  # one second a picture and step
    found, without = (estimate(p, layouts, CPU, pace) for p in (plan, config_of(options(folder, {**values, **FULL}))))
    # 2 LoRAs x 16 pictures in 4 batches, 32 neutral ones in 8, each batch 10 sampling steps and 16 noise levels;
    # the exam: 2 LoRAs x 2 pictures and 4 neutral ones, three batches of 8 levels, and three models that answer
    exam = 3 * (10 + 8) + 3
    assert found.steps - without.steps == (2 * 4 + 8) * (10 + 16) + exam + 100
    # guided pictures ask the model twice a step; a backward pass costs two forward ones; 12 rows a step; and the merge
    # itself is scored once, also when everything else is found in the cache
    scoring, learning = (2 * 2 + 4) * 8, 3 * 100 * 12
    assert found.seconds is not None
    assert without.seconds is not None
    assert found.seconds - without.seconds == pytest.approx(
        (2 * 16 + 32) * (2 * 10 + 16) + (2 * 2 + 4) * (2 * 10 + 8) + 3 * (2 * 2 + 4) * 8 + learning + scoring,
        abs=10,
    )
    cached = estimate(plan, layouts, CPU, pace, cached=True)  # what was learned is kept too
    assert (cached.steps, cached.seconds) == (0, pytest.approx(scoring, abs=10))


def test_a_memory_budget_caps_the_memory_and_costs_passes(folder: Path, tmp_path: Path) -> None:
    big = write_lora(tmp_path / "big.safetensors", 1)
    layouts = [FileFacts().layers(big)] * 2
    values = {**settings.defaults(), **FULL, "capture.memory_budget": 10}
    plan = config_of(options(folder, values))
    wide = [[replace(item, in_features=1024) for item in items] for items in layouts]
    # four inputs of 1024, two of them watched in pictures; on the CPU 8 MiB each, elsewhere 4
    assert estimate(plan, wide, CPU, Pace()).steps == 2 * estimate(plan, layouts, CPU, Pace()).steps
    gpu = replace(CPU, device=torch.device("cuda"))
    assert estimate(plan, wide, gpu, Pace()).steps == estimate(plan, layouts, gpu, Pace()).steps
