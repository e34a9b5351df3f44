"""Training the identity embedder: supervised contrastive, hard negatives differ in one to three parameters."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from . import styles, world
from .backgrounds import NAMES as BACKGROUNDS
from .measure import Embedder
from .model import build_vae
from .optim import Muon
from .train_vae import schedule, to_input

SHOTS = 4  # pictures of one identity


def family(index: int) -> tuple[np.ndarray, np.ndarray]:
    """An identity and a near one (1 to 3 parameters apart): pictures (2, SHOTS, 96, 96, 3), backgrounds (2, SHOTS)."""
    r = random.Random(7_000_000_019 + index)
    base = world.random_identity(r)
    pair = (base, world.near_identity(base, r, r.choice((1, 2, 3))))
    scenes = [[world.random_scene(r) for _ in range(SHOTS)] for _ in pair]
    pictures = [[np.asarray(world.render(i, s)) for s in row] for i, row in zip(pair, scenes, strict=True)]
    return np.array(pictures), np.array([[BACKGROUNDS.index(str(s["background"])) for s in row] for row in scenes])


def style_set(index: int) -> np.ndarray:
    """One style on six random subjects, (6, 96, 96, 3)."""
    r = random.Random(9_000_000_011 + index)
    style = styles.random_style(r)
    return np.array(
        [np.asarray(world.render(world.random_identity(r), world.random_scene(r), style)) for _ in range(6)]
    )


def contrastive(vectors: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020) of unit vectors (n, d) with labels (n,)."""
    own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    logits = (vectors @ vectors.T / temperature).masked_fill(own, float("-inf"))
    same = (labels[:, None] == labels[None]) & ~own
    log_p = logits - logits.logsumexp(1, keepdim=True)
    return -(log_p.masked_fill(~same, 0).sum(1) / same.sum(1).clamp(min=1)).mean()


def augment(x: Tensor, g: torch.Generator) -> Tensor:
    """Blur some pictures and add a little noise, as a VAE does."""
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = (torch.rand((len(x), 1, 1, 1), generator=g) * 1.6 - 0.6).clamp(min=0)
    return torch.lerp(x, soft, amount) + 0.03 * torch.randn(x.shape, generator=g)


