"""The mixture inside a layer: against the published formula, under several kernels, and what is not computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from regional_toys import (
    HEADS,
    TEXT,
    WIDTH,
    CrossAttention,
    Run,
    SpatialTransformer,
    attend,
    layout_of,
    noise,
    text,
    toy,
)
from torch import Tensor, nn

from lib_loraclr.regional.conditions import BatchRow, Encoded, RegionText
from lib_loraclr.regional.runtime import RegionalRuntime
from lib_loraclr.regional.sites import find_sites
from lib_loraclr.regional.weights import RegionWeights

NEGATIVE, BASE, ANNA, BEN = text(10), text(20), text(30), text(40)
ROWS = [BatchRow(0, False), BatchRow(0, True)]


class OneLayer:
    """A spatial transformer alone, so that one cross-attention can be asked directly."""

    def __init__(self, layout: RegionWeights, height: int, width: int, seed: int = 0) -> None:
        self.model = nn.ModuleDict({"input_blocks": SpatialTransformer()})
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.model.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
            parameter.requires_grad_(False)
        self.owner = self.model["input_blocks"]
        self.attn: Any = self.owner.transformer_blocks[0].attn2
        self.runtime = RegionalRuntime(layout, find_sites(self.model))
        self.size, self.layout = (height, width), layout
        self.x = noise(2, height * width, WIDTH, seed=3)
        self.context = torch.stack([NEGATIVE.at(0), BASE.at(0)])

    def double(self) -> OneLayer:
        """In float64, where kernels of all processors agree."""
        self.model.double()
        self.x, self.context = self.x.double(), self.context.double()
        return self

    def __call__(self, texts: list[RegionText], rows: list[BatchRow] = ROWS, progress: float = 0.0) -> Tensor:
        with self.runtime.installed():
            self.runtime.begin_step(progress, [texts])
            with self.runtime.calling(rows):
                self.runtime._before_owner(self.owner, (torch.empty(2, WIDTH, *self.size),), {})
                return self.attn(self.x, context=self.context)

    def plain(self, negative: Encoded, positive: Encoded) -> Tensor:
        return self.attn.forward(self.x, context=torch.stack([negative.at(0), positive.at(0)]).to(self.x))


def test_tokens_of_one_region_are_that_regions_attention_and_the_rest_is_the_base() -> None:
    layer = OneLayer(layout_of([[0, 0, 0.5, 1]]), 8, 8)
    mixed = layer([RegionText(ANNA, BEN)]).unflatten(1, (8, 8))
    own, base = (layer.plain(*pair).unflatten(1, (8, 8)) for pair in ((BEN, ANNA), (NEGATIVE, BASE)))
    assert torch.allclose(mixed[:, :, :4], own[:, :, :4], atol=1e-6)
    assert torch.equal(mixed[:, :, 4:], base[:, :, 4:])


def published(layer: OneLayer, boxes: list[list[float]], texts: list[RegionText]) -> Tensor:
    """Mix-of-Show's region-aware cross-attention: inside boxes the equal average of the regions' attention, before the
    output projection; base attention elsewhere. Written from the paper's formula, token by token."""
    attn, (height, width) = layer.attn, layer.size
    q = attn.to_q(layer.x)

    def answers(context: Tensor) -> Tensor:
        return attend(q, attn.to_k(context.to(q)), attn.to_v(context.to(q)))

    base = answers(layer.context)
    regional = [answers(torch.stack([(one.negative or NEGATIVE).at(0), one.positive.at(0)])) for one in texts]
    result = base.clone()
    for row in range(height):
        for column in range(width):
            inside = [
                answer for (x0, y0, x1, y1), answer in zip(boxes, regional, strict=True)
                if math.ceil(y0 * height) <= row < math.floor(y1 * height)
                and math.ceil(x0 * width) <= column < math.floor(x1 * width)
            ]  # fmt: skip
            token = row * width + column
            if inside:
                result[:, token] = torch.stack([answer[:, token] for answer in inside]).mean(0)
    return attn.to_out(result)


