"""Wide pictures of several subjects: their captions, and that a batch holds the latents that the caption names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from miniature.backgrounds import PHRASES
from miniature.groups import SIZES, group_tables, joined
from miniature.sampling import load_tokenizer
from miniature.train_unet import Feed

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven")


def test_a_place_is_named_once_and_last():
    captions = ["a photo of a man in a city", "a picture of a dog with brown fur in a city", "a vase"]
    assert joined(captions, "in a city") == "a photo of a man and a dog with brown fur and a vase in a city"
    assert joined(["a man", "a photo of a cat"], "in a city") == "a man and a cat"
    assert joined(["a man in a city", ""], "in a city") == ""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Eight pictures in two places; the latents of picture k are all k, and its caption says so."""
    with (tmp_path / "pictures.jsonl").open("w", encoding="utf-8") as file:
        for number, word in enumerate(WORDS):
            place = "city" if number % 2 else "forest"
            record = {"captions": [f"a photo of a {word} {PHRASES[place]}"] * 3, "background": place, "class": word}
            file.write(json.dumps(record) + "\n")
    np.save(tmp_path / "pictures.npy", np.zeros((8, 1), np.uint8))
    np.save(tmp_path / "latents.npy", np.arange(8, dtype=np.float16)[:, None, None, None] * np.ones((1, 4, 12, 12)))
    return tmp_path


def test_latents_and_caption_name_the_same_pictures(work: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("miniature.groups.COUNT", 20)
    feed, tokenizer = Feed(work, 6, 0, "cpu"), load_tokenizer()
    seen: set[int] = set()
    for _ in range(12):
        x0, ids = feed._wide()
        size = x0.shape[-1] // 12
        assert x0.shape == (6 // size, 4, 12, 12 * size)
        assert ids.shape == (6 // size, 77)
        for latents, row in zip(x0, ids, strict=True):
            named = [WORDS.index(w) for w in tokenizer.decode(row.tolist()).split() if w in WORDS]
            assert [int(part.mean()) for part in latents.split(12, dim=-1)] == named
            assert len({number % 2 for number in named}) == 1, "neighbours stand in one place"
        seen.add(size)
    assert seen == set(SIZES)


def test_tables_are_made_once(work: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("miniature.groups.COUNT", 5)
    first = group_tables(work, 6)
    assert all(int(rows.max()) < 6 for rows, _ in first.values())
    assert all(torch.equal(a, b) for s in SIZES for a, b in zip(first[s], group_tables(work, 8)[s], strict=True))