def reconstruct(vae: nn.Module, pictures: np.ndarray) -> np.ndarray:
    """Pictures (n, 96, 96, 3) after encoding and decoding."""
    out = []
    with torch.no_grad():
        for i in range(0, len(pictures), 32):
            y = vae.decode(vae.encode(to_input(pictures[i : i + 32])).latent_dist.mean).sample.clamp(-1, 1)
            out.append(((y + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(out)


def _batch(pictures: np.ndarray, places: np.ndarray, looks: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, ...]:
    chosen = rng.choice(len(pictures), 24, replace=False)
    shots = np.stack([rng.choice(SHOTS, 2, replace=False) for _ in range(48)]).reshape(24, 2, 2)
    x = np.concatenate([pictures[f, k, shots[i, k]] for i, f in enumerate(chosen) for k in (0, 1)])
    places_out = np.concatenate([places[f, k, shots[i, k]] for i, f in enumerate(chosen) for k in (0, 1)])
    kinds = rng.choice(len(looks), 10, replace=False)
    styled = np.concatenate([looks[k][rng.choice(6, 3, replace=False)] for k in kinds])
    style_labels = np.concatenate([np.zeros(16, int), np.repeat(np.arange(1, 11), 3)])
    return to_input(np.concatenate([x, styled])), torch.from_numpy(places_out), torch.from_numpy(style_labels)


def train_embedder(
    work: Path, out: Path, minutes: float, families: int = 3000, looks_count: int = 500, seed: int = 0
) -> None:
    """Draw, train and write embedder.safetensors (float16) and embedder.json (error rates)."""
    torch.manual_seed(seed)  # initial weights only
    vae = build_vae().eval().requires_grad_(False)
    vae.load_state_dict(torch.load(work / "vae_folded.pt", weights_only=True)["model"])
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        drawn = pool.map(family, range(families), chunksize=50)
        looks = np.array(pool.map(style_set, range(looks_count), chunksize=50))
        held_out = pool.map(family, range(10_000_000, 10_000_100), chunksize=20)
    pictures, places = (np.array(column) for column in zip(*drawn, strict=True))
    decoded = reconstruct(vae, pictures[:80].reshape(-1, 96, 96, 3)).reshape(80, 2, SHOTS, 96, 96, 3)
    pictures, places = (
        np.concatenate([pictures, decoded, decoded]),
        np.concatenate([places, places[:80], places[:80]]),
    )
    net = Embedder()
    optimiser = Muon(net.parameters(), lr=0.02, adam_lr=1e-3, adam_only=[net.trunk[0].weight])
    rng, g = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    started, step = time.time(), 0
    while (progress := (time.time() - started) / 60 / minutes) < 1:
        optimiser.set_scale(schedule(progress, hold=0.4))
        x, where, style_labels = _batch(pictures, places, looks, rng)
        identity, style, background = net(augment(x, g))
        loss = contrastive(identity[:96], torch.arange(48).repeat_interleave(2))
        loss = loss + 0.5 * contrastive(style[80:], style_labels) + 0.3 * F.cross_entropy(background[:96], where)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        if step % 50 == 0:
            print(f"embedder {step} {progress * minutes:.1f} min loss {loss.item():.4f}", flush=True)
    save_file({k: v.half().contiguous() for k, v in net.state_dict().items()}, out / "embedder.safetensors")
    test = np.array([f[0] for f in held_out])
    report = evaluate(net.eval(), test, np.array([f[1] for f in held_out]), vae)
    report["steps"] = step
    (out / "embedder.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report), flush=True)


def equal_error(same: np.ndarray, other: np.ndarray) -> float:
    """Rate at which false accepts equal false rejects."""
    cuts = np.sort(np.concatenate([same, other]))
    miss, accept = (
        np.searchsorted(np.sort(same), cuts) / len(same),
        1 - np.searchsorted(np.sort(other), cuts) / len(other),
    )
    k = int(np.abs(miss - accept).argmin())
    return float((miss[k] + accept[k]) / 2)


@torch.no_grad()
def evaluate(net: nn.Module, test: np.ndarray, places: np.ndarray, vae: nn.Module) -> dict[str, float]:
    """Error rates on held-out families (f, 2, SHOTS, 96, 96, 3), drawn and through the VAE."""
    report: dict[str, float] = {"families": len(test)}
    flat = test.reshape(-1, 96, 96, 3)
    drawn = None
    for name, pictures in (("drawn", flat), ("vae", reconstruct(vae, flat))):
        outputs = [net(to_input(pictures[i : i + 200])) for i in range(0, len(pictures), 200)]
        v = torch.cat([o[0] for o in outputs]).numpy().reshape(len(test), 2, SHOTS, -1)
        drawn = v if drawn is None else drawn  # references are drawn pictures
        pairs = [(i, j) for i in range(SHOTS) for j in range(SHOTS) if i != j]
        same = np.concatenate([(v[:, 0, i] * drawn[:, 0, j]).sum(1) for i, j in pairs])
        near = np.concatenate([(v[:, 0, i] * drawn[:, 1, j]).sum(1) for i, j in pairs])
        other = np.concatenate([(v[:, 0, i] * np.roll(drawn[:, 0, j], 1 + i, 0)).sum(1) for i, j in pairs])
        guess = torch.cat([o[2] for o in outputs]).argmax(1).numpy()
        report |= {
            f"{name}_same": float(same.mean()),
            f"{name}_near": float(near.mean()),
            f"{name}_other": float(other.mean()),
            f"{name}_other_std": float(other.std()),
            f"{name}_equal_error": equal_error(same, other),
            f"{name}_equal_error_near": equal_error(same, near),
            f"{name}_background_accuracy": float((guess == places.reshape(-1)).mean()),
        }
    return report