@pytest.mark.parametrize("size", [(8, 8), (16, 12), (5, 7)])
def test_mix_of_show_is_computed_as_published(size: tuple[int, int]) -> None:
    boxes = [[0.02, 0.1, 0.55, 0.9], [0.4, 0.3, 0.97, 1.0], [0.45, 0.0, 0.6, 0.2]]
    layer = OneLayer(layout_of(boxes, *size, raster="mix-of-show"), *size).double()
    texts = [RegionText(text(1), text(2)), RegionText(text(3), text(4)), RegionText(text(5), text(6))]
    ours, theirs = layer(texts), published(layer, boxes, texts)
    assert (ours - theirs).abs().max() <= 1e-6
    assert (ours - layer.plain(NEGATIVE, BASE)).abs().max() > 0.01


def naive(module: Any, x: Tensor, context: Tensor) -> Tensor:
    return attend(module.to_q(x), module.to_k(context), module.to_v(context))


def fused(module: Any, x: Tensor, context: Tensor) -> Tensor:
    q, k, v = (t.unflatten(2, (HEADS, -1)).transpose(1, 2)
               for t in (module.to_q(x), module.to_k(context), module.to_v(context)))  # fmt: skip
    return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def sliced(module: Any, x: Tensor, context: Tensor) -> Tensor:
    """Queries in pieces of five."""
    k, v = module.to_k(context), module.to_v(context)
    return torch.cat([attend(part, k, v) for part in module.to_q(x).split(5, 1)], 1)


def upcast(module: Any, x: Tensor, context: Tensor) -> Tensor:
    parts = (module.to_q(x), module.to_k(context), module.to_v(context))
    return attend(*(part.double() for part in parts)).to(x.dtype)


def streamed(module: Any, x: Tensor, context: Tensor) -> Tensor:
    """Keys in pieces of three with a running maximum, as sub-quadratic kernels do."""
    q, k, v = (t.unflatten(2, (HEADS, -1)).transpose(1, 2)
               for t in (module.to_q(x), module.to_k(context), module.to_v(context)))  # fmt: skip
    top = torch.full((*q.shape[:3], 1), -torch.inf)
    total, weighted = torch.zeros_like(top), torch.zeros_like(q)
    for keys, values in zip(k.split(3, 2), v.split(3, 2), strict=True):
        scores = q @ keys.transpose(-1, -2) * q.shape[-1] ** -0.5
        now = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights = (scores - now).exp()
        total = total * (top - now).exp() + weights.sum(-1, keepdim=True)
        weighted = weighted * (top - now).exp() + weights @ values
        top = now
    return (weighted / total).transpose(1, 2).flatten(2)


def batched(module: Any, x: Tensor, context: Tensor) -> Tensor:
    """One row at a time."""
    return torch.cat([naive(module, x[k : k + 1], context[k : k + 1]) for k in range(len(x))])


