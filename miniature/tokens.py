"""Token ids of the captions, and random words put between them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from . import data
from .sampling import load_tokenizer, tokenize

END = 49407
LENGTH = 77


def token_table(work: Path) -> Tensor:
    """Token ids of every caption, (pictures, 3, 77) int32; cached in the work folder."""
    path = work / "tokens.pt"
    if not path.exists():
        _, records = data.load(work)
        tokenizer = load_tokenizer()
        flat = [text for record in records for text in record["captions"]]  # type: ignore[union-attr]
        parts = [tokenize(tokenizer, flat[i : i + 5000]).int() for i in range(0, len(flat), 5000)]
        torch.save(torch.cat(parts).reshape(len(records), 3, LENGTH), path)
    return torch.load(path, weights_only=True)


def insert_words(ids: Tensor, generator: torch.Generator, share: float) -> Tensor:
    """Put a random word of the vocabulary at a random place of a share of the captions, (n, 77) ids.

    Triggers of later LoRAs are words that no caption uses: encoder and UNet must have met such words.
    """
    n = len(ids)
    words = (ids != END).sum(1)  # the start token is one of them
    place = 1 + (torch.rand(n, generator=generator) * words.clamp(max=LENGTH - 2)).long()
    place = torch.where(torch.rand(n, generator=generator) < share, place, LENGTH)[:, None]
    chosen = torch.randint(256, END - 1, (n, 1), generator=generator).to(ids)
    at = torch.arange(LENGTH)
    shifted = torch.where(at > place, ids.roll(1, 1), ids)
    return torch.where(at == place, chosen, shifted)
