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
from miniature.concepts import Concept, all_concepts, training_set
from miniature.model import SCALE, alphas_cumprod
from miniature.sampling import Pipeline, tokenize
from miniature.train_loras import Recipe
from miniature.train_unet import loss_weight, stratified_times
from miniature.train_vae import to_input

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
    """Train one concept's up matrices and write its kohya file; same data, loss, rank and steps as the other LoRAs."""
    recipe = recipe.for_kind(concept.kind)
    pictures, texts = training_set(concept)
    with torch.no_grad():
        parts = [to_input(pictures[k : k + 16], pipeline.device) for k in range(0, len(pictures), 16)]
        latents = torch.cat([pipeline.vae.encode(part).latent_dist.mean for part in parts]) * SCALE
        ids = tokenize(pipeline.tokenizer, texts).to(pipeline.device)
    layers = lora.inject(pipeline.unet, pipeline.text, recipe.rank, recipe.alpha, seed)
    try:
        for name, layer in layers.items():
            rank, size = layer.down.shape
            layer.down.data.copy_(frozen_down(name, concept.name, rank, size))
            layer.down.requires_grad_(False)
        _fit(pipeline, layers, latents, ids, recipe, seed)
        meta = lora.metadata(
            concept.name, concept.trigger, concept.class_word, recipe.rank, recipe.alpha, recipe.steps, recipe.batch,
            len(pictures), (recipe.unet_rate, recipe.text_rate), {},
        )  # fmt: skip
        lora.write_kohya(path, lora.state_dict(layers, torch.float32), meta)
    finally:
        lora.eject(pipeline.unet, pipeline.text)


def _fit(
    pipeline: Pipeline, layers: dict[str, lora.LoraLinear], latents: Tensor, ids: Tensor, recipe: Recipe, seed: int
) -> None:
    rates = (("lora_unet", recipe.unet_rate), ("lora_te", recipe.text_rate))
    groups = [
        {"params": [layer.up for name, layer in layers.items() if name.startswith(prefix)], "lr": rate}
        for prefix, rate in rates
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [rate for _, rate in rates], recipe.steps, pct_start=min(0.5, 20 / recipe.steps), div_factor=20,
        cycle_momentum=False,
    )  # fmt: skip
    alphas = alphas_cumprod().float().to(pipeline.device)
    weights, g = loss_weight(alphas), torch.Generator().manual_seed(seed)
    for _ in range(recipe.steps):
        rows = torch.randint(0, len(latents), (recipe.batch,), generator=g)
        context = pipeline.text(ids[rows]).last_hidden_state
        t = stratified_times(recipe.batch, g)
        clean = latents[rows]
        noise = torch.randn(clean.shape, generator=g).to(clean.device)
        a = alphas[t].view(-1, 1, 1, 1)
        predicted = pipeline.unet(a.sqrt() * clean + (1 - a).sqrt() * noise, t.to(clean.device), context).sample
        loss = ((predicted - noise).square().mean((1, 2, 3)) * weights[t]).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()


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
            train(self._pipeline, concept, path, self.recipe)
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
