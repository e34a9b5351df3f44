"""Fixtures of the capture tests: a tiny host, two LoRAs on layers of every kind, a counting progress."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lib_loraclr.capture import Concept
from lib_loraclr.core.deltas import Delta, LayerShape, LowRank
from lib_loraclr.core.errors import Cancelled
from lib_loraclr.hosts.standalone import StandaloneHost, load_checkpoint
from lib_loraclr.model import Phase

ENDINGS = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc2", "attn1.to_q", "attn1.to_k", "attn1.to_v",
    "attn2.to_q", "attn2.to_k", "attn2.to_v", "ff.net.2", "proj_in", "downsamplers.0.conv", "resnets.0.conv1",
)  # fmt: skip


class Counting:
    """Counts steps; raises Cancelled at step `stop`."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.steps, self.announced = stop, 0, 0
        self.messages: list[str] = []

    def phase(self, phase: Phase, steps: int, detail: str = "") -> None:
        self.announced += steps

    def step(self, text: str = "") -> None:
        self.steps += 1
        if self.steps == self.stop:
            raise Cancelled

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture(scope="session")
def host(tiny_sd1: Path) -> StandaloneHost:
    return load_checkpoint(tiny_sd1)


@pytest.fixture(scope="session")
def make_lora(host: StandaloneHost) -> Callable[[int], dict[str, Delta]]:
    """A rank-2 LoRA on about sixty layers, strong enough to change what later layers see."""

    def make(seed: int) -> dict[str, Delta]:
        generator = torch.Generator().manual_seed(seed)
        deltas: dict[str, Delta] = {}
        for name, module in host.layers().items():
            if name.endswith(ENDINGS):
                shape = LayerShape.of(module.weight.shape)
                up = 0.3 * torch.randn(shape.out_features, 2, generator=generator)
                down = torch.randn(2, shape.in_features, generator=generator) * shape.in_features**-0.5
                deltas[name] = LowRank(up, down)
        return deltas

    return make


@pytest.fixture(scope="session")
def concepts(make_lora: Callable[[int], dict[str, Delta]]) -> list[Concept]:
    return [
        Concept("anna", "ann4", "woman", make_lora(1)),
        Concept("rex", "r3x dog", "dog", make_lora(2)),
    ]


@pytest.fixture
def counting() -> type[Counting]:
    return Counting
