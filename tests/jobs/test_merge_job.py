"""The merge job on the tiny checkpoint: weights, determinism, cache, cancel, files, and what is refused before work."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_loras import LAYERS, QUICK, Recorder, lora_tensors, options_for, true_delta, write_lora_file

from lib_loraclr.core.errors import Cancelled, InputError
from lib_loraclr.formats import FileWarning, recipe_of
from lib_loraclr.hosts.standalone import load_checkpoint
from lib_loraclr.merging.options import LoraChoice, MergeOptions, load_recipe, parse_merge_options
from lib_loraclr.merging.outcome import MergeOutcome
from lib_loraclr.merging.pipeline import merge


def open_tiny(checkpoint: Path | None, device: str) -> Any:
    assert checkpoint is not None
    return load_checkpoint(checkpoint, device=device)


def no_model(checkpoint: Path | None, device: str) -> Any:
    pytest.fail("this merge must not open a model")


def run(
    options: MergeOptions, progress: Recorder | None = None, opener: Callable[..., Any] = open_tiny
) -> MergeOutcome:
    return merge(options, open_host=opener, progress=progress or Recorder())


def deltas_in(path: Path) -> dict[str, torch.Tensor]:
    """Key stem -> true delta of a merged kohya file, by the formula that hosts use."""
    tensors = load_file(path)
    stems = [key.removesuffix(".lora_up.weight") for key in tensors if key.endswith(".lora_up.weight")]
    return {stem: true_delta({k: v for k, v in tensors.items() if k.startswith(stem + ".")}, stem) for stem in stems}


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_sum_weighs_unet_and_text_encoder_apart(loras: list[Path], tmp_path: Path, cache: Path) -> None:
    weights = [(0.7, None), (-0.5, 2.0), (0.0, 0.25)]
    chosen = tuple(LoraChoice(path, w, te) for path, (w, te) in zip(loras, weights, strict=True))
    options = options_for(
        [], tmp_path / "sum.safetensors", None, cache, quick=False, lora=chosen, method="sum", dtype="fp32"
    )
    outcome = run(options, opener=no_model)
    found = deltas_in(outcome.out)
    assert set(found) == set(LAYERS)
    for key in LAYERS:
        expected = sum(
            (0.0 if (te if key.startswith("lora_te") and te is not None else w) == 0 else 1.0)
            * (te if key.startswith("lora_te") and te is not None else w)
            * true_delta(load_file(path), key)
            for path, (w, te) in zip(loras, weights, strict=True)
        )
        assert torch.linalg.norm(found[key] - expected) <= 1e-6 * torch.linalg.norm(expected), key
    assert [concept.kept for concept in outcome.concepts] == [None, None, None]


def test_two_runs_write_the_same_bytes(loras: list[Path], tiny_sd1: Path, tmp_path: Path) -> None:
    files = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        files.append(run(options_for(loras[:2], folder / "m.safetensors", tiny_sd1, tmp_path / f"cache{number}")).out)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_another_margin_or_rank_needs_no_model_run(loras: list[Path], tiny_sd1: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first, second, third = Recorder(), Recorder(), Recorder()
    before = run(options_for(loras, tmp_path / "a.safetensors", tiny_sd1, cache), first)
    margin = {**QUICK, "margin": 1.6, "weight": 1.0}
    changed = run(options_for(loras, tmp_path / "b.safetensors", tiny_sd1, cache, option=margin, rank="3"), second)
    run(options_for(loras, tmp_path / "c.safetensors", tiny_sd1, cache, option={**QUICK, "prompts": 2}), third)
    assert first.sampled > 0
    assert second.sampled == 0
    assert third.sampled > 0
    assert load_file(before.out)["lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight"].shape[0] == 7
    assert load_file(changed.out)["lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight"].shape[0] == 3


def test_the_answer_has_the_documented_form(loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path) -> None:
    answer = run(options_for(loras, tmp_path / "m.safetensors", tiny_sd1, cache)).as_json()
    assert list(answer) == ["ok", "out", "method", "seconds", "peak_memory_mib", "concepts", "warnings"]
    assert list(answer["seconds"]) == ["capture", "solve", "total"]
    assert answer["seconds"]["total"] >= answer["seconds"]["capture"] + answer["seconds"]["solve"] - 0.01
    assert answer["peak_memory_mib"] > 50
    names = [path.stem for path in loras]
    for concept, name in zip(answer["concepts"], names, strict=True):
        assert list(concept) == ["name", "kept", "nearest_other", "drift"]
        assert concept["name"] == name
        assert concept["nearest_other"] in set(names) - {name}
        assert concept["kept"] <= 1
        assert concept["drift"] > 0
    json.dumps(answer, allow_nan=False)


def test_fusion_keeps_more_than_the_stacked_sum(loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path) -> None:
    out, report = tmp_path / "m.safetensors", tmp_path / "new" / "report"
    enough = {**QUICK, "prompts": 4}  # fewer rows than features would fit the captured prompts and nothing else
    outcome = run(options_for(loras, out, tiny_sd1, cache, report=report, option=enough))
    data = json.loads((report / "m.report.json").read_text(encoding="utf-8"))
    kept = {variant["label"]: variant["mean_kept"] for variant in data["variants"]}
    assert list(kept) == [
        "stacked sum", "gradient fusion as published", "gradient fusion", "contrastive (this merge)",
    ]  # fmt: skip
    assert kept["gradient fusion"] > kept["stacked sum"]
    mean = sum(concept.kept or 0 for concept in outcome.concepts) / 3
    assert kept["contrastive (this merge)"] == pytest.approx(mean, abs=1e-5)
    assert len(data["kept_by_block"]["kept"]) == 3
    assert data["kept_by_block"]["groups"] == ["text", "down 0", "down 1"]
    assert data["solver"]["loss"] == sorted(data["solver"]["loss"], reverse=True)
    assert set(outcome.report) == {report / "m.report.json", report / "m.report.html"}


def test_the_file_holds_a_recipe_that_makes_it_again(
    loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path
) -> None:
    options = options_for(
        loras[:2], tmp_path / "m.safetensors", tiny_sd1, cache, method="gradient-fusion", dtype="bf16"
    )
    options = replace(options, option={**QUICK, "ridge": 0.01}, seed=3)
    first = run(options).out
    raw, folder = load_recipe(first, lora_folder=loras[0].parent)
    again = parse_merge_options(
        {**raw, "checkpoint": str(tiny_sd1), "out": "m2.safetensors", "cache": str(cache), "device": "cpu"},
        folder=folder,
    )
    second = run(again).out
    assert second == tmp_path / "m2.safetensors"
    ours, theirs = load_file(first), load_file(second)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    with safe_open(first, "pt") as file:
        metadata = file.metadata()
    recipe = recipe_of(metadata)
    assert recipe is not None
    assert [entry["trigger"] for entry in recipe["inputs"]] == ["zor man", "kib man"]
    assert str(tmp_path) not in json.dumps(metadata)
    assert str(loras[0].parent) not in json.dumps(metadata)


def test_a_kind_is_what_was_said_or_what_the_words_end_with(loras: list[Path], tmp_path: Path, cache: Path) -> None:
    """A style with prompts of its own, which no word would give away; the others say none, as in version 0.1.0."""
    mine = ("{other} in the manner of {c}",)
    choices = (
        LoraChoice(loras[0], trigger="by zor", kind="style", prompts=mine),
        LoraChoice(loras[1], trigger="kib style"),
        LoraChoice(loras[2], trigger="vex woman"),
    )
    options = options_for(loras, tmp_path / "m.safetensors", None, cache, method="sum", lora=choices, option={})
    merge(options, open_host=no_model, progress=Recorder())
    raw, _ = load_recipe(options.out, lora_folder=loras[0].parent)
    again = parse_merge_options({**raw, "out": str(tmp_path / "again.safetensors")})
    assert [choice.kind for choice in again.lora] == ["style", "style", "character"]
    assert again.lora[0].prompts == mine


def test_a_recipe_insists_on_its_files(loras: list[Path], tmp_path: Path, cache: Path) -> None:
    wrong = (LoraChoice(loras[0], sha256="0" * 64), LoraChoice(loras[1]))
    options = options_for([], tmp_path / "m.safetensors", None, cache, quick=False, lora=wrong, method="sum")
    with pytest.raises(InputError) as caught:
        run(options, opener=no_model)
    assert (caught.value.code, caught.value.file) == ("hash-mismatch", str(loras[0]))


def test_cancel_at_any_step_leaves_nothing(loras: list[Path], tiny_sd1: Path, tmp_path: Path) -> None:
    whole = Recorder()
    (tmp_path / "whole").mkdir()
    options = options_for(
        loras[:2], tmp_path / "whole" / "m.safetensors", tiny_sd1, tmp_path / "c0", report=tmp_path / "r0"
    )
    run(options, whole)
    names = list(dict.fromkeys(whole.reached))
    assert names[:4] == ["Reading the LoRAs", "Loading the model", "Watching the model", "Solving: round 1 of 1"]
    assert {"Solving", "Comparing: stacked sum", "Writing"} <= set(names)
    state = torch.get_rng_state()
    for name in names:
        for step in sorted({1, whole.reached.count(name)}):
            folder = tmp_path / f"{names.index(name)}-{step}"
            folder.mkdir()
            cache = folder.with_suffix(".cache") if name == "Watching the model" else tmp_path / "c0"
            changed = replace(options, out=folder / "m.safetensors", report=folder / "report", cache=cache)
            with pytest.raises(Cancelled):
                run(changed, Recorder(cancel_in=name, at=step))
            assert everything_in(folder) == [], (name, step)
            assert not [path for path in everything_in(cache) if not path.endswith(".safetensors")]
            assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)


def test_cancel_while_overwriting_keeps_the_old_files(loras: list[Path], tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "m.safetensors"
    options = options_for(
        loras, out, None, cache, quick=False, method="sum", report=tmp_path / "report", overwrite=True
    )
    run(options, opener=no_model)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    changed = replace(options, method="average", option={})
    with pytest.raises(Cancelled):
        run(changed, Recorder(cancel_in="Writing", at=2), no_model)
    assert all(path.read_bytes() == data for path, data in before.items())
    run(changed, opener=no_model)
    assert out.read_bytes() != before[out]
    assert not list(tmp_path.rglob(".*"))


def refused(options: MergeOptions, opener: Callable[..., Any] = no_model) -> InputError:
    """The error of a merge that must fail before work and leave its folder as it was."""
    folder = options.out.parent
    before = everything_in(folder) if folder.is_dir() else None
    with pytest.raises(InputError) as caught:
        run(options, opener=opener)
    assert (everything_in(folder) if folder.is_dir() else None) == before
    assert caught.value.message.endswith(".")
    return caught.value


def test_outputs_that_cannot_work(loras: list[Path], tmp_path: Path, cache: Path) -> None:
    good = options_for(loras, tmp_path / "m.safetensors", None, cache, quick=False, method="sum")
    (tmp_path / "there.safetensors").write_bytes(b"precious")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file").write_bytes(b"")
    cases = {
        "there.safetensors": "output-exists",
        "folder.safetensors": "output-exists",
        "nowhere/m.safetensors": "folder-missing",
        "m.ckpt": "bad-output-name",
        "m": "bad-output-name",
    }
    for name, code in cases.items():
        assert refused(replace(good, out=tmp_path / name)).code == code
    assert refused(replace(good, out=loras[0], overwrite=True)).code == "output-is-input"
    assert refused(replace(good, report=tmp_path / "file")).code == "folder-missing"
    assert (tmp_path / "there.safetensors").read_bytes() == b"precious"


def test_inputs_that_cannot_work(loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "out" / "m.safetensors"
    out.parent.mkdir()
    good = options_for(loras, out, None, cache, quick=False, method="sum")

    def with_lora(*files: Path, **weights: float) -> MergeOptions:
        return replace(good, lora=tuple(LoraChoice(file, trigger="x", **weights) for file in files))

    (tmp_path / "copy.safetensors").write_bytes(loras[0].read_bytes())
    (tmp_path / "link.safetensors").symlink_to(loras[0])
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    wide = lora_tensors(9) | {f"{key}.lora_down.weight": torch.ones(2, 48)}
    write_lora_file(tmp_path / "wide.safetensors", wide)
    sdxl = {"lora_te2_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight": torch.ones(4, 2),
            "lora_te2_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": torch.ones(2, 4)}  # fmt: skip
    write_lora_file(tmp_path / "sdxl.safetensors", sdxl, ss_base_model_version="sdxl_base_v1-0")

    missing = refused(with_lora(loras[0], tmp_path / "none.safetensors"))
    assert (missing.code, missing.file) == ("file-not-found", str(tmp_path / "none.safetensors"))
    for twin in ("copy", "link"):
        error = refused(with_lora(loras[0], tmp_path / f"{twin}.safetensors"))
        assert (error.code, error.file) == ("same-file", str(tmp_path / f"{twin}.safetensors"))
    assert refused(with_lora(loras[0], weight=0.0)).code == "empty-selection"
    mixed = refused(with_lora(loras[0], tmp_path / "sdxl.safetensors"))
    assert (mixed.code, mixed.file) == ("family-mismatch", str(tmp_path / "sdxl.safetensors"))
    clash = refused(with_lora(loras[0], tmp_path / "wide.safetensors"))
    assert (clash.code, clash.file) == ("shape-mismatch", str(tmp_path / "wide.safetensors"))
    assert key in (clash.key or "")
    with_base = replace(with_lora(tmp_path / "wide.safetensors"), checkpoint=tiny_sd1)
    alone = refused(with_base, open_tiny)
    assert (alone.code, alone.file) == ("shape-mismatch", str(tmp_path / "wide.safetensors"))
    assert key in (alone.key or "")


def test_a_data_driven_merge_asks_for_triggers(loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path) -> None:
    chosen = (LoraChoice(loras[0]), LoraChoice(loras[2]))
    options = options_for([], tmp_path / "m.safetensors", tiny_sd1, cache, lora=chosen)
    error = refused(options, open_tiny)
    assert (error.code, error.file, error.key) == ("no-trigger", str(loras[0]), "trigger")
    named = replace(options, lora=(LoraChoice(loras[0], trigger=""), chosen[1]))
    outcome = run(named)
    sidecar = json.loads(outcome.out.with_suffix(".json").read_text(encoding="utf-8"))
    assert sidecar["activation text"] == "vex woman"


def test_text_preset_watches_only_text(loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path) -> None:
    outcome = run(options_for(loras, tmp_path / "m.safetensors", tiny_sd1, cache, preset="text"))
    codes = [warning.code for warning in outcome.warnings]
    assert codes == ["layers-averaged"]
    assert all(concept.kept is not None for concept in outcome.concepts)


def test_same_stems_stay_apart(loras: list[Path], tmp_path: Path, cache: Path) -> None:
    other = tmp_path / "zor.safetensors"
    write_lora_file(other, lora_tensors(5))
    outcome = run(options_for([loras[0], other], tmp_path / "m.safetensors", None, cache, quick=False, method="sum"))
    assert [concept.name for concept in outcome.concepts] == ["zor", "zor (2)"]
    shadow = run(options_for(loras, tmp_path / "sub.safetensors", None, cache, quick=False, method="sum"))
    assert not shadow.warnings
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    same = run(options_for(loras, folder / "zor.safetensors", None, cache, quick=False, method="sum"))
    assert [type(warning) for warning in same.warnings] == [FileWarning]
    assert same.warnings[0].code == "same-name"
