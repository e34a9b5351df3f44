"""Regions in a running UNet: what must be exactly the plain picture, and what must be the regions' own."""

from __future__ import annotations

import pytest
import torch
from regional_toys import TEXT, WIDTH, Run, hooks, layout_of, noise, text, toy
from torch import Tensor, nn

from lib_loraclr.regional.conditions import BatchRow, Encoded, RegionText
from lib_loraclr.regional.runtime import RegionalRuntime
from lib_loraclr.regional.sites import find_sites
from lib_loraclr.regional.weights import base_weight

FULL = [[0, 0, 1, 1]]
HALVES = [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]
NEGATIVE, BASE, ANNA, BEN = text(10), text(20), text(30), text(40)


@pytest.mark.parametrize("label", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (5, 7)])
def test_one_full_frame_region_is_the_plain_prompt(label: bool, size: tuple[int, int]) -> None:
    run = Run(toy(label), *size, pictures=2)
    both = [RegionText(ANNA, BEN)]
    assert torch.equal(run.regional(layout_of(FULL, *size), both, NEGATIVE, BASE), run.plain(BEN, ANNA))
    inherited = [RegionText(ANNA)]
    assert torch.equal(run.regional(layout_of(FULL, *size), inherited, NEGATIVE, BASE), run.plain(NEGATIVE, ANNA))


def test_without_the_pooled_map_one_full_frame_region_is_not_the_plain_prompt() -> None:
    run = Run(toy())
    off = run.regional(layout_of(FULL, pooled=False), [RegionText(ANNA)], NEGATIVE, BASE)
    assert (off - run.plain(NEGATIVE, ANNA)).abs().max() > 0.01


def test_layouts_without_a_region_hook_nothing() -> None:
    unet = toy()
    off = layout_of(FULL, each=[{"on": False, "prompt": "x"}])
    for layout in (off, layout_of([])):
        runtime = RegionalRuntime(layout, find_sites(unet))
        with runtime.installed():
            assert runtime.idle
            assert hooks(unet) == 0


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_no_hook_stays_after_an_error_or_an_interrupt(fault: type[BaseException]) -> None:
    unet = toy()
    run = Run(unet)
    before = run.plain(NEGATIVE, BASE)
    runtime = RegionalRuntime(layout_of(HALVES), find_sites(unet))

    def explode(*_: object) -> None:
        raise fault

    inner = unet.middle_block.attention.register_forward_pre_hook(explode)

    def broken() -> None:
        with runtime.installed():
            runtime.begin_step(0.0, [[RegionText(ANNA), RegionText(BEN)]])
            with runtime.calling(run.rows):
                run.plain(NEGATIVE, BASE)

    with pytest.raises(fault):
        broken()
    inner.remove()
    assert hooks(unet) == 0
    assert torch.equal(run.plain(NEGATIVE, BASE), before)
    runtime.remove()


def test_outside_a_call_the_hooks_do_nothing() -> None:
    run = Run(toy())
    before = run.plain(NEGATIVE, BASE)
    runtime = RegionalRuntime(layout_of(HALVES, isolation={"strength": 1, "min_cells": 1}), find_sites(run.unet))
    with runtime.installed():
        runtime.begin_step(0.0, [[RegionText(ANNA), RegionText(BEN)]])
        assert torch.equal(run.plain(NEGATIVE, BASE), before)
        runtime.begin_call(run.rows)
        runtime.end_call()
        assert torch.equal(run.plain(NEGATIVE, BASE), before)


def test_installing_twice_is_installing_once() -> None:
    run = Run(toy())
    runtime = RegionalRuntime(layout_of(HALVES), find_sites(run.unet))
    runtime.install()
    once = hooks(run.unet)
    runtime.install()
    assert hooks(run.unet) == once
    runtime.remove()
    assert hooks(run.unet) == 0


def test_outside_its_window_a_region_is_not_there() -> None:
    run = Run(toy())
    layout = layout_of(FULL, each=[{"steps": [0.25, 0.5]}])
    plain = run.plain(NEGATIVE, BASE)
    for progress in (0.0, 0.2, 0.5, 0.95):
        assert torch.equal(run.regional(layout, [RegionText(ANNA)], NEGATIVE, BASE, progress), plain)
    assert torch.equal(run.regional(layout, [RegionText(ANNA)], NEGATIVE, BASE, 0.25), run.plain(NEGATIVE, ANNA))


