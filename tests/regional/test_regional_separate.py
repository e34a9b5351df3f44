"""Subjects as pictures of their own in the first steps: which cells, whose answers, and what must stay as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from regional_toys import TEXT, WIDTH, Boxes, Run, ToyUNet, hooks, layout_of, noise, text, toy
from torch import Tensor, nn

from lib_loraclr.core.deltas import LowRank
from lib_loraclr.regional.conditions import Encoded, RegionText
from lib_loraclr.regional.lora import RegionDeltas
from lib_loraclr.regional.runtime import RegionalRuntime
from lib_loraclr.regional.separate import Crop, crops_of
from lib_loraclr.regional.sites import find_sites
from lib_loraclr.regional.weights import RegionWeights

HALVES = [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]
NEGATIVE, BASE, ANNA, BEN, FOG = text(10), text(20), text(30), text(40, 12), text(50)
TEXTS = [RegionText(ANNA), RegionText(BEN, FOG)]


def solo_of(boxes: Boxes, height: int = 8, width: int = 16, solo: float = 1.0, **fields: Any) -> RegionWeights:
    return layout_of(boxes, height, width, isolation={"separate_until": solo}, **fields)


def found(layout: RegionWeights, reduction: int = 1, progress: float = 0.0) -> list[tuple[int, ...]]:
    crops = crops_of(layout, progress, reduction)
    return [] if crops is None else [(c.region, c.top, c.bottom, c.left, c.right) for c in crops.crops]


def part(unet: ToyUNet, run: Run, crop: Crop, negative: Encoded, positive: Encoded) -> Tensor:
    """What the plain prompt makes of one part of the canvas."""
    alone = Run(unet, run.x.shape[2], run.x.shape[3], run.pictures)
    alone.x = crop.of(run.x)
    return alone.plain(negative, positive)


def same(found: Tensor, wanted: Tensor) -> bool:
    return float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


def test_crops_are_boxes_around_the_regions_that_the_unet_can_halve() -> None:
    assert found(solo_of(HALVES), 8) == [(0, 0, 8, 0, 8), (1, 0, 8, 8, 16)]
    # 10 of 20 cells become 16; the second one starts at cell 10 and is pushed back to 4
    assert found(solo_of(HALVES, 8, 20), 8) == [(0, 0, 8, 0, 16), (1, 0, 8, 4, 20)]
    # 4 x 4 cells at (8, 4) of 16 x 32: half the shorter side at least, and around the region
    assert found(solo_of([[0.25, 0.25, 0.375, 0.5]], 16, 32), 4) == [(0, 2, 10, 6, 14)]
    # the canvas itself is no crop, and neither is what grows to it
    assert found(solo_of([[0, 0, 1, 1]])) == found(solo_of([[0, 0, 0.9, 1]]), 8) == []


def test_only_regions_that_are_on_act_now_and_want_it_are_cut_out() -> None:
    each = [{"steps": [0, 0.5]}, {"isolate": False}, {"on": False}]
    layout = solo_of([[0, 0, 0.25, 1], [0.25, 0, 0.5, 1], [0.5, 0, 1, 1]], solo=0.75, each=each)
    assert [crop[0] for crop in found(layout)] == [0]
    assert found(layout, progress=0.5) == []
    halves = solo_of(HALVES, solo=0.25)
    assert len(found(halves, progress=0.2)) == 2
    assert found(halves, progress=0.25) == []
    assert found(solo_of(HALVES, solo=0.0)) == []
    assert len(found(solo_of(HALVES, solo=1.0), progress=0.99)) == 2


@pytest.mark.parametrize("isolate", [True, False])
def test_the_high_resolution_pass_has_its_own_switch(isolate: bool) -> None:
    spec = layout_of(HALVES, isolation={"separate_until": 1}, hires={"isolate": isolate}).spec
    assert (crops_of(RegionWeights(spec, 16, 32, hires=True), 0.0, 1) is not None) == isolate
    assert crops_of(RegionWeights(spec, 16, 32), 0.0, 1) is not None


def test_the_faint_end_of_a_soft_edge_belongs_to_whoever_reaches_there() -> None:
    """Soft by an eighth of 8 cells: from 1/2 to 0 in half a cell beyond the edge, so cell 8 is Anna's by 1/8."""
    for boxes in (HALVES, HALVES[:1]):
        layout = solo_of(boxes, feather=0.125)
        assert layout.at(8, 16, 0.0)[0, 0, 8].item() == pytest.approx(0.125, abs=1e-6)
        crops = crops_of(layout, 0.0, 8)
        assert crops is not None
        assert crops.crops[0] == Crop(0, 0, 8, 0, 8)
        assert crops.weights[0, 0, 7].item() == pytest.approx(1.0 if crops.covering else 0.875, abs=1e-6)
        assert crops.weights[0, 0, 8].item() == 0.0
        assert crops.covering == (len(boxes) == 2)
        assert crops.rest[0, 8].item() == pytest.approx(0.0 if crops.covering else 1.0, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(0, 1)] * 4).filter(lambda b: abs((b[2] - b[0]) * (b[3] - b[1])) > 1e-3), max_size=4),
    st.integers(8, 40), st.integers(8, 40), st.sampled_from([1, 4, 8]), st.floats(0, 0.5),
    st.sampled_from(["average", "weighted", "top"]), st.floats(0, 1),
)  # fmt: skip
def test_weights_add_up_to_one(
    boxes: list[Any], height: int, width: int, reduction: int, feather: float, overlap: str, floor: float
) -> None:
    layout = solo_of(
        [list(box) for box in boxes], height, width, feather=feather, overlap=overlap, base={"in_regions": floor}
    )
    crops = crops_of(layout, 0.0, reduction)
    if crops is None:
        return
    assert float((crops.weights.sum(0) + crops.rest - 1).abs().max()) < 1e-6
    assert float(crops.weights.min()) >= 0
    assert float(crops.rest.min()) >= 0
    for weights, crop in zip(crops.weights, crops.crops, strict=True):
        assert float(crop.of(weights).sum()) == pytest.approx(float(weights.sum()))
        for length, side in zip(crop.size, (height, width), strict=True):
            assert length == side or (length < side and length % reduction == 0 and 2 * length >= min(height, width))
        assert 0 <= crop.top < crop.bottom <= height
        assert 0 <= crop.left < crop.right <= width


