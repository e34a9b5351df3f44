"""The measuring stick: the described embedder is the miniature's own, and what is said about it is what it does."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from benchmarks import testbed as module
from benchmarks.testbed import Testbed, agreement, describe, load_embedder, spearman
from lib_loraclr.evaluation.network import TrunkEmbedder, load_network, network_metrics
from miniature import world as drawing
from miniature.measure import Embedder, IdentityMetric


def test_the_described_embedder_is_the_miniatures(toy_folder: Path, tmp_path: Path) -> None:
    """Same vectors and labels as miniature.measure.IdentityMetric, from code that never imports the miniature."""
    r = random.Random(1)
    pictures = np.stack([np.asarray(drawing.render(drawing.random_identity(r), drawing.random_scene(r))) for _ in "ab"])
    metric = IdentityMetric(toy_folder / "embedder.safetensors")
    (tmp_path / "embedder.safetensors").write_bytes((toy_folder / "embedder.safetensors").read_bytes())
    (tmp_path / "embedder.network.json").write_text(json.dumps(describe(Embedder())))
    network = load_network(tmp_path / "embedder.safetensors")
    metrics = network_metrics(network, TrunkEmbedder.around(network, pictures))
    np.testing.assert_allclose(metrics.identity.vectors(pictures), metric.identity(pictures), atol=1e-5)
    np.testing.assert_allclose(metrics.style.vectors(pictures), metric.style(pictures), atol=1e-5)
    phrases = [f"a man {drawing.backgrounds.PHRASES[name]}" for name in metric.background(pictures)]
    assert metrics.text.score(pictures, phrases).tolist() == [1.0, 1.0]
    assert metrics.text.score(pictures, phrases[::-1]).tolist() == [float(phrases[0] == phrases[1])] * 2
    direct = load_embedder(toy_folder / "embedder.safetensors")
    assert direct.heads.keys() == network.heads.keys()


def test_rank_correlation_by_hand() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [5, 3, 2, 1]) == pytest.approx(-1)
    # ranks 1 2 3 4 and 1.5 1.5 3.5 3.5: 4 / sqrt(5 * 4)
    assert spearman([1, 2, 3, 4], [7, 7, 9, 9]) == pytest.approx(4 / 20**0.5)
    assert np.isnan(spearman([1, 2], [3, 3]))


def test_an_embedder_of_the_parameters_agrees_with_the_drawing() -> None:
    """Vectors whose cosine is the share of equal parameters must correlate perfectly; random ones must not."""
    people = [drawing.random_identity(random.Random(k), "man") for k in range(12)]
    keys = sorted({key for person in people for key in person})
    values = sorted({(key, person.get(key)) for key in keys for person in people}, key=str)
    seen = np.array([[drawing.visible(p).get(k) == v and v is not None for k, v in values] for p in people], float)
    perfect = [row[None] / np.linalg.norm(row) for row in seen]
    good = agreement(people, perfect, perfect)
    assert good["pairs"] == 12 * 11
    noise = np.random.default_rng(0).normal(size=(12, 1, 40))
    bad = agreement(people, list(noise), list(noise))
    assert good["rank_correlation"] > 0.8 > 0.4 > abs(bad["rank_correlation"])


def test_the_calibration_is_reported_and_fixes_the_thresholds(toy: Testbed) -> None:
    calibration, thresholds = toy.embedder_calibration, toy.metrics.thresholds
    assert thresholds["identity"] == pytest.approx(calibration["identity"]["threshold"], abs=1e-4)
    assert thresholds["style"] == pytest.approx(calibration["style"]["threshold"], abs=1e-4)
    assert calibration["identity"]["identities"] == 4
    assert 0 <= calibration["identity_1_apart"]["own_is_nearer"] <= 1
    assert toy.names("character") == ["zor", "kib", "vex"]
    assert {s.name for s in toy.set.subjects} == set(toy.references)


def test_held_out_identities_are_no_concepts() -> None:
    """The threshold may not be fixed on what is measured."""
    from miniature.concepts import all_concepts

    people = [drawing.random_identity(random.Random(f"held out {k}")) for k in range(module.HELD_OUT)]
    assert not [c.name for c in all_concepts() if c.identity in people]
