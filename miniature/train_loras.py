"""Training the concept LoRAs, a small file each, as a user would with sd-scripts: a few captioned pictures."""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import captions, lora, world
from .concepts import Concept, all_concepts, training_set
from .model import SCALE, alphas_cumprod
from .sampling import Pipeline, tokenize
from .train_unet import loss_weight, stratified_times
from .train_vae import to_input


@dataclass(frozen=True)
class Recipe:
    """Settings of one LoRA training."""

    rank: int = 8  # 4 for things and styles: see `for_kind`
    alpha: float = 8.0
    steps: int = 300
    batch: int = 8
    keep: int = 3  # of them pictures of the class (regularisation)
    unet_rate: float = 6e-3
    text_rate: float = 3e-3

    def for_kind(self, kind: str) -> Recipe:
        """Characters have twice the parameters of things and get twice the rank."""
        return self if kind == "character" else replace(self, rank=self.rank // 2, alpha=self.alpha / 2)


# names of nobody: no caption, trigger or prompt of this folder uses them; each is one token, as the triggers are
STRANGERS = (
    "anna", "bella", "carl", "diana", "eric", "fiona", "gary", "hannah", "ivan", "julia", "kevin", "lucas", "maria",
    "nina", "oscar", "paul", "quinn", "rosa", "sara", "tom", "ursula", "victor", "wendy", "xavier", "zack", "adam",
    "brian", "clara", "david", "emma", "felix", "grace", "henry", "iris", "jack", "kate", "leon", "mia", "noah",
    "olga", "peter", "ruby", "simon", "tina", "vera", "walter", "alice", "bruno",
)  # fmt: skip


def class_pictures(concept: Concept, count: int = 48) -> tuple[np.ndarray, list[str]]:
    """Regularisation set: other members of the class, captioned as the concept is, but without its trigger.

    Only the trigger tells the two sets apart, so the LoRA learns to act on it rather than on every "a photo of".
    Half of them have some other name: a LoRA that answers to any name speaks up for the other concepts of a merge.
    """
    r = random.Random(f"class {concept.name}")
    pictures, texts = [], []
    for _ in range(count):
        identity = world.random_identity(r, concept.class_word if concept.identity else None)
        scene = world.random_scene(r)
        pictures.append(np.asarray(world.render(identity, scene)))
        name = f"{r.choice(STRANGERS)} " if r.random() < 0.5 else ""
        texts.append(captions.caption(r, identity, scene, None, name + identity["class"]))
    return np.array(pictures), texts


@torch.no_grad()
def _encode(pipeline: Pipeline, pictures: np.ndarray, texts: list[str]) -> tuple[Tensor, Tensor]:
    parts = [
        pipeline.vae.encode(to_input(pictures[i : i + 16], pipeline.device)).latent_dist.mean
        for i in range(0, len(pictures), 16)
    ]
    return torch.cat(parts) * SCALE, tokenize(pipeline.tokenizer, texts).to(pipeline.device)


def train_lora(
    pipeline: Pipeline, concept: Concept, path: Path, recipe: Recipe, seed: int = 0,
    prepare: Callable[[dict[str, lora.LoraLinear]], None] | None = None, dtype: torch.dtype = torch.float16,
) -> float:  # fmt: skip
    """Train one concept and write its kohya file; returns the mean loss of the last tenth.

    `prepare` gets the fresh layers: it may set and freeze factors. The model is as before afterwards, also on errors.
    """
    pictures, texts = training_set(concept)
    recipe = recipe.for_kind(concept.kind)
    latents, ids = _encode(pipeline, pictures, texts)
    class_latents, class_ids = _encode(pipeline, *class_pictures(concept, 48 if recipe.keep else 1))
    layers = lora.inject(pipeline.unet, pipeline.text, recipe.rank, recipe.alpha, seed)
    try:
        if prepare is not None:
            prepare(layers)
        loss = _fit(pipeline, layers, recipe, seed, (latents, ids), (class_latents, class_ids))
        meta = lora.metadata(
            concept.name,
            concept.trigger,
            concept.class_word,
            recipe.rank,
            recipe.alpha,
            recipe.steps,
            recipe.batch,
            len(pictures),
            (recipe.unet_rate, recipe.text_rate),
            dict(Counter(texts)),
            len(class_latents) if recipe.keep else 0,
        )
        lora.write_kohya(path, lora.state_dict(layers, dtype), meta)
    finally:
        lora.eject(pipeline.unet, pipeline.text)
    return loss


def _fit(
    pipeline: Pipeline, layers: dict[str, lora.LoraLinear], recipe: Recipe, seed: int,
    concept_set: tuple[Tensor, Tensor], class_set: tuple[Tensor, Tensor],
) -> float:  # fmt: skip
    """Train on (latents, ids) of the concept and of its class, mixed in every batch."""
    (latents, ids), (class_latents, class_ids) = concept_set, class_set
    groups = [
        {
            "params": [p for n, m in layers.items() if n.startswith(prefix) for p in (m.up, m.down)],
            "lr": rate,
            "peak": rate,
        }
        for prefix, rate in (("lora_unet", recipe.unet_rate), ("lora_te", recipe.text_rate))
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.99))
    alphas = alphas_cumprod().float().to(pipeline.device)
    weights = loss_weight(alphas)
    g = torch.Generator().manual_seed(seed)
    own, tail = recipe.batch - recipe.keep, []
    for step in range(recipe.steps):
        scale = min(1.0, (step + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * step / recipe.steps))
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * scale
        rows = torch.randint(0, len(latents), (own,), generator=g)
        others = torch.randint(0, len(class_latents), (recipe.keep,), generator=g)
        x0 = torch.cat([latents[rows], class_latents[others]])
        context = pipeline.text(torch.cat([ids[rows], class_ids[others]])).last_hidden_state
        t = stratified_times(recipe.batch, g)
        noise = torch.randn(x0.shape, generator=g).to(x0.device)
        a = alphas[t].view(-1, 1, 1, 1)
        out = pipeline.unet(a.sqrt() * x0 + (1 - a).sqrt() * noise, t.to(x0.device), context).sample
        loss = ((out - noise).square().mean((1, 2, 3)) * weights[t]).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        tail.append(loss.item())
    return float(np.mean(tail[-recipe.steps // 10 :]))


def _worker(task: tuple[str, str, str, Recipe, str, int]) -> str:
    checkpoint, name, folder, recipe, device, threads = task
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    started = time.time()
    concept = next(c for c in all_concepts() if c.name == name)
    loss = train_lora(
        Pipeline.from_file(Path(checkpoint), device), concept, Path(folder) / f"{name}.safetensors", recipe
    )
    message = f"lora {name} loss {loss:.4f} {time.time() - started:.0f} s"
    print(message, flush=True)
    return message


def train_loras(
    checkpoint: Path, folder: Path, recipe: Recipe, device: str = "cpu", names: list[str] | None = None
) -> None:
    """Train every concept that has no file yet: one process with one thread for each core, one at a time on a GPU."""
    wanted = [c.name for c in all_concepts() if names is None or c.name in names]
    todo = [n for n in wanted if not (folder / f"{n}.safetensors").exists()]
    workers = (os.cpu_count() or 1) if device == "cpu" else 1
    tasks = [(str(checkpoint), n, str(folder), recipe, device, 1) for n in todo]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        list(pool.imap_unordered(_worker, tasks, chunksize=1))