@pytest.mark.parametrize("label", [False, True])
def test_two_halves_are_two_pictures(label: bool) -> None:
    """With negatives, pooled vectors and lengths of text of their own, and nothing of the canvas's prompt."""
    unet = toy(label)
    run = Run(unet, 8, 16, pictures=2)
    output = run.regional(solo_of(HALVES), TEXTS, NEGATIVE, BASE)
    left, right = Crop(0, 0, 8, 0, 8), Crop(1, 0, 8, 8, 16)
    assert torch.equal(left.of(output), part(unet, run, left, NEGATIVE, ANNA))
    for rows, encoded in ((slice(0, 2), FOG), (slice(2, 4), BEN)):
        y = torch.cat([encoded.pooled.expand(2, -1), run.sizes[:2]], 1) if label else None
        alone = unet(right.of(run.x)[rows], run.t[:2], encoded.at(0).expand(2, -1, -1), y)
        assert same(right.of(output)[rows], alone)


def test_what_crops_leave_over_is_the_canvas() -> None:
    """One region in a wide canvas, at three quarters of its strength, and another that wants no solo."""
    unet = toy()
    run = Run(unet, 8, 32)
    boxes, each = [[0, 0, 0.25, 1], [0.75, 0, 1, 1]], [{"strength": 0.75}, {"isolate": False}]
    usual = run.regional(layout_of(boxes, 8, 32, each=each), TEXTS, NEGATIVE, BASE)
    output = run.regional(solo_of(boxes, 8, 32, each=each), TEXTS, NEGATIVE, BASE)
    crop = Crop(0, 0, 8, 0, 8)
    alone = part(unet, run, crop, NEGATIVE, ANNA)
    assert torch.equal(output[..., 8:], usual[..., 8:])
    assert same(crop.of(output), 0.75 * alone + 0.25 * crop.of(usual))


def test_overlaps_and_soft_edges_are_weighted_sums() -> None:
    unet = toy()
    layout = solo_of([[0, 0, 0.6, 1], [0.4, 0, 1, 1]], 8, 20, feather=0.3)
    run = Run(unet, 8, 20)
    texts = [RegionText(ANNA), RegionText(FOG)]
    output = run.regional(layout, texts, NEGATIVE, BASE)
    crops = crops_of(layout, 0.0, 1)
    assert crops is not None
    assert crops.covering
    wanted = torch.zeros_like(output)
    for crop, weights, one in zip(crops.crops, crops.weights, (ANNA, FOG), strict=True):
        crop.of(wanted).add_(crop.of(weights).float() * part(unet, run, crop, NEGATIVE, one))
    assert same(output, wanted)
    assert ((crops.weights > 0).sum(0) == 2).any()


