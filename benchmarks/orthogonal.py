"""Orthogonal Adaptation (Po et al. 2024): LoRAs whose down matrices are frozen rows of one orthogonal matrix.

Every layer has one random orthogonal basis of its inputs, the same for all concepts; a concept gets random rows of it
and trains its up matrix alone. Where two concepts share no row, their updates do not meet, so that a plain sum keeps
both. The paper draws rows at random, so that no concept needs to know of any other; in layers as narrow as the
miniature's (64 inputs, 8 rows a concept) some are shared.

    python benchmarks/orthogonal.py [--concepts otto zelda …] [--out DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from miniature import lora
from miniature.concepts import Concept, all_concepts
from miniature.sampling import Pipeline
from miniature.train_loras import Recipe, train_lora

ROOT = Path(__file__).resolve().parents[1]
ROW_NORM = 3**-0.5  # that of the usual random initialisation, so that the same learning rate suits both


def seed_of(*parts: object) -> int:
    """A number that depends on nothing but its parts."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, parts)).encode()).digest()[:6], "big")


def basis(layer: str, size: int) -> Tensor:
    """A random orthogonal matrix (size, size), one for each layer."""
    noise = torch.randn(size, size, generator=torch.Generator().manual_seed(seed_of("basis", layer)))
    q, r = torch.linalg.qr(noise.double())
    return (q * r.diagonal().sign()).float()


def frozen_down(layer: str, concept: str, rank: int, size: int) -> Tensor:
    """A concept's rows (rank, size) of the layer's basis."""
    chosen = torch.randperm(size, generator=torch.Generator().manual_seed(seed_of("rows", layer, concept)))[:rank]
    return basis(layer, size)[chosen] * ROW_NORM


def train(pipeline: Pipeline, concept: Concept, path: Path, recipe: Recipe, seed: int = 0) -> None:
    """Train one concept's up matrices and write its kohya file; everything else as the other LoRAs are trained."""

    def freeze(layers: dict[str, lora.LoraLinear]) -> None:
        for name, layer in layers.items():
            rank, size = layer.down.shape
            layer.down.data.copy_(frozen_down(name, concept.name, rank, size))
            layer.down.requires_grad_(False)

    with torch.enable_grad():  # a study merges and paints without
        train_lora(pipeline, concept, path, recipe, seed, freeze, torch.float32)


class Trainer:
    """Trains the concepts that are asked for, once; the files stay in `folder`."""

    def __init__(self, checkpoint: Path, folder: Path, recipe: Recipe | None = None, device: str = "cpu") -> None:
        self.checkpoint, self.folder, self.device = checkpoint, folder, device
        self.recipe = recipe or Recipe()
        self._pipeline: Pipeline | None = None

    def __call__(self, name: str) -> Path:
        """The concept's file."""
        path = self.folder / f"{name}.safetensors"
        if not path.is_file():
            if self._pipeline is None:
                self._pipeline = Pipeline.from_file(self.checkpoint, self.device)
            concept = next(c for c in all_concepts() if c.name == name)
            torch.set_flush_denormal(True)
            try:
                train(self._pipeline, concept, path, self.recipe)
            finally:
                torch.set_flush_denormal(False)  # as the units before and after
        return path


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "miniature" / "miniature.safetensors")
    parser.add_argument("--concepts", nargs="+", default=[c.name for c in all_concepts() if c.kind != "style"])
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "study" / "orthogonal")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    trainer = Trainer(given.checkpoint, given.out, device=given.device)
    for name in given.concepts:
        print(trainer(name))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
