"""Two or three pictures side by side as one wide picture: latents, and one caption for all of it.

A UNet that has only seen squares with one subject in the middle takes the edge of a picture for a place to stand; in
a wide picture its subjects fall apart, whatever steers them.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from . import data
from .backgrounds import PHRASES
from .sampling import load_tokenizer, tokenize

SIZES = (2, 3)
COUNT = 8000  # groups of each size
HEADS = ("a photo of ", "a picture of ")


def joined(captions: Sequence[str], phrase: str) -> str:
    """One caption of neighbours in the same place, which is named once and last; empty where one of them is empty."""
    if not all(captions):
        return ""
    named = any(caption.endswith(phrase) for caption in captions)
    parts = [caption.removesuffix(phrase).rstrip() for caption in captions]
    for head in HEADS:
        parts[1:] = [part.removeprefix(head) for part in parts[1:]]
    return " and ".join(parts) + (f" {phrase}" if named else "")


def group_tables(work: Path, available: int) -> dict[int, tuple[Tensor, Tensor]]:
    """Size -> numbers of pictures (groups, size) and token ids (groups, 77); cached in the work folder.

    `available` is how many pictures have latents. The pictures of a group share their background.
    """
    path = work / "groups.pt"
    if not path.exists():
        _, records = data.load(work)
        places: dict[str, list[int]] = defaultdict(list)
        for number, record in enumerate(records[:available]):
            places[str(record["background"])].append(number)
        r, tokenizer = random.Random(11), load_tokenizer()
        tables: dict[int, tuple[Tensor, Tensor]] = {}
        for size in SIZES:
            rows, texts = list[list[int]](), list[str]()
            for _ in range(COUNT):
                place = r.choice(sorted(places))
                rows.append(r.sample(places[place], size))
                texts.append(joined([r.choice(records[k]["captions"]) for k in rows[-1]], PHRASES[place]))  # type: ignore[arg-type]
            tables[size] = torch.tensor(rows), tokenize(tokenizer, texts).int()
        torch.save(tables, path)
    return torch.load(path, weights_only=True)
