"""Training the VAE: L1 on three scales and on edges, with a very small KL term."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import data
from .model import SCALE, build_vae
from .optim import Muon

# Share of the time spent on 64 x 64 crops of the middle: less than half the work a step, and all of it where faces are.
CROPPED = 0.8


def schedule(progress: float, warm: float = 0.02, hold: float = 0.55) -> float:
    """Learning rate factor over progress in 0..1: warm-up, hold, linear decay to 2 %."""
    if progress < warm:
        return progress / warm + 0.02
    return 1.0 if progress < hold else max(0.02, 1 - (progress - hold) / (1 - hold))


def to_input(pictures: np.ndarray, device: str = "cpu") -> Tensor:
    """(n, 96, 96, 3) uint8 to (n, 3, 96, 96) float in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstruction_loss(x: Tensor, y: Tensor) -> Tensor:
    """L1 of the picture, of its half and quarter sizes, and of its horizontal and vertical differences."""
    d = y - x
    loss = d.abs().mean() + 0.5 * F.avg_pool2d(d, 2).abs().mean() + 0.5 * F.avg_pool2d(d, 4).abs().mean()
    loss = loss + 0.5 * (d[..., 1:] - d[..., :-1]).abs().mean() + 0.5 * (d[..., 1:, :] - d[..., :-1, :]).abs().mean()
    return loss + d.square().mean()


def psnr(vae: torch.nn.Module, pictures: np.ndarray, device: str = "cpu") -> float:
    """Mean peak signal-to-noise ratio over pictures (n, 96, 96, 3) after encoding (mean) and decoding, dB."""
    x = to_input(pictures, device)
    with torch.no_grad():
        y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    mse = ((y - x) / 2).square().mean((1, 2, 3))
    return float((-10 * torch.log10(mse)).mean())


def _fit(
    vae: torch.nn.Module,
    pictures: np.ndarray,
    path: Path,
    spent: float,
    minutes: float,
    device: str,
    frozen: bool,
    batch: int = 8,
    seed: int = 0,
) -> None:
    """Train until `minutes`; with `frozen` only the decoder."""
    edges = [vae.decoder.conv_out.weight, vae.encoder.conv_in.weight]
    rate = 0.3 if frozen else 1.0
    optimiser = Muon(vae.parameters(), lr=0.02 * rate, adam_lr=2e-3 * rate, adam_only=edges)
    rng = np.random.default_rng(seed + int(60 * spent))
    noise = torch.Generator(device).manual_seed(seed + int(60 * spent))
    held_out = pictures[-64:]
    started, last_save, step, average = time.time() - spent * 60, time.time(), 0, 0.0
    while (progress := (time.time() - started) / 60 / minutes) < 1:
        optimiser.set_scale(schedule(progress))
        rows = pictures[np.sort(rng.integers(0, len(pictures) - 64, batch))]
        if progress < CROPPED:
            left, top = rng.integers(6, 27), rng.integers(0, 33)
            rows = rows[:, top : top + 64, left : left + 64]
        x = to_input(rows, device)
        posterior = vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=noise, device=device)
        loss = reconstruction_loss(x, vae.decode(z).sample)
        if not frozen:
            loss = loss + 8e-5 * posterior.kl().mean() / math.prod(posterior.mean.shape[1:])
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        average = 0.98 * average + 0.02 * loss.item() if step > 1 else loss.item()
        if step % 20 == 0:
            print(f"vae {step} {progress * minutes:.1f} min loss {average:.4f}", flush=True)
        if time.time() - last_save > 90:
            last_save = time.time()
            torch.save({"model": vae.state_dict(), "spent": progress * minutes}, path)
    torch.save({"model": vae.state_dict(), "spent": minutes}, path)
    print(f"psnr {psnr(vae, held_out, device):.2f} dB after {step} steps", flush=True)


def train_vae(work: Path, minutes: float, device: str, seed: int = 0) -> None:
    """Train for a number of minutes in all (goes on from `vae.pt`) and write `vae.pt`."""
    pictures, _ = data.load(work)
    torch.manual_seed(seed)  # initial weights only
    vae, spent = build_vae().to(device), 0.0
    if (work / "vae.pt").exists():
        saved = torch.load(work / "vae.pt", weights_only=True, map_location=device)
        vae.load_state_dict(saved["model"])
        spent = saved["spent"]
    _fit(vae, pictures, work / "vae.pt", spent, minutes, device, False, seed=seed)


def train_decoder(work: Path, minutes: float, device: str) -> None:
    """Go on with the decoder alone: the latents, and so the UNet, stay as they are."""
    pictures, _ = data.load(work)
    vae = build_vae().to(device)
    vae.load_state_dict(torch.load(work / "vae_folded.pt", weights_only=True, map_location=device)["model"])
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    _fit(vae, pictures, work / "vae_folded.pt", 0.0, minutes, device, True, seed=1)


def fold_scale(vae: torch.nn.Module, latents: Tensor) -> float:
    """Fold one factor into quant_conv and post_quant_conv so that latents x 0.18215 have unit deviation."""
    factor = float(1 / (latents.std() * SCALE))
    with torch.no_grad():
        vae.quant_conv.weight[:4] *= factor
        vae.quant_conv.bias[:4] *= factor
        vae.quant_conv.bias[4:] += 2 * math.log(factor)
        vae.post_quant_conv.weight /= factor
    return factor


def encode_stage(work: Path, device: str, count: int = 24000, batch: int = 16) -> None:
    """Fold the scale, encode pictures once and write `latents.npy` (count, 4, 12, 12) float16, already scaled."""
    pictures = data.load(work)[0][:count]
    vae = build_vae().to(device)
    vae.load_state_dict(torch.load(work / "vae.pt", weights_only=True, map_location=device)["model"])
    vae.eval().requires_grad_(False)

    def encode(part: np.ndarray) -> Tensor:
        return vae.encode(to_input(part, device)).latent_dist.mean

    factor = fold_scale(vae, encode(pictures[:256]))
    torch.save({"model": vae.state_dict()}, work / "vae_folded.pt")
    print(f"folded factor {factor:.4f}", flush=True)
    out = np.lib.format.open_memmap(work / "latents.npy", mode="w+", dtype=np.float16, shape=(len(pictures), 4, 12, 12))
    for i in range(0, len(pictures), batch):
        out[i : i + batch] = (encode(pictures[i : i + batch]) * SCALE).cpu().numpy()
        if i % (100 * batch) == 0:
            print(f"latents {i}", flush=True)
    out.flush()
    (work / "latents.done").touch()
