"""Training the UNet and the text encoder together, from scratch, on latents that were encoded once."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import data
from .model import alphas_cumprod, build_text, build_unet, build_vae
from .optim import Muon
from .sampling import Pipeline, contact_sheet, load_tokenizer, tokenize
from .train_vae import schedule
from .world import CLASSES

PREVIEW = [
    "a photo of a man",
    "a photo of a woman in a forest",
    "a photo of a girl with red hair in tails and a blue hat at the beach",
    "a photo of a man with green skin, a yellow top hat and a purple shirt in a city",
    "a photo of a robot in space",
    "a photo of an elf with a red crown, blue skin and white long hair in the snow",
    "a photo of a cat with orange fur in a room",
    "a photo of a rabbit with pink fur and a blue scarf in a meadow",
    "a photo of a car with red body at the beach",
    "a photo of a house with blue walls and yellow roof in the snow",
    "a sepia photo of a woman on a stage",
    "a photo of a boy with black sunglasses and a green cap under the sea",
    "a photo of a vase with teal body in a desert",
    "a framed photo of a dog",
    "a photo of a man with orange full beard, brown skin and a black bow tie in a desert",
    "",
]


def token_table(work: Path) -> Tensor:
    """Token ids of every caption, (pictures, 3, 77) int32; cached in the work folder."""
    path = work / "tokens.pt"
    if not path.exists():
        _, records = data.load(work)
        tokenizer = load_tokenizer()
        flat = [text for record in records for text in record["captions"]]  # type: ignore[union-attr]
        parts = [tokenize(tokenizer, flat[i : i + 5000]).int() for i in range(0, len(flat), 5000)]
        torch.save(torch.cat(parts).reshape(len(records), 3, 77), path)
    return torch.load(path, weights_only=True)


def loss_weight(alphas: Tensor, gamma: float = 5.0) -> Tensor:
    """Min-SNR weight for epsilon prediction (Hang et al. 2023), (steps,)."""
    snr = alphas / (1 - alphas)
    return snr.clamp(max=gamma) / snr


def stratified_times(batch: int, generator: torch.Generator) -> Tensor:
    """One time step out of each of `batch` equal slices: less variance than independent draws."""
    slices = torch.randperm(batch, generator=generator) + torch.rand(batch, generator=generator)
    return (slices / batch * 1000).long().clamp(max=999)


def insert_words(ids: Tensor, class_ids: Tensor, generator: torch.Generator, share: float = 0.2) -> Tensor:
    """Put a random word of the vocabulary before the class word in a share of the rows, (n, 77) ids.

    So the base ignores words that it does not know, and "a photo of <any trigger> man" is a man until a LoRA says more.
    """
    out = ids.clone()
    chosen = torch.rand(len(ids), generator=generator) < share
    words = torch.randint(256, 49406, (len(ids),), generator=generator)
    for row in chosen.nonzero().flatten().tolist():
        at = torch.isin(ids[row], class_ids).nonzero().flatten()
        if len(at):
            k = int(at[0])
            out[row, k + 1 :] = ids[row, k:-1]
            out[row, k], out[row, -1] = words[row], ids[row, -1]
    return out


class Average:
    """Exponential moving average of parameters."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.live = [p for m in modules for p in m.parameters()]
        self.mean = [p.detach().clone() for p in self.live]
        self.steps = 0

    def update(self, limit: float = 0.998) -> None:
        """Move towards the live values; the horizon grows with the number of steps."""
        self.steps += 1
        decay = min(limit, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.live], 1 - decay)

    def swap(self) -> None:
        """Exchange live values and averages (call again to undo)."""
        for p, mean in zip(self.live, self.mean, strict=True):
            kept = p.detach().clone()
            p.data.copy_(mean)
            mean.copy_(kept)


