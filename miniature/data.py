"""Drawing the training set: pictures as one uint8 array, their captions and identities as JSON lines."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
from pathlib import Path

import numpy as np

from . import captions, styles, world

STYLED = 0.12


def sample(index: int, seed: int = 0) -> tuple[np.ndarray, dict[str, object]]:
    """Picture `index` of the set: (96, 96, 3) uint8 and its record; a pure function of index and seed."""
    r = random.Random(seed * 1_000_003 + index)
    identity, scene = world.random_identity(r), world.random_scene(r)
    style = styles.random_style(r) if r.random() < STYLED else None
    picture = np.asarray(world.render(identity, scene, style))
    texts = [captions.caption(r, identity, scene, style) for _ in range(3)]
    return picture, {"captions": texts, "background": scene["background"], "class": identity["class"]}


def _chunk(task: tuple[str, int, int, int, int]) -> list[dict[str, object]]:
    path, start, stop, total, seed = task
    out = np.lib.format.open_memmap(path, mode="r+", dtype=np.uint8, shape=(total, 96, 96, 3))
    records = []
    for index in range(start, stop):
        out[index], record = sample(index, seed)
        records.append(record)
    return records


def draw_stage(work: Path, count: int, seed: int = 0) -> None:
    """Write `pictures.npy` (count, 96, 96, 3) and `pictures.jsonl` to the work folder."""
    path = work / "pictures.npy"
    if (work / "pictures.jsonl").exists():
        return
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, 96, 96, 3)).flush()
    step = 500
    tasks = [(str(path), i, min(i + step, count), count, seed) for i in range(0, count, step)]
    with multiprocessing.Pool(os.cpu_count()) as pool:
        parts = pool.map(_chunk, tasks)
    with (work / "pictures.jsonl").open("w", encoding="utf-8") as f:
        for record in (r for part in parts for r in part):
            f.write(json.dumps(record) + "\n")


def load(work: Path) -> tuple[np.ndarray, list[dict[str, object]]]:
    """The pictures (memory-mapped) and their records."""
    with (work / "pictures.jsonl").open(encoding="utf-8") as f:
        return np.load(work / "pictures.npy", mmap_mode="r"), [json.loads(line) for line in f]
