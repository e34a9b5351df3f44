"""LoRAs of one region: nothing where the region is not, the merged weights where it is everything."""

from __future__ import annotations

import copy

import pytest
import torch
from regional_toys import Run, hooks, layout_of, noise, text, toy
from torch import Tensor, nn

from lib_loraclr.core.deltas import Delta, Dense, LowRank
from lib_loraclr.core.errors import InputError
from lib_loraclr.regional.conditions import RegionText
from lib_loraclr.regional.lora import RegionDeltas

NEGATIVE, BASE, ANNA, BEN = text(10), text(20), text(30), text(40)
HALVES = [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]


def layers(unet: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}


def lora(unet: nn.Module, *parts: str, seed: int = 1) -> dict[str, Delta]:
    """Rank 2 on every layer whose name has one of the parts, one of them dense."""
    deltas: dict[str, Delta] = {}
    for number, (name, module) in enumerate(layers(unet).items()):
        if any(part in name for part in parts):
            weight: Tensor = module.weight.flatten(1)
            deltas[name] = LowRank(
                noise(weight.shape[0], 2, seed=seed + number) * 0.2,
                noise(2, weight.shape[1], seed=seed + 500 + number) * 0.2,
            )
    first = next(iter(deltas))
    deltas[first] = Dense(deltas[first].dense())
    return deltas


def merged(unet: nn.Module, deltas: dict[str, Delta]) -> nn.Module:
    changed = copy.deepcopy(unet)
    for name, delta in deltas.items():
        module = changed.get_submodule(name)
        module.weight.data += delta.dense().reshape(module.weight.shape)
    return changed


@pytest.mark.parametrize("parts", [("attn", "ff"), ("in_layers", "out_layers", "proj_in"), ("emb_layers",), ("",)])
def test_a_region_that_is_everything_has_the_merged_weights(parts: tuple[str, ...]) -> None:
    unet = toy(label=False)
    deltas = {name: delta for name, delta in lora(unet, *parts).items() if not name.startswith("time_embed")}
    run = Run(unet)
    loras = RegionDeltas([deltas], layers(unet))
    # the negative is the region's own too: the base's keys and values carry no LoRA
    ours = run.regional(layout_of([[0, 0, 1, 1]]), [RegionText(ANNA, NEGATIVE)], NEGATIVE, BASE, loras=loras)
    run.unet = merged(unet, deltas)
    expected = run.plain(NEGATIVE, ANNA)
    assert torch.allclose(ours, expected, atol=1e-5 * float(expected.abs().max()))
    run.unet = unet
    assert not torch.allclose(run.plain(NEGATIVE, ANNA), expected, atol=1e-3)
    assert hooks(unet) == 0


def test_a_region_without_weight_has_no_lora() -> None:
    unet = toy(label=False)
    run = Run(unet)
    loras = RegionDeltas([lora(unet, "attn", "ff", "layers", "proj")], layers(unet))
    for fields in ({"strength": 0}, {"steps": [0.5, 1]}):
        layout = layout_of([[0, 0, 1, 1]], each=[fields])
        ours = run.regional(layout, [RegionText(ANNA, NEGATIVE)], NEGATIVE, BASE, loras=loras)
        assert torch.equal(ours, run.plain(NEGATIVE, BASE))


def test_keys_and_values_of_a_region_are_its_own_and_cells_elsewhere_are_untouched() -> None:
    """Only cross-attention of the last layer: the other half must not move by a bit."""
    unet = toy(label=False)
    run = Run(unet)
    texts = [RegionText(ANNA), RegionText(BEN)]
    kv = lora(unet, "output_blocks.0.attention.transformer_blocks.0.attn2.to_k",
              "output_blocks.0.attention.transformer_blocks.0.attn2.to_v")  # fmt: skip
    plain = run.regional(layout_of(HALVES), texts, NEGATIVE, BASE)
    ours = run.regional(layout_of(HALVES), texts, NEGATIVE, BASE, loras=RegionDeltas([kv], layers(unet)))
    assert torch.equal(ours[..., 4:], plain[..., 4:])
    assert torch.equal(ours[0], plain[0]), "the negative is the picture's own"
    assert (ours[1, ..., :4] - plain[1, ..., :4]).abs().max() > 1e-3


def test_isolation_and_loras_together_run_on_cropped_keys() -> None:
    unet = toy(label=False)
    run = Run(unet)
    layout = layout_of(HALVES, isolation={"strength": 1, "min_cells": 1})
    same = lora(unet, "attn1")
    loras = RegionDeltas([same, same], layers(unet))
    ours = run.regional(layout, [RegionText(ANNA), RegionText(BEN)], NEGATIVE, BASE, loras=loras)
    run.unet = merged(unet, same)
    expected = run.regional(layout, [RegionText(ANNA), RegionText(BEN)], NEGATIVE, BASE)
    assert torch.allclose(ours, expected, atol=1e-5 * float(expected.abs().max()))


def test_loras_that_do_not_fit_hook_nothing() -> None:
    unet = toy()
    run = Run(unet)
    for deltas, code in (
        ({"nowhere": Dense(torch.zeros(2, 2))}, "unknown-layer"),
        ({"time_embed": Dense(torch.zeros(2, 2))}, "shape-mismatch"),
    ):
        with pytest.raises(InputError) as caught:
            run.regional(
                layout_of(HALVES), [RegionText(ANNA), RegionText(BEN)], NEGATIVE, BASE,
                loras=RegionDeltas([deltas, {}], layers(unet)),
            )  # fmt: skip
        assert caught.value.code == code
        assert hooks(unet) == 0
