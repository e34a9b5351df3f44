"""Distillation on the tiny checkpoint: what is learned, that the host is as before, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_loras import QUICK, Recorder, options_for
from torch import Tensor

from lib_loraclr.capture import CaptureConcept, CaptureSettings, StatisticsCache, inject
from lib_loraclr.core.deltas import Delta, Dense, LowRank, add
from lib_loraclr.core.errors import Cancelled, InputError
from lib_loraclr.distill import DistillSettings, Exam, Lessons, distill, record, run
from lib_loraclr.distill.exam import exam_steps
from lib_loraclr.distill.lessons import sampled_steps
from lib_loraclr.distill.run import LossScale, loss_weights
from lib_loraclr.distill.student import Student, factored
from lib_loraclr.formats import recipe_of
from lib_loraclr.formats.safetensors_io import SafetensorsFile
from lib_loraclr.hosts.standalone import StandaloneHost, load_checkpoint
from lib_loraclr.jobs.inputs import read_files, weighted_deltas
from lib_loraclr.jobs.merge import merge
from lib_loraclr.jobs.options import LoraChoice, MergeOptions
from lib_loraclr.jobs.settings import plan_of

CAPTURE = CaptureSettings(steps=2)
SETTINGS = DistillSettings(steps=30, pictures=2, neutral=2, levels=4)


@pytest.fixture(scope="module")
def host(tiny_sd1: Path) -> StandaloneHost:
    return load_checkpoint(tiny_sd1)


@pytest.fixture(scope="module")
def concepts(host: StandaloneHost, loras: list[Path]) -> list[CaptureConcept]:
    """Two LoRAs, strong enough to be in each other's way."""
    found = []
    for path in loras[:2]:
        lora = read_files([path], host.layers())[0]
        deltas, _ = weighted_deltas(lora, 3.0, 3.0, host.base_weight, None)
        found.append(CaptureConcept(path.stem, f"{path.stem} man", "man", deltas))
    return found


@pytest.fixture
def progress() -> Recorder:
    return Recorder(phases=[("exam", 0)])


@pytest.fixture(scope="module")
def lessons(host: StandaloneHost, concepts: list[CaptureConcept]) -> Lessons:
    with host.ready():
        return record(host, concepts, SETTINGS, CAPTURE, Recorder(phases=[("record", 0)]))


def stacked(concepts: list[CaptureConcept]) -> dict[str, Delta]:
    names = {name for concept in concepts for name in concept.deltas}
    return {name: add([c.deltas[name] for c in concepts if name in c.deltas]) for name in sorted(names)}


def error(host: StandaloneHost, deltas: Mapping[str, Delta], lessons: Lessons) -> float:
    """Mean weighted error of all rows, computed the other way: with hooks that know no gradient."""
    weights = loss_weights(host.signal())
    with host.ready(), inject(host.layers(), deltas):
        found = host.predict(lessons.noisy, lessons.steps, lessons.prompts)
    squared = (found - lessons.clean).square().mean((1, 2, 3))
    return float((squared * weights[list(lessons.steps)]).mean())


def state(host: StandaloneHost) -> tuple[Any, ...]:
    modules = [m for root in (host.unet, *host.text.encoders) for m in root.modules()]
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
    flags = [p.requires_grad for m in (host.unet, *host.text.encoders) for p in m.parameters()]
    grads = [p.grad is None for m in (host.unet, *host.text.encoders) for p in m.parameters()]
    return hooks, flags, grads, torch.is_grad_enabled(), torch.get_rng_state().tolist()