@pytest.mark.parametrize("size", [(9, 19), (11, 13), (17, 8)])
def test_any_size_runs(size: tuple[int, int]) -> None:
    layout = solo_of([[0, 0, 0.4, 1], [0.4, 0.1, 0.9, 1], [0.3, 0, 0.7, 0.3]], *size, feather=0.05)
    output = Run(toy(), *size).regional(layout, [*TEXTS, RegionText(FOG)], NEGATIVE, BASE)
    assert output.shape[2:] == size
    assert torch.isfinite(output).all()


def test_without_solo_and_after_its_share_nothing_is_different() -> None:
    run = Run(toy(), 8, 16)
    fields: dict[str, Any] = {"height": 8, "width": 16}
    usual = run.regional(
        layout_of(HALVES, **fields, isolation={"strength": 0.5, "min_cells": 1}), TEXTS, NEGATIVE, BASE, 0.3
    )
    for share, progress in ((0.0, 0.0), (0.3, 0.3)):
        layout = layout_of(HALVES, **fields, isolation={"strength": 0.5, "min_cells": 1, "separate_until": share})
        assert torch.equal(run.regional(layout, TEXTS, NEGATIVE, BASE, progress), usual)
    runtime = RegionalRuntime(
        layout_of(HALVES, **fields, isolation={"strength": 0.5, "separate_until": 0}), find_sites(run.unet)
    )
    with runtime.installed():
        assert not run.unet._forward_hooks
        assert not run.unet._forward_pre_hooks
    early = layout_of(HALVES, **fields, isolation={"strength": 0.5, "min_cells": 1, "separate_until": 0.3})
    assert not same(run.regional(early, TEXTS, NEGATIVE, BASE, 0.0), usual)


@pytest.mark.parametrize(("boxes", "calls"), [(HALVES, 2), (HALVES[:1], 2), ([*HALVES, [0.2, 0, 0.6, 1]], 3)])
def test_the_canvas_is_asked_only_where_crops_leave_something(boxes: Boxes, calls: int) -> None:
    unet = toy()
    seen: list[tuple[int, ...]] = []
    watch = unet.middle_block.res.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
    runtime = RegionalRuntime(solo_of(boxes), find_sites(unet))
    run = Run(unet, 8, 16)
    with runtime.installed():
        runtime.begin_step(0.0, [[*TEXTS, RegionText(FOG)][: len(boxes)]])
        with runtime.calling(run.rows):
            run.plain(NEGATIVE, BASE)
    watch.remove()
    assert len(seen) == calls


def test_a_lora_of_one_region_is_whole_in_its_own_picture() -> None:
    unet = toy()
    run = Run(unet, 8, 16)
    stage: Any = unet.input_blocks[0]
    block = stage.attention.transformer_blocks[0]
    modules: dict[str, nn.Linear] = {"k": block.attn2.to_k, "q": block.attn1.to_q, "ff": block.ff}
    deltas = {
        name: LowRank(noise(module.weight.shape[0], 2, seed=60), noise(2, module.weight.shape[1], seed=61))
        for name, module in modules.items()
    }
    output = run.regional(
        solo_of(HALVES),
        [RegionText(ANNA), RegionText(FOG)],
        NEGATIVE,
        BASE,
        loras=RegionDeltas([{}, deltas], dict(modules)),
    )
    left, right = Crop(0, 0, 8, 0, 8), Crop(1, 0, 8, 8, 16)
    assert same(left.of(output), part(unet, run, left, NEGATIVE, ANNA))
    before = part(unet, run, right, NEGATIVE, FOG)
    for name, module in modules.items():
        module.weight.data += deltas[name].up @ deltas[name].down
    conditional = slice(1, 2)  # the negative is the picture's own: it has no LoRA in keys and values
    assert same(right.of(output)[conditional], part(unet, run, right, NEGATIVE, FOG)[conditional])
    assert not same(right.of(output)[conditional], before[conditional])


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("boxes", [HALVES, HALVES[:1]])
def test_no_hook_stays_after_an_error_or_an_interrupt(fault: type[BaseException], which: int, boxes: Boxes) -> None:
    """In whichever call: the canvas's own, the crop that stands in for it, or a later one."""
    unet = toy()
    run = Run(unet, 8, 16)
    before = run.plain(NEGATIVE, BASE)
    seen: list[int] = []

    def explode(*_: object) -> None:
        seen.append(1)
        if len(seen) > which:
            raise fault

    def broken() -> None:
        with runtime.installed():
            runtime.begin_step(0.0, [TEXTS[: len(boxes)]])
            with runtime.calling(run.rows):
                run.plain(NEGATIVE, BASE)
            seen.append(1)
            explode()

    runtime = RegionalRuntime(solo_of(boxes), find_sites(unet))
    inner = unet.middle_block.attention.register_forward_pre_hook(explode)
    with pytest.raises(fault):
        broken()
    inner.remove()
    assert hooks(unet) == 0
    assert torch.equal(run.plain(NEGATIVE, BASE), before)


