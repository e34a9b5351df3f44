"""Distillation on the tiny checkpoint: what is learned, that the host is as before, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from distilling import CAPTURE, SETTINGS, error, room_for, stacked, state
from tiny_loras import Recorder
from torch import Tensor

from lib_loraclr.capture import Concept, inject
from lib_loraclr.capture.prompts import HELD_OUT_TEMPLATES, TEXT_TEMPLATES
from lib_loraclr.core.deltas import Delta, Dense, LowRank
from lib_loraclr.core.errors import InputError
from lib_loraclr.distill import DistillationDataset, DistillSettings, build_dataset, distill, train
from lib_loraclr.distill.data import dataset_count
from lib_loraclr.distill.train import LossScale, Student, factored, learning_rates
from lib_loraclr.hosts.standalone import StandaloneHost, load_checkpoint


def test_predictions_are_those_of_the_sampler(host: StandaloneHost) -> None:
    """The first step of a run without guidance, asked for directly."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    step = len(host.sqrt_alphas_cumprod()) - 1
    with host.ready():
        conditioning = host.encode(["a photo"])
        output = host.unet(noise, step, conditioning.context).sample
        found = host.predict_x0(noise, [step], ["a photo"])
    torch.testing.assert_close(found, host.schedule.clean(noise, output, step))


def test_lessons_are_what_the_single_loras_predict(
    host: StandaloneHost, concepts: list[Concept], dataset: DistillationDataset
) -> None:
    assert [len(group) for group in dataset.groups] == [8, 8, 8]
    assert len(dataset.timesteps) == len(dataset.prompts) == len(dataset.noisy) == 24
    for concept, group in zip([*concepts, None], dataset.groups, strict=True):
        rows = list(group)
        deltas = {} if concept is None else concept.deltas
        with host.ready(), inject(host.layers(), deltas):
            found = host.predict_x0(
                dataset.noisy[rows], [dataset.timesteps[k] for k in rows], [dataset.prompts[k] for k in rows]
            )
        torch.testing.assert_close(found, dataset.targets[rows], rtol=1e-3, atol=1e-3)
        assert all((concept is None) or concept.name in dataset.prompts[k] for k in rows)
    assert [dataset.prompts[k] for k in dataset.groups[-1]].count("") >= 4  # guidance asks the empty prompt
    assert len(set(dataset.timesteps)) > 12


def test_lessons_are_in_more_places_than_the_captured_pictures(host: StandaloneHost, concepts: list[Concept]) -> None:
    many = replace(SETTINGS, pictures=len(TEXT_TEMPLATES), neutral=1, levels=1)
    with host.ready():
        found = build_dataset(host, concepts[:1], many, CAPTURE, Recorder(phases=[("record", 0)]))
    assert len(set(found.prompts[: len(TEXT_TEMPLATES)])) == len(TEXT_TEMPLATES) > len(CAPTURE.sample_templates)
    assert any("in the snow" in prompt for prompt in found.prompts)
    evaluation = {template.format(c=f"{concepts[0].name} man", other="a dog") for template in HELD_OUT_TEMPLATES}
    assert evaluation.isdisjoint(found.prompts), "an evaluation is no lesson"


def test_every_step_of_progress_is_made(host: StandaloneHost, concepts: list[Concept]) -> None:
    progress = Recorder(phases=[("record", 0)])
    with host.ready():
        build_dataset(host, concepts, SETTINGS, CAPTURE, progress)
    assert len(progress.reached) == dataset_count(2, SETTINGS, CAPTURE).steps


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
    host: StandaloneHost, concepts: list[Concept], dataset: DistillationDataset
) -> None:
    """Both the dataset and others of the same teachers: fresh pictures, fresh noise."""
    start, before = stacked(concepts), state(host)
    with host.ready():
        found = distill(host, start, dataset, SETTINGS, Recorder(phases=[("distill", 0)]))
        fresh = build_dataset(host, concepts, SETTINGS, replace(CAPTURE, seed=77), Recorder(phases=[("record", 0)]))
    assert state(host) == before
    assert len(found.losses) == SETTINGS.total_steps
    assert {name: delta.rank for name, delta in found.deltas.items()} == {
        name: delta.rank for name, delta in start.items()
    }
    assert error(host, found.deltas, dataset) < 0.7 * error(host, start, dataset)
    assert error(host, found.deltas, fresh) < 0.8 * error(host, start, fresh)


@pytest.mark.parametrize(("steps", "share"), [(100, 1.0), (200, 1.0), (800, 0.25)])
def test_in_more_steps_the_text_encoder_learns_slower(
    host: StandaloneHost, concepts: list[Concept], steps: int, share: float
) -> None:
    student = Student(host.layers(), concepts[0].deltas, host.info.device)
    rates = iter(learning_rates(student, DistillSettings(total_steps=steps, text_encoder_slowdown_after=200, rate=0.5)))
    for name, pair in student.factors.items():
        for factor in pair:
            size = float(factor.detach().norm()) / factor.numel() ** 0.5
            assert next(rates) == pytest.approx(0.5 * size * (share if name.startswith("text_encoder") else 1.0))
    assert any(name.startswith("text_encoder") for name in student.factors)


