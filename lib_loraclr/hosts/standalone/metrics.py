"""Metrics for real checkpoints: CLIP from a local folder, and a face embedder where the user has one installed.

Nothing is downloaded. Both are optional: without them an evaluation simply lacks these columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lib_loraclr.core.errors import InputError
from lib_loraclr.evaluation.folder import Pictures, read_pictures
from lib_loraclr.evaluation.metrics import Calibration, Metrics, Numbers, calibrated
from lib_loraclr.evaluation.network import TrunkEmbedder, load_network, network_metrics
from lib_loraclr.evaluation.options import EvaluateOptions

BATCH = 32
FACE_THRESHOLD = 0.32  # Orthogonal Adaptation and LoRACLR count an ArcFace cosine distance below 0.68 as detected


def open_metrics(options: EvaluateOptions) -> tuple[Metrics, Calibration | None]:
    """The metrics that the options name, and how well the identity embedder tells `held_out` apart."""
    metrics = Metrics()
    if options.embedder is not None:
        network = load_network(options.embedder)
        centre = _centre(network, options)
        metrics = network_metrics(network, centre)
    if options.clip is not None:
        clip = ClipMetric(options.clip)
        metrics = replace(metrics, image=clip, text=clip, style=metrics.style or clip)
    if options.face is not None:
        metrics = replace(metrics, identity=face_embedder(options.face), thresholds={options.face: FACE_THRESHOLD})
    if options.held_out is None:
        return metrics, None
    return calibrated(metrics, options.held_out)


def _centre(network: Any, options: EvaluateOptions) -> TrunkEmbedder | None:
    """The trunk around the mean of all references: what all pictures of this set share says nothing about a concept."""
    paths = [path for subject in options.subjects for path in subject.references]
    return TrunkEmbedder.around(network, read_pictures(paths)) if paths else None


class ClipMetric:
    """CLIP as an embedder of pictures and as a text judge: the cosine of picture and prompt (Radford et al. 2021)."""

    name = "clip"

    def __init__(self, folder: Path) -> None:
        """A folder in transformers' layout with safetensors weights. Raises InputError."""
        try:
            from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer
        except ImportError as error:
            message = "CLIP needs the package transformers: pip install -r requirements/standalone.txt."
            raise InputError("missing-dependency", message) from error
        if not (folder / "config.json").is_file():
            message = "This is not the folder of a CLIP model: it has no config.json."
            raise InputError("file-not-found", message, file=str(folder), key="clip")
        try:
            place: dict[str, Any] = {"local_files_only": True}
            self.model = CLIPModel.from_pretrained(str(folder), use_safetensors=True, **place).eval()
            self.processor = CLIPImageProcessor.from_pretrained(str(folder), **place)
            self.tokenizer = CLIPTokenizer.from_pretrained(str(folder), **place)
        except (OSError, ValueError) as error:
            sentence = str(error).splitlines()[0]
            raise InputError(
                "bad-embedder", f"CLIP cannot be loaded: {sentence}", file=str(folder), key="clip"
            ) from error

    def vectors(self, pictures: Pictures) -> Numbers:
        """Unit vectors of pictures (n, d)."""
        import torch

        found = []
        with torch.no_grad():
            for first in range(0, len(pictures), BATCH):
                rows = self.processor(list(pictures[first : first + BATCH]), return_tensors="pt")
                found.append(self.model.get_image_features(pixel_values=rows["pixel_values"]))
        return _unit(torch.cat(found).double().numpy())

    def score(self, pictures: Pictures, prompts: Sequence[str]) -> Numbers:
        """Cosine of every picture and its prompt (n,)."""
        import torch

        found = []
        with torch.no_grad():
            for first in range(0, len(prompts), BATCH):
                part = list(prompts[first : first + BATCH])
                ids = self.tokenizer(part, padding=True, truncation=True, max_length=77, return_tensors="pt")
                found.append(
                    self.model.get_text_features(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"])
                )
        texts = _unit(torch.cat(found).double().numpy())
        return (self.vectors(pictures) * texts).sum(1)


def face_embedder(name: str) -> InsightFace:
    """The face embedder of an installed package: `insightface`. Raises InputError where it is not there."""
    if name != "insightface":
        raise InputError("bad-option", f"'{name}' is not a known face embedder; known: insightface.", key="face")
    return InsightFace()


class InsightFace:
    """ArcFace of the package insightface, with the models that its user has put into ~/.insightface/models."""

    name = "insightface"

    def __init__(self, pack: str = "buffalo_l", root: Path | None = None) -> None:
        """Raises InputError where package or models are missing; the package would otherwise download them."""
        home = root or Path.home() / ".insightface"
        try:
            from insightface.app import FaceAnalysis
        except ImportError as error:
            raise InputError("missing-dependency", "The package insightface is not installed.", key="face") from error
        if not (home / "models" / pack).is_dir():
            message = f"The models {pack} of insightface are not there; put them in place first."
            raise InputError("file-not-found", message, file=str(home / "models" / pack), key="face")
        self.analysis: Any = FaceAnalysis(name=pack, root=str(home), allowed_modules=["detection", "recognition"])
        self.analysis.prepare(ctx_id=-1)

    def vectors(self, pictures: Pictures) -> Numbers:
        """Unit vectors of the largest face (n, d); zeros where there is no face."""
        found: list[Numbers | None] = []
        for picture in pictures:
            faces = self.analysis.get(np.ascontiguousarray(picture[:, :, ::-1]))  # the package wants blue first
            largest = max(faces, key=lambda face: _area(face.bbox), default=None)
            found.append(None if largest is None else np.asarray(largest.normed_embedding, np.float64))
        width = next((len(vector) for vector in found if vector is not None), 512)
        return np.stack([np.zeros(width) if vector is None else vector for vector in found])


def _area(box: Sequence[float]) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _unit(vectors: Numbers) -> Numbers:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
