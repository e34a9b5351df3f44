"""The numbers of an evaluation, by hand: thresholds, scores, drift, and a network against torch's own modules."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lib_loraclr.core.errors import InputError
from lib_loraclr.evaluation.metrics import Metrics, calibrate, calibrated, cosines
from lib_loraclr.evaluation.network import TrunkEmbedder, load_network, network_metrics
from lib_loraclr.evaluation.scores import References, drift, make_row, score


@dataclass(frozen=True)
class Colour:
    """The mean colour as a unit vector: red, green and blue pictures are strangers to each other."""

    name: str = "colour"

    def vectors(self, pictures):
        mean = pictures.reshape(len(pictures), -1, 3).mean(1)
        return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9)


@dataclass(frozen=True)
class Bright:
    """Says whether a picture is as bright as its prompt wants."""

    name: str = "bright"

    def score(self, pictures, prompts):
        wanted = np.array([1.0 if "day" in p else 0.0 if "night" in p else np.nan for p in prompts])
        seen = pictures.reshape(len(pictures), -1).mean(1) > 60
        return np.where(np.isnan(wanted), np.nan, (seen == (wanted == 1)).astype(float))


def flat(*colours):
    return np.stack([np.full((8, 8, 3), colour, np.uint8) for colour in colours])


RED, GREEN, BLUE, YELLOW = (200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)


def test_a_score_by_hand():
    metrics = Metrics(Colour(), Colour(), Bright(), thresholds={"colour": 0.8})
    own, rival = (References.of("character", flat(colour), metrics) for colour in (RED, GREEN))
    # red is the concept itself, yellow half-way (cosine 1/sqrt 2), green the rival
    found = score("a", flat(RED, YELLOW, GREEN, RED), ["day", "day", "night", "x"], own, metrics, [rival])
    assert found.identity == pytest.approx([1, 2**-0.5, 0, 1])
    assert found.identity_cosine == pytest.approx((2 + 2**-0.5) / 4)
    assert found.identity_rate == 0.5  # 1 and 1 are above 0.8
    assert found.nearest == 0.5  # yellow is as near to the rival, which does not count
    # brightness: red 200/3 = 67 is day, yellow too; green is 67 but night was wanted; the last prompt says nothing
    assert found.text == pytest.approx(2 / 3)
    assert found.image == pytest.approx(found.identity_cosine)


def test_styles_have_their_own_meter_and_rivals():
    metrics = Metrics(identity=None, style=Colour())
    style, person = References.of("style", flat(RED), metrics), References.of("character", flat(GREEN), metrics)
    assert person.identity is None
    found = score("s", flat(RED), ["x"], style, metrics, [person])
    assert found.identity == pytest.approx([1.0])
    assert found.nearest is None
    assert found.identity_rate is None, "no threshold was fixed"
    assert score("p", flat(GREEN), ["x"], person, metrics, [style]).identity_cosine is None


def test_a_row_has_exactly_the_named_fields():
    metrics = Metrics(Colour(), Colour(), thresholds={"colour": 0.5})
    scores = [
        score(name, flat(colour), ["x"], References.of("character", flat(RED), metrics), metrics).as_dict()
        for name, colour in (("a", RED), ("b", YELLOW))
    ]
    row = make_row("m", {"k": 1}, 2, 3, scores, 0.25)
    assert row == {
        "method": "m", "options": {"k": 1}, "n": 2, "draw": 3, "text": None, "image": 0.8536,
        "identity_cosine": 0.8536, "identity_rate": 1.0, "worst_identity_cosine": 0.7071, "drift": 0.25,
    }  # fmt: skip
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_drift_is_in_units_of_another_seed():
    # prompt 1: seeds 0 and 100, prompt 2: seeds 50 and 150; another seed is 100 away
    base = flat((0,) * 3, (50,) * 3, (100,) * 3, (150,) * 3)
    assert drift(base, base, 2) == 0
    moved = base.copy()
    moved[0] += 40  # one of four pictures moves by 40: mean 10
    assert drift(base, moved, 2) == pytest.approx(0.1)
    assert drift(base, np.roll(base, 2, axis=0), 2) == pytest.approx(1.0), "the other seed's pictures"


def unit(*angles):
    return np.array([[np.cos(a), np.sin(a)] for a in np.deg2rad(angles)])


def test_a_threshold_between_two_clean_groups():
    # references at 0 and 90 degrees; probes 10 degrees off: own cos 10 = .985, other cos 80 = .174
    found = calibrate([unit(0), unit(90)], [unit(10), unit(80)])
    assert found.equal_error == 0
    assert found.accuracy == 1
    assert found.threshold == pytest.approx((np.cos(np.deg2rad(10)) + np.cos(np.deg2rad(80))) / 2)
    assert (found.own, found.other) == pytest.approx((np.cos(np.deg2rad(10)), np.cos(np.deg2rad(80))))


def test_an_equal_error_where_groups_overlap():
    # person 1 has three good probes and one that looks like person 2, and the other way round
    found = calibrate([unit(0), unit(90)], [unit(5, 10, 15, 85), unit(85, 80, 75, 5)])
    assert found.equal_error == pytest.approx(0.25)
    assert found.accuracy == pytest.approx(0.75)
    assert np.cos(np.deg2rad(75)) < found.threshold < np.cos(np.deg2rad(15))
    with pytest.raises(ValueError, match="two identities"):
        calibrate([unit(0)], [unit(0)])


def test_cosines_are_means_over_references():
    assert cosines(unit(0), unit(0, 60)) == pytest.approx([(1 + 0.5) / 2])


class Oracle(nn.Module):
    """The same network as torch modules."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(4, 8), nn.SiLU(), nn.Conv2d(8, 16, 3, 1, 1), nn.GELU(), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.who, self.where = nn.Linear(64, 5), nn.Linear(64, 2)


