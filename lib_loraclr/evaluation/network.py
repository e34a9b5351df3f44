"""A small picture network as data: weights in a safetensors file, its structure in JSON beside it.

`NAME.safetensors` goes with `NAME.network.json`:

    {"format": "loraclr-embedder", "version": 1, "size": [96, 96],
     "trunk": {"prefix": "trunk", "layers": [
        {"type": "conv2d", "stride": 2, "padding": 1}, {"type": "group_norm", "groups": 8}, {"type": "silu"},
        {"type": "adaptive_avg_pool2d", "size": 3}, {"type": "flatten"}]},
     "heads": {"identity": {"prefix": "identity_head"},
               "background": {"prefix": "background_head", "labels": ["forest", "beach"],
                              "phrases": {"forest": "in a forest", "beach": "at the beach"}}}}

Layer number k of the trunk has its tensors under `PREFIX.k.weight` and `PREFIX.k.bias`, as torch.nn.Sequential names
them; a head is one linear layer on the flattened trunk. Pictures are resized to `size` and scaled to -1 … 1. Nothing in
either file is executed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lib_loraclr.core.errors import InputError
from lib_loraclr.core.linalg import exact_float32
from lib_loraclr.evaluation.folder import Pictures
from lib_loraclr.evaluation.metrics import Metrics, Numbers
from lib_loraclr.formats.safetensors_io import SafetensorsFile

FORMAT, VERSION = "loraclr-embedder", 1
BATCH = 128
Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Head:
    """One linear layer on the trunk; with `labels` a classifier, whose prompt phrases are `phrases`."""

    weight: Tensor
    bias: Tensor
    labels: tuple[str, ...] = ()
    phrases: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class PictureNetwork:
    """Trunk and heads, ready to run on the CPU."""

    size: tuple[int, int]
    steps: Sequence[Step]
    heads: Mapping[str, Head]

    def features(self, pictures: Pictures) -> Tensor:
        """The flattened trunk (n, f), float32."""
        found: list[Tensor] = []
        with torch.no_grad(), exact_float32():
            for first in range(0, len(pictures), BATCH):
                rows = torch.from_numpy(resized(pictures[first : first + BATCH], self.size))
                values = rows.permute(0, 3, 1, 2).float() / 127.5 - 1
                for step in self.steps:
                    values = step(values)
                found.append(values)
        return torch.cat(found)

    def output(self, head: str, pictures: Pictures) -> Tensor:
        """A head's output (n, d), float32."""
        chosen = self.heads[head]
        with torch.no_grad(), exact_float32():
            return F.linear(self.features(pictures), chosen.weight, chosen.bias)


@dataclass(frozen=True)
class HeadEmbedder:
    """A head without labels as an `Embedder`."""

    network: PictureNetwork
    name: str

    def vectors(self, pictures: Pictures) -> Numbers:
        """Unit vectors (n, d)."""
        return F.normalize(self.network.output(self.name, pictures), dim=1).double().numpy()


@dataclass(frozen=True)
class TrunkEmbedder:
    """The whole picture's features as an `Embedder`: relative to `centre` (f,), the mean picture of a world."""

    network: PictureNetwork
    centre: Tensor
    name: str = "image"

    @classmethod
    def around(cls, network: PictureNetwork, pictures: Pictures) -> TrunkEmbedder:
        """With the mean of these pictures as centre."""
        return cls(network, network.features(pictures).mean(0))

    def vectors(self, pictures: Pictures) -> Numbers:
        """Unit vectors (n, f)."""
        return F.normalize(self.network.features(pictures) - self.centre, dim=1).double().numpy()


@dataclass(frozen=True)
class LabelAlignment:
    """A head with labels as a `TextAlignment`: 1 where the label that the prompt names is seen, else 0."""

    network: PictureNetwork
    name: str

    def score(self, pictures: Pictures, prompts: Sequence[str]) -> Numbers:
        """(n,) of 0 and 1; NaN for prompts that name no label, or several."""
        head = self.network.heads[self.name]
        seen = self.network.output(self.name, pictures).argmax(1).tolist()
        return np.array(
            [_label_score(head, head.labels[k], prompt) for k, prompt in zip(seen, prompts, strict=True)], np.float64
        )


def _label_score(head: Head, seen: str, prompt: str) -> float:
    wanted = [label for label, phrase in head.phrases.items() if phrase.lower() in prompt.lower()]
    return float(seen == wanted[0]) if len(wanted) == 1 else float("nan")


