"""Numbers of attention heads as hosts tell them: from the modules of each code base, None where those do not say."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from lib_loraclr.hosts.heads import head_counts
from lib_loraclr.hosts.standalone import load_checkpoint
from lib_loraclr.hosts.webui.a1111.open_clip import open_clip_layers
from lib_loraclr.merging.attention import partner_of


class Attention(nn.Module):
    """An attention that keeps its number of heads under `name`."""

    def __init__(self, name: str, count: object) -> None:
        super().__init__()
        self.to_q, self.to_out = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8))
        setattr(self, name, count)


@pytest.mark.parametrize("name", ["heads", "num_heads"])
def test_a_layer_has_the_heads_of_the_attention_around_it(name: str) -> None:
    two, four = Attention(name, 2), Attention(name, 4)
    counts = head_counts([nn.Sequential(two), nn.ModuleList([four, nn.Linear(8, 8)])])
    assert (counts[id(two.to_q)], counts[id(four.to_q)]) == (2, 4)
    assert id(two.to_out[0]) not in counts


@pytest.mark.parametrize("count", [None, -1, 0, True, "8", 2.0])
def test_what_is_no_number_of_heads_is_not_known(count: object) -> None:
    assert head_counts([Attention("heads", count)]) == {}


def test_open_clip_s_fused_parts_know_theirs() -> None:
    block = nn.Module()
    block.attn, block.mlp = nn.MultiheadAttention(16, 4), nn.Module()
    block.mlp.c_fc, block.mlp.c_proj = nn.Linear(16, 64), nn.Linear(64, 16)
    transformer = nn.Module()
    transformer.resblocks = nn.ModuleList([block])
    layers = open_clip_layers(0, transformer)
    counts = head_counts(layers.values())
    assert [counts[id(layers[name])] for name in layers if name.endswith(("q_proj", "k_proj"))] == [4, 4]


@pytest.mark.parametrize(("checkpoint", "unet"), [("tiny_sd1", {8}), ("tiny_sdxl", {2})])
def test_the_standalone_host_knows_every_query_and_key(
    request: pytest.FixtureRequest, checkpoint: str, unet: set[int]
) -> None:
    path: Path = request.getfixturevalue(checkpoint)
    host = load_checkpoint(path)
    layers = [name for name in host.layers() if partner_of(name)]
    found = {name: host.attention_heads(name) for name in layers}
    assert {heads for name, heads in found.items() if name.startswith("unet.")} == unet
    assert all(heads and heads > 0 for heads in found.values())
    assert any(name.startswith("text_encoder") for name in found)
    assert host.attention_heads("unet.conv_in") is None
    assert host.attention_heads("unet.nowhere") is None
