"""Merges in the attention metric: what is watched for it, that it acts, and where a layer stays plain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_loras import QUICK, Recorder, options_for

from lib_loraclr.core.attention import AttentionMetric
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.problem import LayerProblem
from lib_loraclr.formats import recipe_of
from lib_loraclr.formats.safetensors_io import SafetensorsFile
from lib_loraclr.hosts.standalone import StandaloneHost, load_checkpoint
from lib_loraclr.merging.attention import partner_of, partners
from lib_loraclr.merging.config import plan_of
from lib_loraclr.merging.context import Task, prepare
from lib_loraclr.merging.options import MergeOptions
from lib_loraclr.merging.pipeline import merge
from lib_loraclr.merging.report import MergeReport
from lib_loraclr.merging.solve import solve
from lib_loraclr.timing import Stopwatch

ATTENTION = {**QUICK, "metric": "attention"}
TEXT_QUERY = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
BLOCK = "unet.down_blocks.{}.attentions.0.transformer_blocks.0."
KEYS = [BLOCK.format(number) + "attn2.to_k" for number in (0, 1)]
SELF_QUERY = BLOCK.format(0) + "attn1.to_q"


@pytest.fixture(scope="module")
def tiny(tiny_sd1: Path) -> StandaloneHost:
    return load_checkpoint(tiny_sd1)


@pytest.fixture
def opener(tiny: StandaloneHost) -> Callable[..., Any]:
    return lambda checkpoint, device: tiny


def task_of(options: MergeOptions, opener: Callable[..., Any]) -> Task:
    return prepare(plan_of(options), opener, Recorder(), Stopwatch())


def problems_in(task: Task) -> dict[str, LayerProblem]:
    return {problem.name: problem for problem in task.problems}


def test_partners_are_the_two_sides_of_a_score() -> None:
    assert partner_of("unet.mid_block.attn2.to_k") == "unet.mid_block.attn2.to_q"
    assert partner_of("text_encoder.layers.0.self_attn.q_proj") == "text_encoder.layers.0.self_attn.k_proj"
    assert partner_of("unet.mid_block.attn2.to_v") is None
    assert partners(["a.to_q", "a.to_k", "a.to_v", "b.k_proj"]) == ["a.to_k", "a.to_q", "b.q_proj"]


def test_the_partners_of_keys_are_watched_and_make_the_metric(
    loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path, opener: Callable[..., Any], tiny: StandaloneHost
) -> None:
    task = task_of(options_for(loras, tmp_path / "m.safetensors", tiny_sd1, cache, option=ATTENTION), opener)
    problems = problems_in(task)
    assert {name for name, problem in problems.items() if problem.metric is not None} == {
        *KEYS, SELF_QUERY, TEXT_QUERY,
    }  # fmt: skip
    assert not any(problem.plain_because for problem in problems.values())
    for key in KEYS:
        query = key.replace("to_k", "to_q")
        metric, moments = problems[key].metric, task.statistics.all[query]
        assert isinstance(metric, AttentionMetric)
        assert metric.heads == 8
        assert metric.deltas == [None, None, None]  # no LoRA changes these queries
        weight = tiny.base_weight(query).double()
        seen = weight @ moments.concepts[1].mean().double() @ weight.T
        heads = torch.arange(len(weight)) // (len(weight) // 8)
        seen = torch.where(heads[:, None] == heads[None, :], seen, 0.0)
        expected = seen / seen.diagonal().mean() + 0.01 * torch.eye(len(weight))
        assert torch.allclose(metric.concept(1, torch.device("cpu")), expected, atol=1e-9)
    metric = problems[TEXT_QUERY].metric
    assert isinstance(metric, AttentionMetric)
    assert metric.heads == tiny.text.encoders[0].text_model.encoder.layers[0].self_attn.num_heads
    assert metric.statistics is problems[TEXT_QUERY].statistics  # queries and keys of a text encoder share their inputs


def test_two_merges_write_the_same_bytes_and_a_recipe(
    loras: list[Path], tiny_sd1: Path, tmp_path: Path, opener: Callable[..., Any]
) -> None:
    files: list[Path] = []
    for number in (1, 2):
        files.append(tmp_path / str(number) / "m.safetensors")
        files[-1].parent.mkdir()
        options = options_for(loras[:2], files[-1], tiny_sd1, tmp_path / f"cache{number}", option=ATTENTION)
        merge(options, open_host=opener, progress=Recorder())
    assert files[0].read_bytes() == files[1].read_bytes()
    recipe = recipe_of(SafetensorsFile.open(files[0]).metadata)
    assert recipe is not None
    assert recipe["option"]["metric"] == "attention"


@pytest.mark.parametrize("method", ["gradient-fusion", "contrastive"])
def test_only_queries_and_keys_of_the_last_solve_differ(
    loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path, opener: Callable[..., Any], method: str
) -> None:
    names = ("plain", "attention")
    for name, option in zip(names, (QUICK, ATTENTION), strict=True):
        given = {**option, "rounds": 0}  # no round in between, whose inputs would differ everywhere
        out = tmp_path / f"{name}.safetensors"
        options = options_for(loras, out, tiny_sd1, cache, option=given, method=method, dtype="fp32")
        merge(options, open_host=opener, progress=Recorder())
    plain, ours = (load_file(tmp_path / f"{name}.safetensors") for name in names)
    changed = {key.partition(".")[0] for key in plain if not torch.equal(plain[key], ours[key])}
    assert changed == {key.partition(".")[0] for key in plain if "to_k" in key or "to_q" in key or "q_proj" in key}


def test_a_plain_capture_is_completed_and_not_repeated(
    loras: list[Path], tiny_sd1: Path, tmp_path: Path, opener: Callable[..., Any]
) -> None:
    cache, sampled = tmp_path / "cache", []
    out = tmp_path / "m.safetensors"
    for option in (QUICK, ATTENTION, {**ATTENTION, "margin": 1.6}, QUICK):
        progress = Recorder()
        options = options_for(loras[:2], out, tiny_sd1, cache, option=option, overwrite=True)
        merge(options, open_host=opener, progress=progress)
        sampled.append(progress.sampled)
    assert sampled[0] > 0
    assert sampled[1] > 0  # the queries, and what the other student of the round sees
    assert sampled[2:] == [0, 0]


def test_layers_without_a_metric_say_why(
    loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path, opener: Callable[..., Any], tiny: StandaloneHost,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    options = options_for(loras, tmp_path / "m.safetensors", tiny_sd1, cache, option=ATTENTION, preset="text")
    task, plan = task_of(options, opener), plan_of(options)
    problems = problems_in(task)
    assert problems[TEXT_QUERY].metric is not None
    assert problems[KEYS[0]].metric is None
    query = KEYS[0].replace("to_k", "to_q")
    assert problems[KEYS[0]].plain_because == f"the inputs of {query} were not watched"
    merged = solve(
        task.problems, "gradient-fusion", plan.student_options, plan=plan, progress=Recorder(), label="Solving"
    )
    assert merged[TEXT_QUERY].info["metric"] == "attention"
    assert merged[KEYS[0]].info["metric_reason"] == problems[KEYS[0]].plain_because
    report = MergeReport("", "", "", {}, {}, None, [], [], merged, [])
    assert report.solver()["metric"] == {"attention": 1, "output": 2}
    monkeypatch.setattr(tiny, "attention_heads", lambda name: None)
    assert problems_in(task)[TEXT_QUERY].plain_because == "the number of heads of its attention is not known"


def test_the_choice_is_checked_before_any_work(loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path) -> None:
    for option in ({"metric": "scores"}, {"metric": "attention", "negatives": "paper"}):
        with pytest.raises(InputError) as caught:
            plan_of(options_for(loras, tmp_path / "m.safetensors", tiny_sd1, cache, option=option))
        assert (caught.value.code, caught.value.key) == ("bad-option", "metric")