def test_swapping_the_prompts_of_two_halves_swaps_the_halves() -> None:
    """On mirrored noise with mirrored prompts the picture is mirrored, up to convolutions: here kernels of one cell."""
    unet = toy()
    for module in unet.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            centre = module.weight.data[:, :, 1:2, 1:2].clone()
            module.weight.data.zero_()
            module.weight.data[:, :, 1:2, 1:2] = centre
    run = Run(unet)
    run.x = (run.x + run.x.flip(-1)) / 2
    texts = [RegionText(ANNA), RegionText(BEN)]
    one = run.regional(layout_of(HALVES), texts, NEGATIVE, BASE)
    two = run.regional(layout_of(HALVES), texts[::-1], NEGATIVE, BASE)
    assert torch.allclose(one, two.flip(-1), atol=1e-5)
    assert (one - two).abs().max() > 0.01


def test_a_batch_of_different_pictures_is_each_alone() -> None:
    """Prompts of different lengths too, one picture per row of texts, whatever the order of the rows."""
    unet = toy()
    layout = layout_of([[0, 0, 0.6, 1], [0.4, 0, 1, 1]], overlap="average")
    texts = [[RegionText(text(100 + k, 3 + 2 * k)), RegionText(text(200 + k), text(300 + k))] for k in range(3)]
    run = Run(unet, pictures=3)
    positives, negatives = [text(50 + k) for k in range(3)], [text(60 + k) for k in range(3)]

    def call(rows: list[BatchRow]) -> Tensor:
        chosen = [(positives if row.conditional else negatives)[row.picture] for row in rows]
        y = torch.cat([torch.stack([one.pooled for one in chosen]), run.sizes[: len(rows)]], 1)
        x = torch.stack([run.x[row.picture] for row in rows])
        with runtime.calling(rows):
            return unet(x, run.t[: len(rows)], torch.stack([one.at(0) for one in chosen]), y)

    runtime = RegionalRuntime(layout, find_sites(unet))
    with runtime.installed():
        runtime.begin_step(0.0, texts)
        together = call(run.rows)
        alone = torch.cat([call([row]) for row in run.rows])
        backwards = call(run.rows[::-1]).flip(0)
        mixed = call([run.rows[k] for k in (4, 0, 5, 2)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together, backwards, atol=1e-5)
    assert torch.allclose(together[[4, 0, 5, 2]], mixed, atol=1e-5)


def test_a_row_without_texts_is_an_error() -> None:
    runtime = RegionalRuntime(layout_of(FULL), find_sites(toy()))
    runtime.begin_step(0.0, [[RegionText(ANNA)]])
    with pytest.raises(ValueError, match="picture 1"):
        runtime.begin_call([BatchRow(1, True)])


def test_a_new_text_at_a_later_step_is_used_from_there_on() -> None:
    """What a prompt schedule such as [a:b:0.5] needs, with texts of different lengths."""
    run = Run(toy())
    runtime = RegionalRuntime(layout_of(FULL), find_sites(run.unet))
    seen: list[int] = []
    layer = run.unet.middle_block.attention.transformer_blocks[0].attn2.to_k
    watch = layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    schedule = [[[RegionText(text(1, 76))]], [[RegionText(text(2, 226))]]]
    with runtime.installed():
        for number in range(4):
            runtime.begin_step(number / 4, schedule[number // 2])
            with runtime.calling(run.rows):
                run.plain(NEGATIVE, BASE)
    watch.remove()
    assert seen == [7, 76, 7, 76, 7, 226, 7, 226]


def test_layers_may_have_contexts_of_their_own() -> None:
    """ED-LoRA: one context per cross-attention layer, in the order down, middle, up, however they are registered."""
    run = Run(toy(label=False))
    layers = [noise(7, TEXT, seed=70 + k) for k in range(4)]
    given: list[Tensor] = []

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        given.append(inputs[0])

    sites = find_sites(run.unet)
    assert [block.name.split(".")[0] for block in sites.blocks] == [
        "input_blocks", "input_blocks", "middle_block", "output_blocks",
    ]  # fmt: skip
    handles = [block.attn2.to_k.register_forward_hook(watch) for block in sites.blocks]
    run_hooks = len(handles)
    runtime = RegionalRuntime(layout_of(FULL), sites)
    with runtime.installed():
        runtime.begin_step(0.0, [[RegionText(Encoded(layers))]])
        with runtime.calling(run.rows):
            output = run.plain(NEGATIVE, BASE)
    for handle in handles:
        handle.remove()
    assert run_hooks == 4
    assert all(torch.equal(given[2 * k + 1][0], layers[k]) for k in range(4))
    same = Encoded([ANNA.at(0)] * 2)  # a short list goes on with its last entry
    assert torch.equal(run.regional(layout_of(FULL), [RegionText(same)], NEGATIVE, BASE), run.plain(NEGATIVE, ANNA))
    assert not torch.equal(output, run.plain(NEGATIVE, ANNA))


def test_foreign_batches_and_merged_tokens_make_regions_stand_aside() -> None:
    run = Run(toy())
    runtime = RegionalRuntime(layout_of(FULL), find_sites(run.unet))
    with runtime.installed():
        runtime.begin_step(0.0, [[RegionText(ANNA)]])
        with runtime.calling(run.rows[1:]):
            block = run.unet.middle_block.attention
            plain = block.transformer_blocks[0].attn2(noise(2, 16, WIDTH), context=noise(2, 7, TEXT, seed=3))
            block(noise(2, WIDTH, 4, 4), noise(2, 7, TEXT, seed=3))
        with runtime.calling(run.rows):
            runtime._sizes[block] = (4, 4)
            merged = block.transformer_blocks[0].attn2(noise(2, 9, WIDTH), context=noise(2, 7, TEXT, seed=3))
    assert len(runtime.notes) == 2
    again = block.transformer_blocks[0].attn2
    assert torch.equal(plain, again(noise(2, 16, WIDTH), context=noise(2, 7, TEXT, seed=3)))
    assert torch.equal(merged, again(noise(2, 9, WIDTH), context=noise(2, 7, TEXT, seed=3)))


@pytest.mark.parametrize("size", [(19, 29), (17, 25), (29, 11)])
def test_any_size_runs(size: tuple[int, int]) -> None:
    """Sides that no power of two divides, so that every level rounds."""
    run = Run(toy(), *size)
    output = run.regional(layout_of(HALVES, *size, feather=0.05), [RegionText(ANNA), RegionText(BEN)], NEGATIVE, BASE)
    assert output.shape == run.x.shape
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("size", [(75, 113), (65, 97), (128, 125), (112, 169)])
def test_sizes_that_users_choose_keep_the_partition_of_unity(size: tuple[int, int]) -> None:
    """600 x 904, 520 x 776, 1024 x 1000 and the first of them times 1.5, at every level and shrunk by 0.6."""
    layout = layout_of([[0, 0, 0.4, 1], [0.4, 0.1, 0.9, 1], [0.3, 0, 0.7, 0.3]], *size, feather=0.03)
    height, width = size
    for _ in range(4):
        for shrink in (1.0, 0.6):
            weights = layout.at(int(height * shrink), int(width * shrink), 0.0)
            base = base_weight(weights)
            assert float(weights.min()) >= 0
            assert float(base.min()) >= 0
            assert float((base + weights.sum(0) - 1).abs().max()) < 1e-6
        height, width = (height + 1) // 2, (width + 1) // 2


@pytest.mark.parametrize("factor", [0.6, 0.5, 1.5])
def test_a_model_that_shrinks_its_features_has_regions_at_their_true_size(factor: float) -> None:
    """As Kohya's deep shrink does: the first stage's features are scaled on the way in, and back on the way out."""
    unet = toy()
    sizes: list[tuple[int, int]] = []

    def scaled(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        smaller = nn.functional.interpolate(inputs[0], scale_factor=factor, mode="nearest")
        sizes.append((smaller.shape[2], smaller.shape[3]))
        return (smaller, *inputs[1:])

    def back(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return nn.functional.interpolate(output, (11, 9), mode="nearest")

    run = Run(unet, 11, 9)
    first = unet.input_blocks[0]
    handles = [first.res.register_forward_pre_hook(scaled), first.attention.register_forward_hook(back)]
    plain = run.plain(NEGATIVE, ANNA)
    runtime = RegionalRuntime(layout_of(FULL, 11, 9), find_sites(unet))
    with runtime.installed():
        runtime.begin_step(0.0, [[RegionText(ANNA)]])
        with runtime.calling(run.rows):
            full = run.plain(NEGATIVE, BASE)
    assert runtime.notes == []
    assert torch.equal(full, plain)
    runtime = RegionalRuntime(layout_of(HALVES, 11, 9), find_sites(unet))
    with runtime.installed():
        runtime.begin_step(0.0, [[RegionText(ANNA), RegionText(BEN)]])
        with runtime.calling(run.rows):
            halves = run.plain(NEGATIVE, BASE)
    assert runtime.notes == []
    assert (halves - plain).abs().max() > 0.01
    assert set(sizes) == {(int(11 * factor), int(9 * factor))}
    for handle in handles:
        handle.remove()