def room_for(most: int, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on the memory holds `most` rows of a prediction; the rows that each one asks for."""
    honest, sizes = host.predict, list[int]()

    def small(latents: Tensor, *rest: Any) -> Tensor:
        sizes.append(len(latents))
        if len(latents) > most:
            raise RuntimeError("CUDA out of memory")
        return honest(latents, *rest)

    monkeypatch.setattr(host, "predict", small)
    return sizes


def quick_best(loras: list[Path], out: Path, checkpoint: Path, cache: Path, **changes: Any) -> MergeOptions:
    """A merge of two with the preset best, three steps of it."""
    given = {"preset": "best", "method": "contrastive", "option": {**QUICK, "distill": 3}, **changes}
    return options_for(loras[:2], out, checkpoint, cache, **given)


def test_predictions_are_those_of_the_sampler(host: StandaloneHost) -> None:
    """The first step of a run without guidance, asked for directly."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    step = len(host.signal()) - 1
    with host.ready():
        conditioning = host.encode(["a photo"])
        output = host.unet(noise, step, conditioning.context).sample
        found = host.predict(noise, [step], ["a photo"])
    torch.testing.assert_close(found, host.schedule.clean(noise, output, step))


def test_lessons_are_what_the_single_loras_predict(
    host: StandaloneHost, concepts: list[CaptureConcept], lessons: Lessons
) -> None:
    assert [len(group) for group in lessons.groups] == [8, 8, 8]
    assert len(lessons.steps) == len(lessons.prompts) == len(lessons.noisy) == 24
    for concept, group in zip([*concepts, None], lessons.groups, strict=True):
        rows = list(group)
        deltas = {} if concept is None else concept.deltas
        with host.ready(), inject(host.layers(), deltas):
            found = host.predict(
                lessons.noisy[rows], [lessons.steps[k] for k in rows], [lessons.prompts[k] for k in rows]
            )
        torch.testing.assert_close(found, lessons.clean[rows], rtol=1e-3, atol=1e-3)
        assert all((concept is None) or concept.name in lessons.prompts[k] for k in rows)
    assert [lessons.prompts[k] for k in lessons.groups[-1]].count("") >= 4  # guidance asks the empty prompt
    assert len(set(lessons.steps)) > 12


def test_every_step_of_progress_is_made(host: StandaloneHost, concepts: list[CaptureConcept]) -> None:
    progress = Recorder(phases=[("record", 0)])
    with host.ready():
        record(host, concepts, SETTINGS, CAPTURE, progress)
    assert len(progress.reached) == sampled_steps(2, SETTINGS, CAPTURE)


@pytest.mark.parametrize(
    "layer", ["mid_block.attentions.0.proj_in", "mid_block.resnets.0.conv1", "time_embedding.linear_1"]
)
def test_a_student_answers_as_its_delta(host: StandaloneHost, layer: str) -> None:
    """Linear layers, 1 x 1 and 3 x 3 convolutions, dense deltas too; gradients equal finite differences."""
    module = host.layers()[f"unet.{layer}"]
    generator = torch.Generator().manual_seed(5)
    weight: Tensor = module.weight.detach().flatten(1)
    delta = Dense(0.1 * torch.randn(weight.shape, generator=generator))
    shape = (2, int(module.weight.shape[1]), *([6, 6] if module.weight.ndim == 4 else []))
    given = torch.randn(shape, generator=generator)
    student = Student({"x": module}, {"x": delta}, torch.device("cpu"))
    with inject({"x": module}, {"x": delta}):
        expected = module(given)
    with student.acting():
        found = module(given)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    up = student.factors["x"][0]
    found.square().sum().backward()
    assert up.grad is not None
    direction, small = torch.randn(up.shape, generator=generator), 1e-3
    slope = []
    for sign in (1, -1):
        with torch.no_grad():
            up += sign * small * direction
            with student.acting():
                slope.append(module(given).double().square().sum())
            up -= sign * small * direction
    assert float((slope[0] - slope[1]) / (2 * small)) == pytest.approx(float((up.grad * direction).sum()), rel=2e-2)


def test_factors_keep_the_delta() -> None:
    dense = Dense(torch.randn(5, 7, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(factored(dense).dense(), dense.weight)
    low = LowRank(torch.randn(5, 2), 100 * torch.randn(2, 7))
    torch.testing.assert_close(factored(low).dense(), low.dense())
    assert factored(low).up.norm() == pytest.approx(factored(low).down.norm(), rel=0.8)


def test_it_learns_what_it_was_not_shown(
    host: StandaloneHost, concepts: list[CaptureConcept], lessons: Lessons
) -> None:
    """Both the lessons and others of the same teachers: fresh pictures, fresh noise."""
    start, before = stacked(concepts), state(host)
    with host.ready():
        found = distill(host, start, lessons, SETTINGS, Recorder(phases=[("distill", 0)]))
        fresh = record(host, concepts, SETTINGS, replace(CAPTURE, seed=77), Recorder(phases=[("record", 0)]))
    assert state(host) == before
    assert len(found.losses) == SETTINGS.steps
    assert {name: delta.rank for name, delta in found.deltas.items()} == {
        name: delta.rank for name, delta in start.items()
    }
    assert error(host, found.deltas, lessons) < 0.7 * error(host, start, lessons)
    assert error(host, found.deltas, fresh) < 0.8 * error(host, start, fresh)


def test_its_own_teacher_has_nothing_to_say(
    host: StandaloneHost, concepts: list[CaptureConcept], lessons: Lessons
) -> None:
    own = replace(lessons, groups=[lessons.groups[0], lessons.groups[0]])
    with host.ready():
        found = distill(host, concepts[0].deltas, own, replace(SETTINGS, steps=1), Recorder(phases=[("distill", 0)]))
    assert found.losses[0] < 1e-6


def test_less_memory_gives_the_same(
    host: StandaloneHost, concepts: list[CaptureConcept], lessons: Lessons, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, start = replace(SETTINGS, steps=2), stacked(concepts)
    with host.ready():
        whole = distill(host, start, lessons, few, Recorder(phases=[("distill", 0)]))
        sizes = room_for(4, host, monkeypatch)
        parts = distill(host, start, lessons, few, Recorder(phases=[("distill", 0)]))
    assert sizes == [12, 6, 3, 3, 3, 3, 3, 3, 3, 3]
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)
    for name, delta in whole.deltas.items():
        torch.testing.assert_close(parts.deltas[name].dense(), delta.dense(), rtol=1e-2, atol=1e-3)


def test_an_attention_without_gradients_is_refused(
    host: StandaloneHost, concepts: list[CaptureConcept], lessons: Lessons
) -> None:
    name = next(name for name in concepts[0].deltas if ".attn" in name)
    attention = host.unet.get_submodule(name.removeprefix("unet.").rpartition(".")[0])
    hook = attention.register_forward_hook(lambda module, inputs, output: output.detach())
    try:
        with host.ready(), pytest.raises(InputError, match="attention") as refused:
            distill(host, stacked(concepts), lessons, SETTINGS, Recorder(phases=[("distill", 0)]))
    finally:
        hook.remove()
    assert refused.value.code == "no-gradients"
    assert state(host)[0] == 0


def test_half_precision_scales_the_loss_and_gives_the_same(
    host: StandaloneHost, concepts: list[CaptureConcept], lessons: Lessons, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On weights that are float32 after all, a power of two goes in and out without a trace."""
    few, start = replace(SETTINGS, steps=2), stacked(concepts)
    with host.ready():
        whole = distill(host, start, lessons, few, Recorder(phases=[("distill", 0)]))
        monkeypatch.setattr(run, "LossScale", lambda _: LossScale(torch.float16))
        scaled = distill(host, start, lessons, few, Recorder(phases=[("distill", 0)]))
    assert scaled.losses == pytest.approx(whole.losses, rel=1e-6)
    for name, delta in whole.deltas.items():
        torch.testing.assert_close(scaled.deltas[name].dense(), delta.dense(), rtol=1e-4, atol=1e-5)


def test_gradients_that_overflow_are_left_out(
    host: StandaloneHost, concepts: list[CaptureConcept], lessons: Lessons, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step's gradients are infinite: it changes nothing, and the second learns."""
    honest, start, calls = host.predict, stacked(concepts), list[int]()

    def overflowing(latents: Tensor, *rest: Any) -> Tensor:
        found = honest(latents, *rest)
        calls.append(len(latents))
        if len(calls) == 1:
            found.register_hook(lambda gradient: gradient * float("inf"))
        return found

    def learn(steps: int) -> Mapping[str, Delta]:
        calls.clear()
        with host.ready():
            return distill(
                host, start, lessons, replace(SETTINGS, steps=steps), Recorder(phases=[("distill", 0)])
            ).deltas

    monkeypatch.setattr(host, "predict", overflowing)
    monkeypatch.setattr(run, "LossScale", lambda _: LossScale(torch.float16))
    for name, delta in learn(1).items():
        torch.testing.assert_close(delta.dense(), start[name].dense())
    found = learn(2)
    assert all(delta.dense().isfinite().all() for delta in found.values())
    assert any(not torch.allclose(delta.dense(), start[name].dense()) for name, delta in found.items())


def test_the_scale_of_the_loss_halves_at_every_overflow() -> None:
    scale, factor = LossScale(torch.float16), torch.zeros(2, requires_grad=True)
    for power in (12, 11):
        assert scale.value == 2.0**power
        factor.grad = torch.tensor([1.0, float("nan")])
        assert not scale.undo([factor])
    factor.grad = torch.tensor([1024.0, -3072.0])
    assert scale.undo([factor])
    assert factor.grad.tolist() == [1.0, -3.0]
    for _ in range(20):
        factor.grad = torch.full((2,), float("inf"))
        assert not scale.undo([factor])
    assert scale.value == 1.0
    assert LossScale(torch.float32).value == LossScale(torch.bfloat16).value == 1.0


def test_half_precision_keeps_gradients_that_would_vanish(tiny_sd1: Path) -> None:
    """Those of a model whose weights really are float16, against float32."""
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    found = {}
    for dtype, scale in (("fp32", 1.0), ("fp16", 1.0), ("fp16", LossScale(torch.float16).value)):
        model = load_checkpoint(tiny_sd1, dtype=dtype)
        values = torch.Generator().manual_seed(2)
        rows, columns = model.layers()[layer].weight.shape
        delta = LowRank(0.1 * torch.randn(rows, 2, generator=values), 0.1 * torch.randn(2, columns, generator=values))
        student = Student({layer: model.layers()[layer]}, {layer: delta}, model.info.device)
        noisy, wanted = torch.randn(2, 2, 4, 8, 8, generator=values)
        with model.ready(), torch.enable_grad(), student.acting():
            prediction = model.predict(noisy, [900, 100], ["a cat", ""])
            (scale * 1e-6 * (prediction - wanted).square().mean()).backward()
        found[dtype, scale] = student.factors[layer][0].grad / scale
    (_, exact), (_, vanished), (_, kept) = found.items()
    assert (kept - exact).norm() < 0.1 * exact.norm()
    assert (vanished - exact).norm() > 0.5 * exact.norm()


@pytest.mark.parametrize("phase", ["Asking each LoRA", "Drawing with each LoRA", "Distilling"])
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
    for name, preset in (("without", "full"), ("first", "best"), ("again", "best"), ("other cache", "best")):
        (tmp_path / name).mkdir()
        out, folder = tmp_path / name / "m.safetensors", tmp_path / "second" if name == "other cache" else cache
        options = quick_best(loras, out, tiny_sd1, folder, rank="2", dtype="fp32", preset=preset, seed=3)
        progress = Recorder()
        made[name] = merge(options, open_host=lambda checkpoint, device: host, progress=progress), progress
    files = {name: outcome.out.read_bytes() for name, (outcome, _) in made.items()}
    assert files["first"] == files["again"] == files["other cache"] != files["without"]
    learning = [
        "Solving for the distillation",
        "Asking each LoRA",
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
    assert (recipe["preset"], recipe["option"]["distill"]) == ("best", 3)
    assert all(len(shape) != 2 or min(shape) <= 2 for shape in (info.shape for info in file.tensors.values()))


def test_what_is_learned_serves_every_margin_and_rank(
    host: StandaloneHost, loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path
) -> None:
    """It is found again, and added to each solution."""

    def run(name: str, **changes: Any) -> tuple[dict[str, Tensor], list[str]]:
        given = dict(changes)
        option = {**QUICK, "distill": 3, "weighting": "equal", "anchor": 0.1, **given.pop("option", {})}
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
        for preset in ("best", "full"):
            found[name, preset], phases = run(f"{name}-{preset}", preset=preset, option=option)
            assert ("Distilling" in phases) == ((name, preset) == ("near", "best"))
        assert _norm(_minus(found[name, "best"], found[name, "full"])) > 1e-3 * _norm(found[name, "full"])
    assert _norm(_minus(found["near", "best"], found["far", "best"])) > 0.01 * _norm(found["near", "best"])
    fused, _ = run("fused", method="gradient-fusion", preset="full")
    learned, phases = run("learned", method="gradient-fusion")
    assert "Distilling" not in phases
    assert _norm(_minus(learned, fused)) > 1e-3 * _norm(fused)


def test_the_exam_is_marked_by_hand(host: StandaloneHost, concepts: list[CaptureConcept], progress: Recorder) -> None:
    """A single LoRA keeps all of itself, no LoRA keeps nothing and does not drift, half of one keeps most."""
    with host.ready():
        exam = Exam.prepare(host, concepts, SETTINGS, CAPTURE, progress)
        own, other = (exam.marks(host, concept.deltas) for concept in concepts)
        none = exam.marks(host, {})
        half = exam.marks(host, {name: delta.scaled(0.5) for name, delta in concepts[0].deltas.items()})
    assert len(progress.reached) == exam_steps(2, SETTINGS, CAPTURE)
    assert [len(group) for group in exam.questions.groups] == [16, 16, 32]
    assert [mark.kept for mark in none] == [0.0, 0.0]
    assert none[0].drift == 0.0
    assert (own[0].kept, own[0].nearest_other) == (pytest.approx(1.0, abs=1e-6), 1)
    assert other[1].kept == pytest.approx(1.0, abs=1e-6)
    assert 0 < (half[0].kept or 0) < 1
    # by hand: weighted squares of x0, on the rows of concept 0
    rows = list(exam.questions.groups[0])
    weights = loss_weights(host.signal())[[exam.questions.steps[k] for k in rows]].double()
    mine, alone = (exam.answers[k][rows].double() for k in (0, -1))
    energy = float(((mine - alone).square().mean((1, 2, 3)) * weights).mean())
    assert own[0].energy == pytest.approx(energy, rel=1e-6)
    assert none[0].distances[0] == pytest.approx(energy, rel=1e-6)


def test_the_exam_asks_what_the_lessons_do_not(
    host: StandaloneHost, concepts: list[CaptureConcept], lessons: Lessons, progress: Recorder
) -> None:
    with host.ready():
        exam = Exam.prepare(host, concepts, SETTINGS, CAPTURE, progress)
    *asked, _ = exam.questions.groups
    *taught, _ = lessons.groups
    for mine, theirs in zip(asked, taught, strict=True):
        assert not {exam.questions.prompts[k] for k in mine} & {lessons.prompts[k] for k in theirs}
    assert not any(torch.equal(a, b) for a in exam.questions.noisy for b in lessons.noisy)
    for i, rows in enumerate(exam.questions.groups):
        torch.testing.assert_close(exam.questions.clean[list(rows)], exam.answers[i][list(rows)], rtol=1e-3, atol=1e-3)


def test_an_exam_takes_fewer_rows_where_the_memory_is_full(
    host: StandaloneHost, concepts: list[CaptureConcept], progress: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with host.ready():
        exam = Exam.prepare(host, concepts, SETTINGS, CAPTURE, progress)
        whole = exam.marks(host, concepts[0].deltas)
        sizes = room_for(1, host, monkeypatch)
        parts = exam.marks(host, concepts[0].deltas)
    assert sizes == [4, 2, *[1] * 64]
    assert [mark.kept for mark in parts] == pytest.approx([mark.kept for mark in whole], rel=1e-3)


def test_an_exam_comes_back_from_the_cache(
    host: StandaloneHost, concepts: list[CaptureConcept], progress: Recorder, tmp_path: Path
) -> None:
    cache = StatisticsCache(tmp_path)
    with host.ready():
        exam = Exam.prepare(host, concepts, SETTINGS, CAPTURE, progress)
        exam.store(cache, "k")
        found = Exam.find(cache, "k")
        assert found is not None
        assert found.marks(host, concepts[0].deltas) == exam.marks(host, concepts[0].deltas)
    assert Exam.find(cache, "other") is None
    for notes in ({}, {"steps": [1], "prompts": [""], "sizes": [1]}, {"steps": 3, "prompts": [], "sizes": []}):
        cache.store_tensors("bad", "exam", {"noisy": exam.questions.noisy, "answers": exam.answers}, notes)
        assert Exam.find(cache, "bad") is None


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
        "stacked sum", "gradient fusion as published", "contrastive", "gradient-fusion without distillation",
        "gradient-fusion (this merge)",
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
    plain = quick_best(loras, tmp_path / "plain.safetensors", tiny_sd1, cache, preset="full", seed=11)
    merge(plain, open_host=open_host, progress=Recorder())

    def full(*_: Any) -> Tensor:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(host, "predict", full)
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
        ("best", "contrastive", 7, 7),
        ("full", "contrastive", 7, 0),
        ("best", "sum", 7, 0),
        ("best", "contrastive", 0, 0),
    ],
)
def test_only_the_preset_best_of_a_merge_on_the_model_distills(
    preset: str, method: str, steps: int, expected: int, tmp_path: Path
) -> None:
    options = MergeOptions(
        (LoraChoice(Path("x")),), tmp_path / "m", method=method, preset=preset, option={"distill": steps}
    )
    assert plan_of(options).distill.steps == expected
    twice = replace(options, lora=(*options.lora, LoraChoice(Path("y"))))
    assert plan_of(twice).distill.steps == 2 * expected, "steps a LoRA"


@pytest.mark.parametrize("missing", ["predict", "gradients"])
def test_a_model_without_gradients_leaves_the_merge_before_it(
    host: StandaloneHost, loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path, missing: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    class Closed:
        """A host that cannot be asked for predictions."""

        def __getattr__(self, name: str) -> Any:
            if name in ("predict", "signal"):
                raise AttributeError(name)
            return getattr(host, name)

    opened: Any = Closed() if missing == "predict" else host
    if missing == "gradients":
        honest = host.predict
        monkeypatch.setattr(host, "predict", lambda *given: honest(*given).detach().requires_grad_())
    made = {}
    for preset in ("full", "best"):
        options = quick_best(loras, tmp_path / f"{preset}.safetensors", tiny_sd1, cache, preset=preset, seed=9)
        made[preset] = merge(options, open_host=lambda checkpoint, device: opened, progress=Recorder())
    assert made["full"].warnings == []
    assert [warning.code for warning in made["best"].warnings] == ["no-gradients"]
    first, second = (SafetensorsFile.open(made[preset].out) for preset in ("full", "best"))
    assert all(torch.equal(first.read(name), second.read(name)) for name in first.tensors)
