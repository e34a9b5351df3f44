"""Orthogonal adaptation: frozen rows of one basis, trained ups, files that the library reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.orthogonal import ROW_NORM, basis, frozen_down, train
from lib_loraclr.formats import read_lora
from miniature import lora
from miniature.concepts import all_concepts
from miniature.model import build_text, build_unet, build_vae
from miniature.sampling import Pipeline
from miniature.train_loras import Recipe


def test_rows_of_one_basis() -> None:
    whole = basis("layer", 24)
    torch.testing.assert_close(whole @ whole.T, torch.eye(24), atol=1e-5, rtol=0)
    assert torch.equal(basis("layer", 24), whole)
    assert not torch.allclose(basis("other", 24), whole)
    a, b = (frozen_down("layer", name, 8, 24) for name in ("anna", "ben"))
    torch.testing.assert_close(a @ a.T, torch.eye(8) * ROW_NORM**2, atol=1e-5, rtol=0)
    # rows are either the same or orthogonal: the overlap of two concepts is the number of shared rows
    shared = (a @ b.T / ROW_NORM**2).abs()
    torch.testing.assert_close(shared, shared.round(), atol=1e-4, rtol=0)
    assert not torch.equal(a, b)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pipeline]:
    """One concept, three steps, on an untrained model."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = Pipeline(build_unet(), build_vae(), build_text())
    for module in (pipeline.unet, pipeline.vae, pipeline.text):
        module.requires_grad_(False)
    path = tmp_path_factory.mktemp("orthogonal") / "otto.safetensors"
    with torch.no_grad():  # as inside a study
        train(pipeline, all_concepts()[0], path, replace(Recipe(), steps=3, batch=2, keep=1))
    return path, pipeline


def test_training_moves_the_ups_alone(trained: tuple[Path, Pipeline]) -> None:
    path, pipeline = trained
    read = read_lora(path)
    assert read.family == "sd1"
    assert read.triggers[0].startswith("otto")
    layers = lora.inject(pipeline.unet, pipeline.text, 8, 8.0, 0)
    try:
        lora.load_into(layers, path)
        moved = 0
        for name, layer in layers.items():
            rank, size = layer.down.shape
            torch.testing.assert_close(layer.down, frozen_down(name, "otto", rank, size))
            moved += float(layer.up.detach().abs().max()) > 0
        assert moved == len(layers)
    finally:
        lora.eject(pipeline.unet, pipeline.text)


def test_the_model_is_left_as_it_was(trained: tuple[Path, Pipeline]) -> None:
    assert not [
        m for root in (trained[1].unet, trained[1].text) for m in root.modules() if isinstance(m, lora.LoraLinear)
    ]