LAYERS = [
    {"type": "conv2d", "stride": 2, "padding": 1}, {"type": "group_norm", "groups": 4}, {"type": "silu"},
    {"type": "conv2d", "stride": 1, "padding": 1}, {"type": "gelu"}, {"type": "relu"},
    {"type": "adaptive_avg_pool2d", "size": 2}, {"type": "flatten"},
]  # fmt: skip
DESCRIPTION = {
    "format": "loraclr-embedder", "version": 1, "size": [16, 16], "trunk": {"prefix": "trunk", "layers": LAYERS},
    "heads": {
        "identity": {"prefix": "who"},
        "place": {"prefix": "where", "labels": ["wood", "sea"],
                  "phrases": {"wood": "in a forest", "sea": "at the beach"}},
    },
}  # fmt: skip


def write_network(folder: Path, **changes) -> tuple[Path, Oracle]:
    generator = torch.Generator().manual_seed(3)
    oracle = Oracle().eval()
    state = {k: torch.randn(v.shape, generator=generator) * 0.5 for k, v in oracle.state_dict().items()}
    oracle.load_state_dict(state)
    path = folder / "net.safetensors"
    save_file(state, path)
    (folder / "net.network.json").write_text(json.dumps({**DESCRIPTION, **changes}))
    return path, oracle


def noise(count, side=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_a_network_from_its_files_is_the_torch_network(tmp_path):
    path, oracle = write_network(tmp_path)
    network = load_network(path)
    pictures = noise(5)
    with torch.no_grad():
        features = oracle.trunk(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1)
        expected, labels = oracle.who(features), oracle.where(features).argmax(1)
    metrics = network_metrics(network, TrunkEmbedder.around(network, pictures))
    torch.testing.assert_close(network.output("identity", pictures), expected)
    vectors = metrics.identity.vectors(pictures)
    np.testing.assert_allclose(vectors, (expected / expected.norm(dim=1, keepdim=True)).numpy(), rtol=1e-4, atol=1e-6)
    centred = features - features.mean(0)
    np.testing.assert_allclose(
        metrics.image.vectors(pictures), (centred / centred.norm(dim=1, keepdim=True)).numpy(), rtol=1e-3, atol=1e-5
    )
    prompts = ["a man in a forest"] * 5
    np.testing.assert_array_equal(metrics.text.score(pictures, prompts), (labels == 0).float().numpy())
    odd = ["a man", "a man in a forest at the beach", "at the Beach", "in a forest", "x"]
    assert np.isnan(metrics.text.score(pictures, odd)).tolist() == [True, True, False, False, True]
    # larger pictures are boxed down: a picture doubled in size is the same picture
    np.testing.assert_allclose(metrics.identity.vectors(pictures.repeat(2, 1).repeat(2, 2)), vectors)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other"},
        {"version": 2},
        {"size": [4, 16]},
        {"size": None},
        {"trunk": {"prefix": "trunk", "layers": [{"type": "exec"}]}},
        {"trunk": {"prefix": "nowhere", "layers": LAYERS}},
        {"trunk": {"prefix": "trunk", "layers": LAYERS[:-1]}},
        {"heads": {"identity": {"prefix": "nobody"}}},
        {"heads": {"place": {"prefix": "where", "labels": ["only one"]}}},
    ],
)
def test_a_description_that_does_not_fit(tmp_path, changes):
    path, _ = write_network(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        load_network(path)
    assert caught.value.code == "bad-embedder"
    assert caught.value.file.endswith("net.network.json")


def test_held_out_identities_fix_the_threshold(tmp_path):
    from lib_loraclr.evaluation.folder import write_picture

    for name, colour in (("a", RED), ("b", GREEN), ("c", BLUE)):
        for k in range(4):
            write_picture(tmp_path / name / f"{k}.png", flat(colour)[0])
    write_picture(tmp_path / "single" / "0.png", flat(RED)[0])
    metrics, found = calibrated(Metrics(Colour()), tmp_path)
    assert found.identities == 3, "a folder with one picture cannot be compared with itself"
    assert metrics.thresholds == {"colour": pytest.approx(0.5)}
    for wrong, folder in (
        (Metrics(), tmp_path),
        (Metrics(Colour()), tmp_path / "a"),
        (Metrics(Colour()), tmp_path / "x"),
    ):
        with pytest.raises(InputError):
            calibrated(wrong, folder)