def test_the_text_encoder_can_be_left_alone(
    host: StandaloneHost, concepts: list[Concept], dataset: DistillationDataset
) -> None:
    start = stacked(concepts)
    with host.ready():
        settings = replace(SETTINGS, total_steps=2, text_encoder_slowdown_after=0)
        found = distill(host, start, dataset, settings, Recorder(phases=[("distill", 0)])).deltas
    before = Student(host.layers(), start, host.info.device).deltas()
    moved = {name for name, delta in before.items() if not torch.equal(delta.up, found[name].up)}
    assert moved
    assert {name.partition(".")[0] for name in moved} == {"unet"}
    assert any(name.startswith("text_encoder") for name in before)


def test_its_own_teacher_has_nothing_to_say(
    host: StandaloneHost, concepts: list[Concept], dataset: DistillationDataset
) -> None:
    own = replace(dataset, groups=[dataset.groups[0], dataset.groups[0]])
    with host.ready():
        found = distill(
            host, concepts[0].deltas, own, replace(SETTINGS, total_steps=1), Recorder(phases=[("distill", 0)])
        )
    assert found.losses[0] < 1e-6


def test_less_memory_gives_the_same(
    host: StandaloneHost, concepts: list[Concept], dataset: DistillationDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, start = replace(SETTINGS, total_steps=2), stacked(concepts)
    with host.ready():
        whole = distill(host, start, dataset, few, Recorder(phases=[("distill", 0)]))
        sizes = room_for(4, host, monkeypatch)
        parts = distill(host, start, dataset, few, Recorder(phases=[("distill", 0)]))
    assert sizes == [12, 6, 3, 3, 3, 3, 3, 3, 3, 3]
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)
    for name, delta in whole.deltas.items():
        torch.testing.assert_close(parts.deltas[name].dense(), delta.dense(), rtol=1e-2, atol=1e-3)


def test_an_attention_without_gradients_is_refused(
    host: StandaloneHost, concepts: list[Concept], dataset: DistillationDataset
) -> None:
    name = next(name for name in concepts[0].deltas if ".attn" in name)
    attention = host.unet.get_submodule(name.removeprefix("unet.").rpartition(".")[0])
    hook = attention.register_forward_hook(lambda module, inputs, output: output.detach())
    try:
        with host.ready(), pytest.raises(InputError, match="attention") as refused:
            distill(host, stacked(concepts), dataset, SETTINGS, Recorder(phases=[("distill", 0)]))
    finally:
        hook.remove()
    assert refused.value.code == "no-gradients"
    assert state(host)[0] == 0


def test_half_precision_scales_the_loss_and_gives_the_same(
    host: StandaloneHost, concepts: list[Concept], dataset: DistillationDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On weights that are float32 after all, a power of two goes in and out without a trace."""
    few, start = replace(SETTINGS, total_steps=2), stacked(concepts)
    with host.ready():
        whole = distill(host, start, dataset, few, Recorder(phases=[("distill", 0)]))
        monkeypatch.setattr(train, "LossScale", lambda _: LossScale(torch.float16))
        scaled = distill(host, start, dataset, few, Recorder(phases=[("distill", 0)]))
    assert scaled.losses == pytest.approx(whole.losses, rel=1e-6)
    for name, delta in whole.deltas.items():
        torch.testing.assert_close(scaled.deltas[name].dense(), delta.dense(), rtol=1e-4, atol=1e-5)


def test_gradients_that_overflow_are_left_out(
    host: StandaloneHost, concepts: list[Concept], dataset: DistillationDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step's gradients are infinite: it changes nothing, and the second learns."""
    honest, start, calls = host.predict_x0, stacked(concepts), list[int]()

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
                host, start, dataset, replace(SETTINGS, total_steps=steps), Recorder(phases=[("distill", 0)])
            ).deltas

    monkeypatch.setattr(host, "predict_x0", overflowing)
    monkeypatch.setattr(train, "LossScale", lambda _: LossScale(torch.float16))
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


def test_wider_formats_keep_tiny_gradients_normal() -> None:
    """What a key gets through an attention of 1e-33, with a loss of 1e-8: subnormal as it is, and slow on a CPU."""
    smallest = torch.finfo(torch.float32).tiny
    for dtype in (torch.float32, torch.bfloat16):
        scale, found = LossScale(dtype), list[float]()
        for value in (1.0, scale.value):
            factor = torch.ones((), requires_grad=True)
            inner = factor * 1e-33
            (value * 1e-8 * inner).backward()
            assert factor.grad is not None
            found.append(float(factor.grad))
        assert 0 < found[0] < smallest < found[1]
        assert scale.undo([factor])
        assert float(factor.grad) == pytest.approx(found[0], rel=1e-3)


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
            prediction = model.predict_x0(noisy, [900, 100], ["a cat", ""])
            (scale * 1e-6 * (prediction - wanted).square().mean()).backward()
        found[dtype, scale] = student.factors[layer][0].grad / scale
    (_, exact), (_, vanished), (_, kept) = found.items()
    assert (kept - exact).norm() < 0.1 * exact.norm()
    assert (vanished - exact).norm() > 0.5 * exact.norm()
