"""Two strong LoRAs on the tiny checkpoint, what they teach, and a quick merge with the preset distilled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_loras import QUICK, Recorder, options_for
from torch import Tensor

from lib_loraclr.capture import CaptureSettings, Concept, inject
from lib_loraclr.core.deltas import Delta, add
from lib_loraclr.distill import DistillationDataset, DistillSettings, build_dataset
from lib_loraclr.distill.train import loss_weights
from lib_loraclr.formats.weighted import read_files, weighted_deltas
from lib_loraclr.hosts.standalone import StandaloneHost, load_checkpoint
from lib_loraclr.merging.options import MergeOptions

CAPTURE = CaptureSettings(steps=2)
SETTINGS = DistillSettings(total_steps=30, pictures=2, neutral=2, levels=4)


@pytest.fixture(scope="module")
def host(tiny_sd1: Path) -> StandaloneHost:
    return load_checkpoint(tiny_sd1)


@pytest.fixture(scope="module")
def concepts(host: StandaloneHost, loras: list[Path]) -> list[Concept]:
    """Two LoRAs, strong enough to be in each other's way."""
    found = []
    for path in loras[:2]:
        lora = read_files([path], host.layers())[0]
        deltas, _ = weighted_deltas(lora, 3.0, 3.0, host.base_weight, None)
        found.append(Concept(path.stem, f"{path.stem} man", "man", deltas))
    return found


@pytest.fixture
def progress() -> Recorder:
    return Recorder(phases=[("evaluation", 0)])


@pytest.fixture(scope="module")
def dataset(host: StandaloneHost, concepts: list[Concept]) -> DistillationDataset:
    with host.ready():
        return build_dataset(host, concepts, SETTINGS, CAPTURE, Recorder(phases=[("record", 0)]))


def stacked(concepts: list[Concept]) -> dict[str, Delta]:
    names = {name for concept in concepts for name in concept.deltas}
    return {name: add([c.deltas[name] for c in concepts if name in c.deltas]) for name in sorted(names)}


def error(host: StandaloneHost, deltas: Mapping[str, Delta], dataset: DistillationDataset) -> float:
    """Mean weighted error of all rows, computed the other way: with hooks that know no gradient."""
    weights = loss_weights(host.sqrt_alphas_cumprod())
    with host.ready(), inject(host.layers(), deltas):
        found = host.predict_x0(dataset.noisy, dataset.timesteps, dataset.prompts)
    squared = (found - dataset.targets).square().mean((1, 2, 3))
    return float((squared * weights[list(dataset.timesteps)]).mean())


def state(host: StandaloneHost) -> tuple[Any, ...]:
    modules = [m for root in (host.unet, *host.text.encoders) for m in root.modules()]
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
    flags = [p.requires_grad for m in (host.unet, *host.text.encoders) for p in m.parameters()]
    grads = [p.grad is None for m in (host.unet, *host.text.encoders) for p in m.parameters()]
    return hooks, flags, grads, torch.is_grad_enabled(), torch.get_rng_state().tolist()


def room_for(most: int, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on the memory holds `most` rows of a prediction; the rows that each one asks for."""
    honest, sizes = host.predict_x0, list[int]()

    def small(latents: Tensor, *rest: Any) -> Tensor:
        sizes.append(len(latents))
        if len(latents) > most:
            raise RuntimeError("CUDA out of memory")
        return honest(latents, *rest)

    monkeypatch.setattr(host, "predict_x0", small)
    return sizes


def quick_best(loras: list[Path], out: Path, checkpoint: Path, cache: Path, **changes: Any) -> MergeOptions:
    """A merge of two with the preset distilled, three steps of it."""
    given = {
        "preset": "distilled",
        "method": "contrastive",
        "option": {**QUICK, "distill_steps_per_lora": 3},
        **changes,
    }
    return options_for(loras[:2], out, checkpoint, cache, **given)