def test_what_does_not_fit_a_crop_makes_solo_stand_aside_once() -> None:
    """Hints as large as the picture, a `forward` or a hook of somebody else: the picture is the usual one."""

    class Controlled(ToyUNet):
        def forward(self, x: Tensor, t: Tensor, context: Tensor, y: Any = None, control: Any = None) -> Tensor:
            added = 0 if control is None else control["input"].pop()  # as Forge takes its hints, out of their lists
            return super().forward(x, t, context, y) + added

    unet = Controlled(label=False)
    unet.load_state_dict(toy(label=False).state_dict())
    unet.requires_grad_(False)
    run, contexts = Run(unet, 8, 16), torch.stack([NEGATIVE.at(0), BASE.at(0)])

    def call(layout: RegionWeights, *hints: Tensor) -> tuple[Tensor, list[str]]:
        runtime, outputs = RegionalRuntime(layout, find_sites(unet)), []
        with runtime.installed():
            runtime.begin_step(0.0, [TEXTS])
            for _ in range(2):
                with runtime.calling(run.rows):
                    outputs.append(unet(run.x, run.t, contexts, control={"input": list(hints)} if hints else None))
        assert torch.equal(*outputs)
        return outputs[0], runtime.notes

    usual, solo, hint = layout_of(HALVES, 8, 16), solo_of(HALVES), noise(2, WIDTH, 8, 16, seed=9)
    output, notes = call(solo, hint)
    assert torch.equal(output, call(usual, hint)[0])
    assert len(notes) == 1
    assert "ControlNet" in notes[0]
    plain = call(usual)[0]
    assert not same(call(solo)[0], plain)
    assert call(solo)[1] == []
    handle = unet.register_forward_pre_hook(lambda *_: None)
    output, notes = call(solo)
    handle.remove()
    assert torch.equal(output, plain)
    assert len(notes) == 1
    unet.forward = unet.forward  # pyright: ignore[reportAttributeAccessIssue]
    output, notes = call(solo)
    del unet.forward
    assert torch.equal(output, plain)
    assert len(notes) == 1


@pytest.mark.parametrize("boxes", [HALVES, HALVES[:1]])
def test_latents_by_name_and_answers_in_a_tuple(boxes: Boxes) -> None:
    """As diffusers' UNets can be called."""

    class Named(ToyUNet):
        def forward(self, sample: Tensor, t: Tensor, context: Tensor) -> Any:
            return super().forward(sample, t, context), "more"

    unet = Named(label=False)
    unet.load_state_dict(toy(label=False).state_dict())
    unet.requires_grad_(False)
    texts, layout = TEXTS[: len(boxes)], solo_of(boxes)
    wanted = Run(toy(label=False), 8, 16).regional(layout, texts, NEGATIVE, BASE)
    runtime, run = RegionalRuntime(layout, find_sites(unet)), Run(unet, 8, 16)
    with runtime.installed():
        runtime.begin_step(0.0, [texts])
        with runtime.calling(run.rows):
            output, more = unet(t=run.t, sample=run.x, context=torch.stack([NEGATIVE.at(0), BASE.at(0)]))
    assert torch.equal(output, wanted)
    assert more == "more"


def test_a_call_that_is_not_ours_is_left_alone() -> None:
    """Outside of a call, with another size or another number of rows."""
    unet = toy(label=False)
    runtime = RegionalRuntime(solo_of(HALVES), find_sites(unet))
    context = noise(1, 7, TEXT, seed=3)
    for shape in ((1, WIDTH, 8, 16), (1, WIDTH, 4, 16)):
        x, t = noise(*shape, seed=8), torch.full((1,), 0.3)
        plain = unet(x, t, context)
        with runtime.installed():
            runtime.begin_step(0.0, [TEXTS])
            assert torch.equal(unet(x, t, context), plain)
