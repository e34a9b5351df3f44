"""Training the UNet from scratch on latents that were encoded once; the text encoder is frozen, as CLIP is."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError

import numpy as np
import torch
from torch import Tensor, nn

from .groups import SIZES, group_tables
from .model import alphas_cumprod, build_text, build_unet, build_vae
from .optim import Muon
from .sampling import Pipeline, contact_sheet
from .tokens import insert_words, token_table
from .train_vae import schedule

PREVIEW_MINUTES = 12
SHARE = 0.1  # captions with a word that means nothing: the base draws the class until a LoRA says more
WIDE = 0.3  # batches of wide pictures with two or three subjects
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


def loss_weight(alphas: Tensor, gamma: float = 5.0, floor: float = 0.5) -> Tensor:
    """Weight of the noise-prediction loss, (steps,): min(SNR, gamma) + floor in units of the predicted picture's error.

    The first term is Min-SNR (Hang et al. 2023). Alone it all but ignores the noisiest steps, where the caption decides
    what the picture becomes; a model trained so draws what the noise suggests. The floor is what a loss on v has there.
    """
    snr = alphas / (1 - alphas)
    return (snr.clamp(max=gamma) + floor) / snr


def stratified_times(batch: int, generator: torch.Generator) -> Tensor:
    """One time step out of each of `batch` equal slices: less variance than independent draws."""
    slices = torch.randperm(batch, generator=generator) + torch.rand(batch, generator=generator)
    return (slices / batch * 1000).long().clamp(max=999)


@dataclass
class Shared:
    """What the worker processes have in common, all in shared memory: weights, their averages and all gradients."""

    unet: nn.Module
    text: nn.Module  # frozen
    averages: list[Tensor]
    gradients: list[list[Tensor]]  # per worker, per parameter
    barrier: Barrier

    def parameters(self) -> list[nn.Parameter]:
        """What is trained, in a fixed order."""
        return list(self.unet.parameters())


def owners(parameters: list[nn.Parameter], workers: int) -> list[int]:
    """Which worker updates which parameter: greedy balance of the work of orthogonalisation."""
    cost = [p.numel() * min(p.shape[0], p[0].numel()) if p.ndim > 1 else 1 for p in parameters]
    load, out = [0] * workers, [0] * len(parameters)
    for i in sorted(range(len(cost)), key=lambda k: -cost[k]):
        out[i] = load.index(min(load))
        load[out[i]] += cost[i]
    return out


class Feed:
    """Random training batches, of squares and of wide pictures: latents, noise, times, token ids and loss weights."""

    def __init__(self, work: Path, batch: int, seed: int, device: str) -> None:
        self.latents = torch.from_numpy(np.load(work / "latents.npy"))
        self.tokens, self.batch, self.device = token_table(work), batch, device
        self.groups = group_tables(work, len(self.latents))
        self.alphas = alphas_cumprod().float().to(device)
        self.weights = loss_weight(self.alphas)
        self.g = torch.Generator().manual_seed(seed)

    def loss(self, unet: nn.Module, text: nn.Module) -> Tensor:
        """Weighted noise-prediction loss of a fresh batch."""
        wide = torch.rand((), generator=self.g) < WIDE
        x0, ids = self._wide() if wide else self._square()
        ids = insert_words(ids.long(), self.g, SHARE).to(self.device)
        t = stratified_times(len(x0), self.g).to(self.device)
        x0 = x0.float().to(self.device)
        noise = torch.randn(x0.shape, generator=self.g).to(self.device)
        a = self.alphas[t].view(-1, 1, 1, 1)
        with torch.no_grad():
            context = text(ids).last_hidden_state
        out = unet(a.sqrt() * x0 + (1 - a).sqrt() * noise, t, context).sample
        return ((out - noise).square().mean((1, 2, 3)) * self.weights[t]).mean()

    def _square(self) -> tuple[Tensor, Tensor]:
        """Latents (batch, 4, s, s) and ids (batch, 77)."""
        rows = torch.randint(0, len(self.latents), (self.batch,), generator=self.g)
        return self.latents[rows], self.tokens[rows, torch.randint(0, 3, (self.batch,), generator=self.g)]

    def _wide(self) -> tuple[Tensor, Tensor]:
        """About as many squares as a square batch, as latents (n, 4, s, size * s) and ids (n, 77)."""
        size = SIZES[int(torch.randint(0, len(SIZES), (), generator=self.g))]
        rows, ids = self.groups[size]
        chosen = torch.randint(0, len(rows), (max(1, self.batch // size),), generator=self.g)
        parts = self.latents[rows[chosen].flatten()].unflatten(0, (-1, size))
        return torch.cat(parts.unbind(1), dim=-1), ids[chosen]


def averaged(shared: Shared) -> dict[str, dict[str, Tensor]]:
    """State dicts of the UNet with averaged weights and of the text encoder."""
    means = zip(shared.unet.named_parameters(), shared.averages, strict=True)
    return {
        "unet": {name: mean.cpu().clone() for (name, _), mean in means},
        "text": {k: v.detach().cpu().clone() for k, v in shared.text.state_dict().items()},
    }


def _save(work: Path, shared: Shared, spent: float, step: int) -> None:
    live = {"unet": shared.unet.state_dict(), "spent": spent, "step": step}
    for name, value in (("unet.pt", live), ("unet_ema.pt", averaged(shared))):
        torch.save(value, work / (name + ".tmp"))
        (work / (name + ".tmp")).replace(work / name)


def _preview(work: Path, shared: Shared, device: str, step: int) -> None:
    vae, unet, text = build_vae(), build_unet(), build_text()
    vae.load_state_dict(torch.load(work / "vae_folded.pt", weights_only=True)["model"])
    state = averaged(shared)
    unet.load_state_dict(state["unet"])
    text.load_state_dict(state["text"])
    pictures = Pipeline(unet, vae, text, device).sample(PREVIEW, seed=7, steps=16, cfg=5.0)
    contact_sheet(pictures, 8).save(work / f"samples_{step:05d}.png")


def _worker(rank: int, workers: int, shared: Shared, work: Path, minutes: float, device: str, batch: int,
            spent: float, step: int, threads: int) -> None:  # fmt: skip
    """Train on a share of every batch; update a share of the parameters from everybody's gradients."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    parameters = shared.parameters()
    for p, g in zip(parameters, shared.gradients[rank], strict=True):
        p.grad = g
    mine = [i for i, owner in enumerate(owners(parameters, workers)) if owner == rank]
    plain = [shared.unet.conv_in.weight, shared.unet.conv_out.weight]
    # Orthogonalised updates are as large for these as for any matrix, whatever their gradient: the logits of attention
    # grow until every head looks at one token (the first, as a rule) and the text is never heard again.
    plain += [p for name, p in shared.unet.named_parameters() if name.endswith(("to_q.weight", "to_k.weight"))]
    optimiser = Muon([parameters[i] for i in mine], lr=0.02, adam_lr=2e-3, adam_only=plain)
    feed = Feed(work, batch // workers, 1000 * step + rank, device)
    own_average, own = [shared.averages[i] for i in mine], [parameters[i].detach() for i in mine]
    started, saved_at, shown_at, smooth = time.time() - spent * 60, time.time(), spent, 0.0
    while (progress := (time.time() - started) / 60 / minutes) < 1 or rank:
        shared.barrier.wait()  # everybody sees the new weights; broken by the first worker when time is up
        loss = feed.loss(shared.unet, shared.text)
        loss.backward()
        shared.barrier.wait()
        for i in mine:
            for other in range(workers):
                if other != rank:
                    shared.gradients[rank][i].add_(shared.gradients[other][i])
        optimiser.set_scale(schedule(min(progress, 1.0), hold=0.45))
        optimiser.step()
        step += 1
        torch._foreach_lerp_(own_average, own, 1 - min(0.998, (1 + step) / (10 + step)))
        shared.barrier.wait()
        torch._foreach_zero_(shared.gradients[rank])
        smooth = loss.item() if smooth == 0 else 0.98 * smooth + 0.02 * loss.item()
        if rank == 0 and step % 50 == 0:
            print(f"unet {step} {progress * minutes:.1f} min loss {smooth:.4f}", flush=True)
        if rank == 0 and time.time() - saved_at > 180:
            saved_at = time.time()
            _save(work, shared, progress * minutes, step)
        if rank == 0 and progress * minutes - shown_at > PREVIEW_MINUTES:
            shown_at = progress * minutes
            _preview(work, shared, device, step)
    _save(work, shared, minutes, step)
    shared.barrier.abort()


def train_unet(work: Path, minutes: float, device: str, batch: int = 32, seed: int = 0) -> None:
    """Train for a number of minutes in all (goes on from `unet.pt`); writes `unet.pt` and `unet_ema.pt`.

    On a CPU there is one process with one thread for each core: the layers are too small to be worth splitting.
    """
    torch.manual_seed(seed)  # initial weights only
    unet, text = build_unet(), build_text().requires_grad_(False)
    text.load_state_dict(torch.load(work / "text.pt", weights_only=True)["text"])
    spent, step, averages = 0.0, 0, None
    if (work / "unet.pt").exists():
        saved = torch.load(work / "unet.pt", weights_only=True, map_location="cpu")
        unet.load_state_dict(saved["unet"])
        spent, step = saved["spent"], saved["step"]
        ema = torch.load(work / "unet_ema.pt", weights_only=True, map_location="cpu")
        averages = [ema["unet"][name].clone() for name, _ in unet.named_parameters()]
    if spent >= minutes:
        return
    unet, text = unet.to(device), text.to(device)
    workers = (os.cpu_count() or 1) if device == "cpu" else 1
    parameters = list(unet.parameters())
    averages = [a.to(device) for a in averages] if averages else [p.detach().clone() for p in parameters]
    gradients = [[torch.zeros_like(p) for p in parameters] for _ in range(workers)]
    context = torch.multiprocessing.get_context("spawn")
    shared = Shared(unet, text, averages, gradients, context.Barrier(workers))
    if device == "cpu":
        torch.multiprocessing.set_sharing_strategy("file_system")  # more tensors than open files are allowed
        unet.share_memory()
        text.share_memory()
        for tensor in (*averages, *(g for row in gradients for g in row)):
            tensor.share_memory_()
    token_table(work)  # once, before the workers
    group_tables(work, len(np.load(work / "latents.npy", mmap_mode="r")))
    arguments = (workers, shared, work, minutes, device, batch, spent, step)
    others = [context.Process(target=_follow, args=(rank, *arguments, 1)) for rank in range(1, workers)]
    for process in others:
        process.start()
    _worker(0, *arguments, 1 if workers > 1 else torch.get_num_threads())
    for process in others:
        process.join()


def _follow(*arguments: object) -> None:
    """A worker other than the first: runs until the first one says that time is up."""
    with contextlib.suppress(BrokenBarrierError):
        _worker(*arguments)  # type: ignore[arg-type]