@pytest.mark.parametrize("kernel", [fused, sliced, upcast, streamed, batched])
def test_every_attention_kernel_gives_the_same_mixture(kernel: Callable[..., Tensor]) -> None:
    layout = layout_of([[0, 0, 0.6, 1], [0.3, 0.2, 1, 0.9]], 37, 29, feather=0.1)
    expected = OneLayer(layout, 37, 29)([RegionText(ANNA), RegionText(BEN, ANNA)])
    layer = OneLayer(layout, 37, 29)

    def installed(x: Tensor, context: Tensor | None = None, mask: Any = None) -> Tensor:
        return layer.attn.to_out(kernel(layer.attn, x, x if context is None else context))

    layer.attn.forward = installed  # as optimisers and IP-Adapter do
    found = layer([RegionText(ANNA), RegionText(BEN, ANNA)])
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_cropped_queries_are_the_full_frame_mixture() -> None:
    """Also: mixing after the output projection is mixing before it, since the weights add up to one."""
    layout = layout_of([[0, 0, 0.6, 1], [0.3, 0.2, 1, 0.9]], feather=0.1)
    layer = OneLayer(layout, 8, 8)
    mixed = layer([RegionText(ANNA, ANNA), RegionText(BEN, BEN)])
    weights = layout.at(8, 8, 0).flatten(1).float()
    q = layer.attn.to_q(layer.x)
    before = [
        attend(q, layer.attn.to_k(context), layer.attn.to_v(context))
        for context in (layer.context, *(one.at(0).expand(2, -1, -1) for one in (ANNA, BEN)))
    ]
    everyone = torch.cat([(1 - weights.sum(0))[None], weights])
    expected = layer.attn.to_out(sum(w[None, :, None] * answer for w, answer in zip(everyone, before, strict=True)))
    assert (mixed - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_the_order_of_regions_does_not_change_the_mixture() -> None:
    boxes, texts = [[0, 0, 0.6, 1], [0.3, 0.2, 1, 0.9]], [RegionText(ANNA), RegionText(BEN)]
    one = OneLayer(layout_of(boxes), 8, 8)(texts)
    two = OneLayer(layout_of(boxes[::-1]), 8, 8)(texts[::-1])
    assert (one - two).abs().max() <= 1e-6


def test_a_negative_changes_only_unconditional_rows_inside_its_region() -> None:
    layer = OneLayer(layout_of([[0, 0, 0.5, 1], [0.5, 0, 1, 1]]), 8, 8)
    one = layer([RegionText(ANNA, text(7)), RegionText(BEN)])
    two = layer([RegionText(ANNA, text(8)), RegionText(BEN)])
    changed = (one != two).any(-1).unflatten(1, (8, 8))
    assert not changed[1].any()
    assert changed[0, :, :4].all()
    assert not changed[0, :, 4:].any()


def asked_tokens(layer: OneLayer, texts: list[RegionText]) -> list[tuple[int, ...]]:
    """(rows, tokens) of every time that the layer is asked, its own call first."""
    asked: list[tuple[int, ...]] = []
    handle = layer.attn.to_q.register_forward_hook(lambda _, inputs, __: asked.append(tuple(inputs[0].shape[:2])))
    layer(texts)
    handle.remove()
    return asked


def test_inherited_negatives_are_not_computed_again_and_only_own_tokens_are_asked() -> None:
    """8 x 8 cells: a left half of 32 tokens, a column of 8; rows without a text of their own are left out."""
    layer = OneLayer(layout_of([[0, 0, 0.5, 1], [0.875, 0, 1, 1]]), 8, 8)
    # the unconditional row needs the picture's own prompt everywhere but in the column, so both rows are asked for that
    assert asked_tokens(layer, [RegionText(ANNA), RegionText(BEN, NEGATIVE)]) == [(2, 56), (1, 32), (2, 8)]


def test_the_pictures_prompt_is_asked_only_where_it_is_left_over() -> None:
    halves = layout_of([[0, 0, 0.5, 1], [0.5, 0, 1, 1]])
    own, inherited = [RegionText(ANNA, BEN), RegionText(BEN, ANNA)], [RegionText(ANNA), RegionText(BEN)]
    assert asked_tokens(OneLayer(halves, 8, 8), own) == [(1, 1), (2, 32), (2, 32)]  # nowhere; a call cannot be empty
    assert asked_tokens(OneLayer(halves, 8, 8), inherited) == [(1, 64), (1, 32), (1, 32)]
    with_gap = layout_of([[0, 0, 0.5, 1], [0.75, 0, 1, 1]])
    assert asked_tokens(OneLayer(with_gap, 8, 8), own) == [(2, 16), (2, 32), (2, 16)]
    alone = asked_tokens(OneLayer(layout_of([[0, 0, 1, 1]]), 8, 8), inherited[:1])
    assert alone == [(2, 64), (2, 64)]  # whole, so that it rounds as a plain prompt does


@pytest.mark.parametrize("foreign", ["forward", "hook", "mask"])
def test_a_layer_that_others_work_on_is_called_whole(foreign: str) -> None:
    texts = [RegionText(ANNA, BEN), RegionText(BEN, ANNA)]
    expected = OneLayer(layout_of([[0, 0, 0.5, 1], [0.5, 0, 1, 1]]), 8, 8)(texts)
    layer = OneLayer(layout_of([[0, 0, 0.5, 1], [0.5, 0, 1, 1]]), 8, 8)
    seen: list[tuple[int, ...]] = []
    if foreign == "forward":
        layer.attn.forward = lambda x, context=None: CrossAttention.forward(layer.attn, x, context)
    elif foreign == "hook":
        layer.attn.register_forward_hook(lambda _, inputs, output: seen.append(tuple(output.shape[:2])))
    else:
        plain = layer.attn.__call__
        layer.attn = lambda x, context: plain(x, context=context, mask=torch.zeros(()))
    mixed = layer(texts)
    assert (mixed - expected).abs().max() <= 1e-6
    if foreign == "hook":
        assert seen == [(2, 64)]


@pytest.mark.parametrize("order", [[1, 0], [0, 1], [1, 1, 0], [0]])
def test_rows_may_come_in_any_order_and_number(order: list[int]) -> None:
    """What Forge's cond_or_uncond says: [1, 0], [0, 1], sub-prompts of AND, split batches."""
    layer = OneLayer(layout_of([[0, 0, 0.5, 1]]), 8, 8)
    texts = [RegionText(ANNA, BEN)]
    both = layer(texts)
    reference = {False: both[0], True: both[1]}
    branches = [mark == 0 for mark in order]
    layer.x = torch.stack([layer.x[int(branch)] for branch in branches])
    layer.context = torch.stack([layer.context[int(branch)] for branch in branches])
    mixed = layer(texts, [BatchRow(0, branch) for branch in branches])
    assert all(torch.allclose(one, reference[branch], atol=1e-6) for one, branch in zip(mixed, branches, strict=True))


def test_what_another_extension_adds_in_its_own_forward_is_added_once() -> None:
    layer = OneLayer(layout_of([[0, 0, 0.6, 1], [0.3, 0.2, 1, 0.9]], feather=0.1), 8, 8)
    texts = [RegionText(ANNA), RegionText(BEN, ANNA)]
    without = layer(texts)
    picture = noise(4, TEXT, seed=99)

    def with_adapter(x: Tensor, context: Tensor | None = None, mask: Any = None) -> Tensor:
        image = picture.expand(len(x), -1, -1)
        extra = attend(layer.attn.to_q(x), layer.attn.to_k(image), layer.attn.to_v(image))
        return CrossAttention.forward(layer.attn, x, context) + 0.7 * extra

    layer.attn.forward = with_adapter
    image = picture.expand(2, -1, -1)
    extra = 0.7 * attend(layer.attn.to_q(layer.x), layer.attn.to_k(image), layer.attn.to_v(image))
    assert (layer(texts) - without - extra).abs().max() <= 1e-5


def test_a_replaced_attention_is_mixed_with_all_rows_and_its_extra_term_once() -> None:
    layout = layout_of([[0, 0, 0.6, 1], [0.3, 0.2, 1, 0.9]], feather=0.1)
    layer = OneLayer(layout, 8, 8)
    texts = [RegionText(text(1, 5)), RegionText(text(2, 9), text(3, 4))]  # lengths differ from each other and the base
    expected = layer(texts)
    block, seen = layer.runtime.sites.blocks[0], []
    extra = noise(2, 64, WIDTH, seed=50)

    def replaced(context: Tensor) -> Tensor:
        seen.append(context.shape[0])
        return layer.attn.forward(layer.x, context=context) + extra

    with layer.runtime.installed():
        layer.runtime.begin_step(0.0, [texts])
        with layer.runtime.calling(ROWS):
            layer.runtime._before_owner(layer.owner, (torch.empty(2, WIDTH, 8, 8),), {})
            mixed = layer.runtime.mix_replaced(block, layer.x, replaced(layer.context), replaced)
    assert set(seen) == {2}
    assert (mixed - expected - extra).abs().max() <= 1e-5


def test_isolation_at_zero_changes_nothing() -> None:
    run = Run(toy())
    halves, texts = [[0, 0, 0.5, 1], [0.5, 0, 1, 1]], [RegionText(ANNA), RegionText(BEN)]
    off = run.regional(layout_of(halves, isolation={"strength": 0}), texts, NEGATIVE, BASE)
    late = run.regional(
        layout_of(halves, isolation={"strength": 1, "start": 0.5, "end": 1, "min_cells": 1}), texts, NEGATIVE, BASE
    )
    on = run.regional(layout_of(halves, isolation={"strength": 1, "min_cells": 1}), texts, NEGATIVE, BASE)
    small = run.regional(layout_of(halves, isolation={"strength": 1, "min_cells": 9}), texts, NEGATIVE, BASE)
    assert torch.equal(off, late)
    assert torch.equal(off, small)
    assert (off - on).abs().max() > 1e-4


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_isolated_subjects_do_not_see_each_other(strength: float) -> None:
    """A left third, a right third that overlaps it in column 3, background below. Gradients inside attn1 only."""
    boxes = [[0, 0, 0.5, 0.75], [0.375, 0, 1, 0.75]]
    unet = toy()
    layout = layout_of(boxes, isolation={"strength": strength, "min_cells": 1})
    runtime = RegionalRuntime(layout, find_sites(unet))
    block = runtime.sites.blocks[-1]
    x = noise(1, 64, WIDTH, seed=9).requires_grad_(True)
    with runtime.installed():
        runtime.begin_step(0.0, [[RegionText(ANNA), RegionText(BEN)]])
        with runtime.calling([BatchRow(0, True)]):
            runtime._before_owner(block.owner, (torch.empty(1, WIDTH, 8, 8),), {})
            output = block.attn1(x)
    whose = torch.zeros(8, 8, dtype=torch.long)  # 0 background, 1 and 2 the subjects, 3 their overlap
    whose[:6, :3], whose[:6, 4:], whose[:6, 3] = 1, 2, 3
    whose = whose.flatten()

    def sees(viewer: int, seen: int) -> bool:
        (gradient,) = torch.autograd.grad(output[0, whose == viewer].sum(), x, retain_graph=True)
        return bool(gradient[0, whose == seen].abs().max() > 0)

    assert sees(1, 2) is sees(2, 1) is (strength < 1)
    assert all(sees(viewer, seen) for viewer in (1, 2) for seen in (viewer, 0, 3))
    assert all(sees(viewer, seen) for viewer in (0, 3) for seen in range(4))
    alone = block.attn1.forward(x)
    rest = (whose == 0) | (whose == 3)
    assert torch.equal(output[0, rest], alone[0, rest])
    masked = torch.zeros(64, 64).masked_fill(
        ((whose[:, None] == 1) & (whose == 2)) | ((whose[:, None] == 2) & (whose == 1)), -torch.inf
    )
    q, k, v = (layer(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for layer in _projections(block.attn1))
    dense = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=masked).transpose(1, 2).flatten(2)
    to_out: Any = block.attn1.to_out
    expected = strength * to_out(dense) + (1 - strength) * alone
    assert torch.allclose(output, expected, atol=1e-6)


def _projections(attention: Any) -> tuple[nn.Module, ...]:
    return attention.to_q, attention.to_k, attention.to_v
