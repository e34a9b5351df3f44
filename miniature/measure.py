"""Measuring pictures of the miniature's world: who is it, which style, which background. NumPy or PIL in, floats out.

>>> metric = IdentityMetric()                                     # miniature/embedder.safetensors
>>> references = metric.identity(pictures_of_concept)    # (m, d)
>>> metric.cosine(metric.identity(generated), references) # mean cosine of every generated picture, (n,)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from .backgrounds import NAMES as BACKGROUNDS

HERE = Path(__file__).resolve().parent
Pictures = np.ndarray | Sequence[Image.Image]


class Embedder(nn.Module):
    """A small convolutional network on 96 x 96 pictures with three heads."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96, 128), identity: int = 96, style: int = 24) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        last = 3
        for width in widths:
            layers += [nn.Conv2d(last, width, 3, 2, 1), nn.GroupNorm(8, width), nn.SiLU()]
            last = width
        layers += [
            nn.Conv2d(last, last, 3, 1, 1),
            nn.GroupNorm(8, last),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
        ]
        self.trunk = nn.Sequential(*layers)
        self.identity_head = nn.Linear(9 * last, identity)
        self.style_head = nn.Linear(9 * last, style)
        self.background_head = nn.Linear(9 * last, len(BACKGROUNDS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, 3, 96, 96) in -1..1 to unit identity (n, 96), unit style (n, 24) and background logits (n, 10)."""
        h = self.trunk(x)
        return (
            F.normalize(self.identity_head(h), dim=1),
            F.normalize(self.style_head(h), dim=1),
            self.background_head(h),
        )


def to_array(pictures: Pictures) -> np.ndarray:
    """Pictures of any size as (n, 96, 96, 3) uint8."""
    if isinstance(pictures, np.ndarray) and pictures.shape[1:] == (96, 96, 3):
        return pictures
    images = [p if isinstance(p, Image.Image) else Image.fromarray(p) for p in pictures]
    return np.stack([np.asarray(i.convert("RGB").resize((96, 96), Image.Resampling.BOX)) for i in images])


class IdentityMetric:
    """The trained embedder. Everything it returns is a NumPy array on the CPU."""

    def __init__(self, path: Path = HERE / "embedder.safetensors", device: str = "cpu") -> None:
        self.device = device
        self.net = Embedder().to(device).eval().requires_grad_(False)
        self.net.load_state_dict({k: v.float() for k, v in load_file(path).items()})

    def _run(self, pictures: Pictures) -> tuple[np.ndarray, ...]:
        x = torch.from_numpy(to_array(pictures).copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
        parts = [self.net(p.to(self.device)) for p in x.split(256)]
        return tuple(torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))

    def identity(self, pictures: Pictures) -> np.ndarray:
        """Unit identity vectors (n, 96)."""
        return self._run(pictures)[0]

    def style(self, pictures: Pictures) -> np.ndarray:
        """Unit style vectors (n, 24)."""
        return self._run(pictures)[1]

    def background(self, pictures: Pictures) -> list[str]:
        """The most likely background of every picture."""
        return [BACKGROUNDS[k] for k in self._run(pictures)[2].argmax(1)]

    @staticmethod
    def cosine(vectors: np.ndarray, references: np.ndarray) -> np.ndarray:
        """Mean cosine of each vector (n, d) to the references (m, d) of one concept, (n,)."""
        return (vectors @ references.T).mean(1)

    @staticmethod
    def nearest(vectors: np.ndarray, references: Sequence[np.ndarray]) -> np.ndarray:
        """Index of the concept whose references are nearest to each vector (n, d), (n,)."""
        return np.stack([IdentityMetric.cosine(vectors, r) for r in references], 1).argmax(1)
