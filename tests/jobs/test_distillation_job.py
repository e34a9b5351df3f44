"""Merges with the preset distilled: what is kept for the next one, cancel, reports, and what stops a distillation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from distilling import quick_best, state
from tiny_loras import QUICK, Recorder
from torch import Tensor

from lib_loraclr.core.errors import Cancelled
from lib_loraclr.formats import recipe_of
from lib_loraclr.formats.safetensors_io import SafetensorsFile
from lib_loraclr.formats.weighted import read_files, weighted_deltas
from lib_loraclr.hosts.standalone import StandaloneHost
from lib_loraclr.merging.config import config_of
from lib_loraclr.merging.options import LoraChoice, MergeOptions
from lib_loraclr.merging.pipeline import merge


@pytest.mark.parametrize("phase", ["Evaluating each LoRA", "Drawing with each LoRA", "Distilling"])
def test_cancel_leaves_no_file_and_no_hook(
    host: StandaloneHost, loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path, phase: str
) -> None:
    before = state(host)
    options = quick_best(loras, tmp_path / "m.safetensors", tiny_sd1, cache)
    with pytest.raises(Cancelled):
        merge(options, open_host=lambda checkpoint, device: host, progress=Recorder(phase, 2))
    assert state(host) == before
    assert list(tmp_path.iterdir()) == []


def test_a_merge_with_it_differs_repeats_and_says_so(
    host: StandaloneHost, loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path
) -> None:
    made = {}
    for name, preset in (
        ("without", "layerwise"),
        ("first", "distilled"),
        ("again", "distilled"),
        ("other cache", "distilled"),
    ):
        (tmp_path / name).mkdir()
        out, folder = tmp_path / name / "m.safetensors", tmp_path / "second" if name == "other cache" else cache
        options = quick_best(loras, out, tiny_sd1, folder, rank="2", dtype="fp32", preset=preset, seed=3)
        progress = Recorder()
        made[name] = merge(options, open_host=lambda checkpoint, device: host, progress=progress), progress
    files = {name: outcome.out.read_bytes() for name, (outcome, _) in made.items()}
    assert files["first"] == files["again"] == files["other cache"] != files["without"]
    learning = [
        "Solving: start of the distillation",
        "Evaluating each LoRA",
        "Drawing with each LoRA",
        "Distilling",
        "Solving",
        "Writing",
    ]
    phases = {name: [phase for phase, _ in progress.phases] for name, (_, progress) in made.items()}
    assert [phase for phase in phases["first"] if phase in learning] == learning
    assert [phase for phase in phases["again"] if phase in learning] == [learning[0], *learning[4:]]
    assert [phase for phase in phases["without"] if phase in learning] == learning[4:]
    assert "distill" in made["first"][0].seconds
    kept = {name: [concept.kept for concept in outcome.concepts] for name, (outcome, _) in made.items()}
    assert None not in kept["first"]
    assert kept["first"] == kept["again"] == kept["other cache"] != kept["without"]
    file = SafetensorsFile.open(made["first"][0].out)
    recipe = recipe_of(file.metadata) or {}
    assert (recipe["preset"], recipe["option"]["distill_steps_per_lora"]) == ("distilled", 3)
    assert all(len(shape) != 2 or min(shape) <= 2 for shape in (info.shape for info in file.tensors.values()))


def test_what_is_learned_serves_every_margin_and_rank(
    host: StandaloneHost, loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path
) -> None:
    """It is found again, and added to each solution."""

    def run(name: str, **changes: Any) -> tuple[dict[str, Tensor], list[str]]:
        given = dict(changes)
        option = {
            **QUICK,
            "distill_steps_per_lora": 3,
            "weighting": "equal",
            "prior_preservation": 0.1,
            **given.pop("option", {}),
        }
        options = quick_best(loras, tmp_path / f"{name}.safetensors", tiny_sd1, cache, dtype="fp32", option=option,
                             seed=5, **given)  # fmt: skip
        progress = Recorder()
        merge(options, open_host=lambda checkpoint, device: host, progress=progress)
        lora = read_files([options.out], host.layers())[0]
        deltas, _ = weighted_deltas(lora, 1.0, 1.0, host.base_weight, None)
        return {name: delta.dense() for name, delta in deltas.items()}, [phase for phase, _ in progress.phases]

    margins: dict[str, Any] = {"near": {"margin": 0.5}, "far": {"margin": 3.0}}
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, option in margins.items():
        for preset in ("distilled", "layerwise"):
            found[name, preset], phases = run(f"{name}-{preset}", preset=preset, option=option)
            assert ("Distilling" in phases) == ((name, preset) == ("near", "distilled"))
        assert _norm(_minus(found[name, "distilled"], found[name, "layerwise"])) > 1e-3 * _norm(
            found[name, "layerwise"]
        )
    assert _norm(_minus(found["near", "distilled"], found["far", "distilled"])) > 0.01 * _norm(
        found["near", "distilled"]
    )
    fused, _ = run("fused", method="gradient-fusion", preset="layerwise")
    learned, phases = run("learned", method="gradient-fusion")
    assert "Distilling" not in phases
    assert _norm(_minus(learned, fused)) > 1e-3 * _norm(fused)


def test_what_is_asked_and_learned_is_found_wherever_it_would_be_the_same(
    host: StandaloneHost, loras: list[Path], tiny_sd1: Path, tmp_path: Path
) -> None:
    def phases(name: str, **learning: int) -> set[str]:
        options = quick_best(loras, tmp_path / f"{name}.safetensors", tiny_sd1, tmp_path / "cache",
                             option={**QUICK, **learning})  # fmt: skip
        progress = Recorder()
        merge(options, open_host=lambda checkpoint, device: host, progress=progress)
        return {"Evaluating each LoRA", "Distilling"} & {phase for phase, _ in progress.phases}

    assert phases("first", distill_steps_per_lora=2) == {"Evaluating each LoRA", "Distilling"}
    assert phases("idle", distill_steps_per_lora=2, text_encoder_slowdown_after=5000) == set(), (
        "more text steps than steps do nothing"
    )
    assert phases("slow", distill_steps_per_lora=2, text_encoder_slowdown_after=1) == {"Distilling"}
    assert phases("longer", distill_steps_per_lora=3) == {"Distilling"}, "the evaluation is the same"


def test_a_report_measures_every_way_by_predictions(
    host: StandaloneHost, loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path
) -> None:
    options = quick_best(loras, tmp_path / "m.safetensors", tiny_sd1, cache, report=tmp_path / "report")
    outcome = merge(options, open_host=lambda checkpoint, device: host, progress=Recorder())
    data = json.loads((tmp_path / "report" / "m.report.json").read_text())
    assert data["by_prediction"] is True
    assert [one["kept"] for one in data["concepts"]] == [c.as_dict()["kept"] for c in outcome.concepts]
    labels = [variant["label"] for variant in data["variants"]]
    assert labels[0] == "stacked sum"
    assert labels[-2:] == ["contrastive without distillation", "contrastive (this merge)"]
    assert len({variant["mean_kept"] for variant in data["variants"]}) == len(labels)
    page = (tmp_path / "report" / "m.report.html").read_text()
    assert "what the model predicts" in page
    assert "before distillation" in page


def test_the_report_of_a_fusion_has_contrastive_beside_it(
    host: StandaloneHost, loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path
) -> None:
    options = quick_best(
        loras, tmp_path / "m.safetensors", tiny_sd1, cache, report=tmp_path / "report", method="gradient-fusion"
    )
    merge(options, open_host=lambda checkpoint, device: host, progress=Recorder())
    data = json.loads((tmp_path / "report" / "m.report.json").read_text())
    assert [variant["label"] for variant in data["variants"]] == [
        "stacked sum", "gradient fusion as published", "contrastive", "gradient fusion without distillation",
        "gradient fusion (this merge)",
    ]  # fmt: skip
    assert data["variants"][2]["mean_kept"] != data["variants"][3]["mean_kept"]


def _minus(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: a[name] - b[name] for name in a}


def _norm(update: Mapping[str, Tensor]) -> float:
    return float(sum(float(value.square().sum()) for value in update.values())) ** 0.5


def test_too_little_memory_leaves_the_merge_before_it(
    host: StandaloneHost, loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    open_host = lambda checkpoint, device: host  # noqa: E731
    plain = quick_best(loras, tmp_path / "plain.safetensors", tiny_sd1, cache, preset="layerwise", seed=11)
    merge(plain, open_host=open_host, progress=Recorder())

    def full(*_: Any) -> Tensor:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(host, "predict_x0", full)
    before = state(host)
    options = quick_best(loras, tmp_path / "best.safetensors", tiny_sd1, cache, seed=11)
    outcome = merge(options, open_host=open_host, progress=Recorder())
    assert [warning.code for warning in outcome.warnings] == ["memory-distill"]
    first, second = (SafetensorsFile.open(path) for path in (plain.out, options.out))
    assert set(first.tensors) == set(second.tensors)
    assert all(torch.equal(first.read(name), second.read(name)) for name in first.tensors)
    assert state(host) == before


@pytest.mark.parametrize(
    ("preset", "method", "steps", "expected"),
    [
        ("distilled", "contrastive", 7, 7),
        ("layerwise", "contrastive", 7, 0),
        ("distilled", "sum", 7, 0),
        ("distilled", "contrastive", 0, 0),
    ],
)
def test_only_the_preset_best_of_a_merge_on_the_model_distills(
    preset: str, method: str, steps: int, expected: int, tmp_path: Path
) -> None:
    options = MergeOptions(
        (LoraChoice(Path("x")),), tmp_path / "m", method=method, preset=preset, option={"distill_steps_per_lora": steps}
    )
    assert config_of(options).distill.total_steps == expected
    twice = replace(options, lora=(*options.lora, LoraChoice(Path("y"))))
    assert config_of(twice).distill.total_steps == 2 * expected, "steps a LoRA"


def test_the_text_encoders_steps_are_an_option(tmp_path: Path) -> None:
    options = MergeOptions(
        (LoraChoice(Path("x")),), tmp_path / "m", preset="distilled", option={"text_encoder_slowdown_after": 70}
    )
    assert config_of(options).distill.text_encoder_slowdown_after == 70


@pytest.mark.parametrize("missing", ["predict", "gradients"])
def test_a_model_without_gradients_leaves_the_merge_before_it(
    host: StandaloneHost, loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path, missing: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    class Closed:
        """A host that cannot be asked for predictions."""

        def __getattr__(self, name: str) -> Any:
            if name in ("predict_x0", "sqrt_alphas_cumprod"):
                raise AttributeError(name)
            return getattr(host, name)

    opened: Any = Closed() if missing == "predict" else host
    if missing == "gradients":
        honest = host.predict_x0
        monkeypatch.setattr(host, "predict_x0", lambda *given: honest(*given).detach().requires_grad_())
    made = {}
    for preset in ("layerwise", "distilled"):
        options = quick_best(loras, tmp_path / f"{preset}.safetensors", tiny_sd1, cache, preset=preset, seed=9)
        made[preset] = merge(options, open_host=lambda checkpoint, device: opened, progress=Recorder())
    assert made["layerwise"].warnings == []
    assert [warning.code for warning in made["distilled"].warnings] == ["no-gradients"]
    first, second = (SafetensorsFile.open(made[preset].out) for preset in ("layerwise", "distilled"))
    assert all(torch.equal(first.read(name), second.read(name)) for name in first.tensors)
