"""Training the text encoder alone, from text: it must tell words apart before a UNet can listen to them.

A narrow encoder trained only through a young UNet's loss ends with nearly the same features for every caption, and
then no trigger can select a concept. Real Stable Diffusion has CLIP, whose features differ by order 1; this stage gives
the miniature the same property, and the encoder is frozen afterwards, as CLIP is.

Contrastive tasks over the batch (InfoNCE): every position names its own token and those before it ("hair" knows that it
is "red"), and the end-of-text position and the padding after it (which the UNet attends to as well) name the tokens of
the whole caption. Random words are put into half of the captions, so that words no caption uses pass through too.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .model import TEXT, build_text
from .tokens import END, insert_words, token_table

TEMPERATURE = 0.07
BACK = (0, 1, 2, 3)  # positions name the tokens this far before them
SHARE = 0.5  # captions with a random word


def position_loss(features: Tensor, ids: Tensor, embedding: Tensor, head: nn.Module, back: int) -> Tensor:
    """InfoNCE of each word's feature (n, 77, d) against the embedding of the token `back` places before it.

    The rivals are all distinct tokens of the batch.
    """
    width = ids.shape[1]
    words = ((ids != END) & (torch.arange(width) > 0))[:, back:]
    before = ids[:, : width - back]
    distinct, targets = before[words].unique(return_inverse=True)
    named = F.normalize(head(features[:, back:][words]), dim=-1)
    return F.cross_entropy(named @ F.normalize(embedding[distinct], dim=-1).T / TEMPERATURE, targets)


def caption_loss(
    features: Tensor, ids: Tensor, embedding: Tensor, head: nn.Module, generator: torch.Generator
) -> Tensor:
    """InfoNCE of one end-of-text or padding position per caption against the mean token embedding of every caption."""
    words = ((ids != END) & (torch.arange(ids.shape[1]) > 0)).float()
    bags = F.normalize((embedding[ids] * words[..., None]).sum(1) / words.sum(1, keepdim=True).clamp(min=1), dim=-1)
    first = (ids == END).float().argmax(1)
    offset = (torch.rand(len(ids), generator=generator) * (ids.shape[1] - first)).long()
    named = F.normalize(head(features[torch.arange(len(ids)), first + offset]), dim=-1)
    return F.cross_entropy(named @ bags.T / TEMPERATURE, torch.arange(len(ids)))


def contrast(features: Tensor) -> float:
    """Mean relative difference |a - b| / |a| between features (n, 77, d) of different captions; order 1 for CLIP."""
    other = features.roll(1, 0)
    return float(((features - other).norm(dim=-1) / features.norm(dim=-1).clamp(min=1e-6))[:, 2:].mean())


def train_text(work: Path, minutes: float, batch: int = 64, seed: int = 0) -> None:
    """Train for some minutes and write `text.pt`, once; the schedule is one warm-up and a line to zero."""
    if (work / "text.pt").exists():
        return
    tokens = token_table(work)
    torch.manual_seed(seed)  # initial weights only
    text = build_text()
    used = torch.zeros(TEXT["vocab_size"], 1).index_fill_(0, tokens.unique().long(), 1.0)
    text.get_input_embeddings().weight.register_hook(lambda gradient: gradient * used)  # other words stay as drawn
    width = TEXT["hidden_size"]
    heads = nn.ModuleList(nn.Linear(width, width) for _ in (*BACK, "caption"))
    optimiser = torch.optim.AdamW([*text.parameters(), *heads.parameters()], lr=1e-3, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    start, step = time.time(), 0
    while (progress := (time.time() - start) / 60 / minutes) < 1:
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 100) * (1 - progress)
        rows = torch.randint(0, len(tokens), (batch,), generator=generator)
        ids = tokens[rows, torch.randint(0, tokens.shape[1], (batch,), generator=generator)].long()
        ids = insert_words(ids, generator, SHARE)
        features = text(ids).last_hidden_state
        embedding = text.get_input_embeddings().weight
        named = [position_loss(features, ids, embedding, heads[k], back) for k, back in enumerate(BACK)]
        bag = caption_loss(features, ids, embedding, heads[-1], generator)
        (torch.stack(named).sum() + bag).backward()
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        if step % 50 == 0:
            losses = f"words {' '.join(f'{x.item():.3f}' for x in named)} captions {bag.item():.3f}"
            print(f"text {step} {losses} contrast {contrast(features.detach()):.2f}", flush=True)
    torch.save({"text": text.state_dict(), "step": step}, work / "text.pt")