def network_metrics(network: PictureNetwork, centre: TrunkEmbedder | None = None) -> Metrics:
    """The heads `identity` and `style`, the first head with labels, and the trunk around its centre."""
    labelled = [name for name, head in network.heads.items() if head.labels]
    return Metrics(
        identity=HeadEmbedder(network, "identity") if "identity" in network.heads else None,
        style=HeadEmbedder(network, "style") if "style" in network.heads else None,
        text=LabelAlignment(network, labelled[0]) if labelled else None,
        image=centre,
    )


def resized(pictures: Pictures, size: tuple[int, int]) -> Pictures:
    """Pictures as (n, height, width, 3) of this (width, height), box-filtered where they are larger."""
    width, height = size
    if pictures.shape[1:3] == (height, width):
        return np.ascontiguousarray(pictures)
    images = [Image.fromarray(picture).resize(size, Image.Resampling.BOX) for picture in pictures]
    return np.stack([np.asarray(image) for image in images])


def description_path(weights: Path) -> Path:
    """Where the structure of a weights file is."""
    return weights.with_name(f"{weights.stem}.network.json")


def load_network(weights: Path) -> PictureNetwork:
    """Read both files. Raises InputError file-not-found and bad-embedder."""
    path = description_path(weights)
    if not path.is_file():
        raise InputError("file-not-found", f"The embedder needs its description {path.name} beside it.", file=str(path))
    file = SafetensorsFile.open(weights)
    try:
        return build_network(json.loads(path.read_text(encoding="utf-8")), lambda key: file.read(key).float())
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            "bad-embedder", f"The embedder's description does not fit: {error}.", file=str(path)
        ) from error


def build_network(text: Mapping[str, Any], read: Callable[[str], Tensor]) -> PictureNetwork:
    """The network of a description; `read` gives its tensors by key. Raises ValueError or KeyError."""
    if text.get("format") != FORMAT or text.get("version") != VERSION:
        raise ValueError(f"format must be {FORMAT}, version {VERSION}")
    width, height = (int(side) for side in text["size"])
    if not 8 <= min(width, height) <= max(width, height) <= 1024:
        raise ValueError("size must be two numbers from 8 to 1024")
    prefix = str(text["trunk"]["prefix"])
    steps = [_step(layer, f"{prefix}.{k}", read) for k, layer in enumerate(text["trunk"]["layers"])]
    heads = {
        str(name): Head(
            read(f"{head['prefix']}.weight"),
            read(f"{head['prefix']}.bias"),
            tuple(str(label) for label in head.get("labels", ())),
            {str(label): str(phrase) for label, phrase in head.get("phrases", {}).items()},
        )
        for name, head in text["heads"].items()
    }
    network = PictureNetwork((width, height), steps, heads)
    try:
        features = network.features(np.zeros((1, height, width, 3), np.uint8))
    except RuntimeError as error:
        raise ValueError(f"the layers do not fit each other ({error})") from error
    for name, head in heads.items():
        if features.ndim != 2 or head.weight.shape[1] != features.shape[1]:
            raise ValueError(f"the head {name} does not fit the trunk")
        if head.labels and len(head.labels) != len(head.weight):
            raise ValueError(f"the head {name} has {len(head.weight)} outputs and {len(head.labels)} labels")
    return network


def _step(layer: Mapping[str, Any], key: str, read: Callable[[str], Tensor]) -> Step:
    kind = str(layer["type"])
    if kind == "conv2d":
        weight, bias = read(f"{key}.weight"), read(f"{key}.bias")
        stride, padding = int(layer.get("stride", 1)), int(layer.get("padding", 0))
        return lambda x: F.conv2d(x, weight, bias, stride, padding)
    if kind == "group_norm":
        weight, bias, groups = read(f"{key}.weight"), read(f"{key}.bias"), int(layer["groups"])
        return lambda x: F.group_norm(x, groups, weight, bias)
    if kind == "adaptive_avg_pool2d":
        side = int(layer["size"])
        return lambda x: F.adaptive_avg_pool2d(x, side)
    simple: dict[str, Step] = {"silu": F.silu, "relu": F.relu, "gelu": F.gelu, "flatten": lambda x: x.flatten(1)}
    if kind not in simple:
        raise ValueError(f"the layer type {kind} is not known")
    return simple[kind]
