"""OpenCLIP blocks taken apart: the same outputs, and q, k, v that hooks reach."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from lib_loraclr.capture.hooks import collect, inject
from lib_loraclr.core.deltas import LowRank
from lib_loraclr.hosts.conditioning import Conditioning, with_size
from lib_loraclr.hosts.webui.a1111.open_clip import FusedPart, open_clip_layers, separated


class Block(nn.Module):
    """A residual attention block as OpenCLIP builds it."""

    def __init__(self, width: int, heads: int, batch_first: bool) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ls_1, self.ls_2 = nn.Identity(), nn.Identity()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=batch_first)
        layers = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", nn.GELU()), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, q_x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        normed = self.ln_1(q_x)
        x = q_x + self.ls_1(self.attn(normed, normed, normed, need_weights=False, attn_mask=attn_mask)[0])
        return x + self.ls_2(self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    """Blocks that the WebUI calls one by one."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(16, 4, batch_first) for _ in range(2))

    def run(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x, attn_mask=mask)
        return x


@pytest.mark.parametrize("batch_first", [False, True])
def test_separated_blocks_compute_the_same_and_go_back(batch_first: bool) -> None:
    torch.manual_seed(0)
    transformer = Transformer(batch_first).eval()
    for parameter in transformer.parameters():
        nn.init.normal_(parameter, std=0.3)
    text = torch.randn(3, 7, 16)
    x = text if batch_first else text.transpose(0, 1)
    mask = torch.full((7, 7), float("-inf")).triu(1)
    layers = open_clip_layers(1, transformer)
    assert len(layers) == 12
    seen: dict[str, tuple[int, ...]] = {}
    name = "text_encoder_2.text_model.encoder.layers.1.self_attn.v_proj"
    with torch.no_grad():
        expected = transformer.run(x, mask)
        with separated(1, transformer, layers):
            watch = collect(layers, list(layers), lambda key, _, inputs: seen.update({key: tuple(inputs.shape)}))
            with watch:
                found = transformer.run(x, mask)
            assert (found - expected).abs().max() < 1e-4
            assert {seen[key] for key in layers if "fc2" not in key} == {(3, 7, 16)}  # (batch, tokens, width)
            delta = LowRank(torch.randn(16, 2), torch.randn(2, 16))
            with inject(layers, {name: delta}):
                changed = transformer.run(x, mask)
        transformer.resblocks[1].attn.in_proj_weight[32:] += delta.up @ delta.down
        assert (transformer.run(x, mask) - changed).abs().max() < 1e-3
    assert all("forward" not in block.__dict__ for block in transformer.resblocks)


def test_a_part_knows_its_weight_without_the_webui_s_lora() -> None:
    attention = nn.MultiheadAttention(16, 4)
    part = FusedPart(attention, 1)
    before = attention.in_proj_weight.detach().clone()
    assert part.network_weights_backup is None
    attention.network_weights_backup = (before, attention.out_proj.weight.detach().clone())
    with torch.no_grad():
        attention.in_proj_weight += 1
    assert torch.equal(part.network_weights_backup, before[16:32])
    assert torch.equal(part.weight, before[16:32] + 1)


def test_the_picture_s_size_replaces_the_one_in_the_vector() -> None:
    def embedder(key: str) -> object:
        class Sides:
            input_key = key

            def __call__(self, numbers: Tensor) -> Tensor:
                return numbers * 10

        return Sides()

    keys = ("txt", "original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
    model = SimpleNamespace(conditioner=SimpleNamespace(embedders=[embedder(key) for key in keys]))
    vector = torch.tensor([[1.0, 2.0, 10240.0, 10240.0, 5.0, 6.0, 10240.0, 10240.0]])
    given = Conditioning(torch.zeros(1, 77, 4), vector, torch.zeros(1, 77, dtype=torch.bool))
    found = with_size(model, given, (512, 768)).vector
    assert found.tolist() == [[1.0, 2.0, 7680.0, 5120.0, 5.0, 6.0, 7680.0, 5120.0]]
    plain = Conditioning(given.context, None, given.token_mask)
    assert with_size(model, plain, (512, 768)) is plain
