"""Metrics for real checkpoints: CLIP against transformers' own forward, insightface through a stand-in package."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from lib_loraclr.core.errors import InputError
from lib_loraclr.evaluation.options import EvaluateOptions, Subject
from lib_loraclr.hosts.standalone.metrics import FACE_THRESHOLD, ClipMetric, InsightFace, open_metrics
from lib_loraclr.merging.options import LoraChoice

TOKENIZER = Path(__file__).parents[2] / "lib_loraclr" / "hosts" / "standalone" / "clip_tokenizer"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with random weights, in transformers' layout."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    text = {"vocab_size": 49408, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    folder = tmp_path_factory.mktemp("clip")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    CLIPTokenizer.from_pretrained(str(TOKENIZER)).save_pretrained(folder)
    return folder


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (count, 48, 48, 3), dtype=np.uint8)


def test_clip_gives_the_cosines_of_the_model_itself(clip: Path) -> None:
    meter, pictures, prompts = ClipMetric(clip), noise(3), ["a cat", "a long walk at the beach", ""]
    rows = meter.processor(list(pictures), return_tensors="pt")
    ids = meter.tokenizer(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        whole = meter.model(**ids, pixel_values=rows["pixel_values"])
        cosines = (whole.logits_per_image / meter.model.logit_scale.exp()).diagonal()
    np.testing.assert_allclose(meter.score(pictures, prompts), cosines.numpy(), atol=1e-5)
    vectors = meter.vectors(pictures)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    np.testing.assert_allclose(vectors, whole.image_embeds.numpy(), atol=1e-5)


def options(tmp_path: Path, **changes: object) -> EvaluateOptions:
    given = {"subjects": (Subject("a", LoraChoice(tmp_path / "a.safetensors")),), "out": tmp_path / "out", **changes}
    return EvaluateOptions(**given)  # pyright: ignore[reportArgumentType]


def test_what_is_there_is_used(clip: Path, tmp_path: Path) -> None:
    nothing, calibration = open_metrics(options(tmp_path))
    assert calibration is None
    assert set(nothing.names().values()) == {None}
    metrics, _ = open_metrics(options(tmp_path, clip=clip))
    assert metrics.names() == {"identity": None, "image": "clip", "text": "clip", "style": "clip"}


def test_a_broken_clip_is_one_sentence(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((clip / "config.json").read_bytes())
    for folder, code in ((tmp_path / "nowhere", "file-not-found"), (tmp_path, "bad-embedder")):
        with pytest.raises(InputError) as caught:
            ClipMetric(folder)
        assert caught.value.code == code
        assert caught.value.file == str(folder)


class Face:
    def __init__(self, side: float, vector: list[float]) -> None:
        self.bbox, self.normed_embedding = (0.0, 0.0, side, side), np.array(vector)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """A stand-in for insightface that finds two faces in pictures that are red, none in others."""
    seen: list[np.ndarray] = []

    class FaceAnalysis:
        def __init__(self, **_: object) -> None: ...

        def prepare(self, **_: object) -> None: ...

        def get(self, picture: np.ndarray) -> list[Face]:
            seen.append(picture)
            return [Face(2, [0.0, 1.0]), Face(9, [1.0, 0.0])] if picture[0, 0, 2] > 200 else []

    app = types.ModuleType("insightface.app")
    app.FaceAnalysis = FaceAnalysis
    monkeypatch.setitem(sys.modules, "insightface", types.ModuleType("insightface"))
    monkeypatch.setitem(sys.modules, "insightface.app", app)
    return seen


def test_the_largest_face_counts_and_none_is_a_stranger(package: list[np.ndarray], tmp_path: Path) -> None:
    (tmp_path / "models" / "buffalo_l").mkdir(parents=True)
    pictures = np.zeros((2, 8, 8, 3), np.uint8)
    pictures[0, :, :, 0] = 255
    vectors = InsightFace(root=tmp_path).vectors(pictures)
    assert vectors.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert package[0][0, 0].tolist() == [0, 0, 255], "the package wants blue first"


def test_nothing_is_downloaded(package: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name, code in (("insightface", "file-not-found"), ("other", "bad-option")):
        with pytest.raises(InputError) as caught:
            open_metrics(options(tmp_path, face=name))
        assert caught.value.code == code
    (tmp_path / ".insightface" / "models" / "buffalo_l").mkdir(parents=True)
    metrics, _ = open_metrics(options(tmp_path, face="insightface"))
    assert metrics.names()["identity"] == "insightface"
    assert metrics.thresholds == {"insightface": FACE_THRESHOLD}