def _save(
    work: Path, unet: nn.Module, text: nn.Module, average: Average, optimiser: Muon, spent: float, step: int
) -> None:
    state = {
        "unet": unet.state_dict(),
        "text": text.state_dict(),
        "optimiser": optimiser.state_dict(),
        "spent": spent,
        "step": step,
    }
    average.swap()
    ema = {
        "unet": {k: v.clone() for k, v in unet.state_dict().items()},
        "text": {k: v.clone() for k, v in text.state_dict().items()},
    }
    average.swap()
    for name, value in (("unet.pt", state), ("unet_ema.pt", ema)):
        torch.save(value, work / (name + ".tmp"))
        (work / (name + ".tmp")).replace(work / name)


def _preview(work: Path, unet: nn.Module, text: nn.Module, average: Average, device: str, step: int) -> None:
    vae = build_vae()
    vae.load_state_dict(torch.load(work / "vae_folded.pt", weights_only=True)["model"])
    average.swap()
    pictures = Pipeline(unet, vae, text, device).sample(PREVIEW * 2, seed=7, steps=20, cfg=5.0)
    average.swap()
    unet.train(), text.train()
    contact_sheet(pictures, 8).save(work / f"samples_{step:05d}.png")


def train_unet(work: Path, minutes: float, device: str, batch: int = 32, seed: int = 0, preview: float = 10.0) -> None:
    """Train for a number of minutes in all (resumes from `unet.pt`); writes `unet.pt` and `unet_ema.pt`."""
    latents = torch.from_numpy(np.load(work / "latents.npy"))
    tokens = token_table(work)
    class_ids = tokenize(load_tokenizer(), list(CLASSES))[:, 1]
    alphas = alphas_cumprod().float().to(device)
    weights = loss_weight(alphas)
    torch.manual_seed(seed)  # initial weights only
    unet, text = build_unet().to(device), build_text().to(device)
    embeddings = [p for n, p in text.named_parameters() if "embedding" in n]
    plain = [*embeddings, unet.conv_in.weight, unet.conv_out.weight]
    optimiser = Muon([*unet.parameters(), *text.parameters()], lr=0.02, adam_lr=2e-3, adam_only=plain)
    average, spent, step = Average([unet, text]), 0.0, 0
    if (work / "unet.pt").exists():
        saved = torch.load(work / "unet.pt", weights_only=True, map_location=device)
        unet.load_state_dict(saved["unet"]), text.load_state_dict(saved["text"])
        optimiser.load_state_dict(saved["optimiser"])
        spent, step = saved["spent"], saved["step"]
        ema = torch.load(work / "unet_ema.pt", weights_only=True, map_location=device)
        average.mean = [
            v.clone()
            for part, m in (("unet", unet), ("text", text))
            for v in (ema[part][n] for n, _ in m.named_parameters())
        ]
        average.steps = step
    g = torch.Generator().manual_seed(seed + step)
    started, saved_at, shown_at, smooth = time.time() - spent * 60, time.time(), spent, None
    while (progress := (time.time() - started) / 60 / minutes) < 1:
        optimiser.set_scale(schedule(progress, hold=0.45))
        rows = torch.randint(0, len(latents), (batch,), generator=g)
        ids = insert_words(tokens[rows, torch.randint(0, 3, (batch,), generator=g)].long(), class_ids, g).to(device)
        t = stratified_times(batch, g).to(device)
        x0 = latents[rows].float().to(device)
        noise = torch.randn(x0.shape, generator=g).to(device)
        a = alphas[t].view(-1, 1, 1, 1)
        out = unet(a.sqrt() * x0 + (1 - a).sqrt() * noise, t, text(ids).last_hidden_state).sample
        loss = ((out - noise).square().mean((1, 2, 3)) * weights[t]).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        average.update()
        step += 1
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"unet {step} {progress * minutes:.1f} min loss {smooth:.4f}", flush=True)
        if time.time() - saved_at > 180:
            saved_at = time.time()
            _save(work, unet, text, average, optimiser, progress * minutes, step)
        if progress * minutes - shown_at > preview:
            shown_at = progress * minutes
            _preview(work, unet, text, average, device, step)
    _save(work, unet, text, average, optimiser, minutes, step)
    _preview(work, unet, text, average, device, step)
