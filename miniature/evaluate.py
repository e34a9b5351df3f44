"""Does a single LoRA give its concept? Identity cosines of single LoRAs, class words and the stacked sum."""

from __future__ import annotations

import json
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from . import lora
from .measure import IdentityMetric
from .sampling import Pipeline, contact_sheet


def load_concepts(folder: Path) -> dict:
    """concepts.json of a folder."""
    return json.loads((folder / "concepts.json").read_text(encoding="utf-8"))


def references(folder: Path, concept: dict, metric: IdentityMetric) -> np.ndarray:
    """Embeddings of a concept's reference pictures, (m, d): identity, or style for a style."""
    pictures = [Image.open(folder / name) for name in concept["references"]]
    return (metric.style if concept["kind"] == "style" else metric.identity)(pictures)


def vectors(pictures: np.ndarray, concept: dict, metric: IdentityMetric) -> np.ndarray:
    """The embedding that is compared with `references`."""
    return (metric.style if concept["kind"] == "style" else metric.identity)(pictures)


def prompts(concept: dict, count: int, subject: str | None = None) -> list[str]:
    """`count` prompts of a concept, its own list repeated; `subject` replaces "trigger class"."""
    texts = [concept["prompts"][k % len(concept["prompts"])] for k in range(count)]
    return [t.replace(f"{concept['trigger']} {concept['class_word']}", subject) if subject else t for t in texts]


@dataclass(frozen=True)
class Check:
    """What to measure and where."""

    folder: Path
    count: int = 32
    stack: int = 8
    seed: int = 1000
    device: str = "cpu"
    full: bool = True  # also the class word with the LoRA, and the class words of what is not stacked


def evaluate_concept(check: Check, name: str) -> tuple[str, dict[str, float], np.ndarray]:
    """Mean cosines of one concept and a row of 16 pictures: a reference, eleven singles, four stacked sums."""
    folder, info = check.folder, load_concepts(check.folder)
    metric = IdentityMetric(folder / info["embedder"], check.device)
    pipeline, settings = Pipeline.from_file(folder / info["checkpoint"], check.device), info["generation"]
    concept = next(c for c in info["concepts"] if c["name"] == name)
    rivals = [c for c in info["concepts"] if (c["kind"] == "style") == (concept["kind"] == "style")]
    known = {c["name"]: references(folder, c, metric) for c in rivals}
    crowd = [c for c in info["concepts"] if c["kind"] == "character"][: check.stack]

    def score(files: list[str], subject: str | None) -> tuple[np.ndarray, np.ndarray, float]:
        old = lora.add_to_weights(pipeline.unet, pipeline.text, [folder / f for f in files])
        texts = prompts(concept, check.count, subject)
        pictures = pipeline.sample(texts, check.seed, settings["steps"], settings["cfg_scale"])
        lora.restore(pipeline.unet, pipeline.text, old)
        v = vectors(pictures, concept, metric)
        return pictures, v, float(IdentityMetric.cosine(v, known[name]).mean())

    own, plain = [concept["file"]], concept["class_word"] if concept["kind"] != "style" else "old style"
    pictures, v, single = score(own, None)
    nearest = IdentityMetric.nearest(v, list(known.values())) == list(known).index(name)
    line = {"single": single, "nearest_own": float(nearest.mean())}
    if check.full or concept in crowd:
        line["class_word"] = score([], plain)[2]
    if check.full:
        line["class_word_with_lora"] = score(own, plain)[2]
    row = [np.asarray(Image.open(folder / concept["references"][0]).convert("RGB"))[None], pictures[:11]]
    if concept in crowd:
        summed, _, line["stacked_sum"] = score([c["file"] for c in crowd], None)
        row.append(summed[:4])
    filled = np.concatenate(row)
    blank = np.full((16 - len(filled), 96, 96, 3), 255, np.uint8)
    return name, {k: round(x, 4) for k, x in line.items()}, np.concatenate([filled, blank])


def _task(task: tuple[Check, str]) -> tuple[str, dict[str, float], np.ndarray]:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    out = evaluate_concept(*task)
    print(out[0], out[1], flush=True)
    return out


def evaluate(check: Check, names: list[str] | None = None, sheet: Path | None = None) -> dict[str, dict[str, float]]:
    """Every concept's numbers and the means over kinds; one process for each core on a CPU."""
    concepts = [c for c in load_concepts(check.folder)["concepts"] if names is None or c["name"] in names]
    workers = (os.cpu_count() or 1) if check.device == "cpu" else 1
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        results = pool.map(_task, [(check, c["name"]) for c in concepts], chunksize=1)
    if sheet:
        contact_sheet(np.concatenate([row for _, _, row in results]), 16).save(sheet)
    report = {name: line for name, line, _ in results}
    for kind in ("character", "animal", "object", "style"):
        part = [report[c["name"]] for c in concepts if c["kind"] == kind]
        if part:
            means = {k: [p[k] for p in part if k in p] for k in part[0]}
            report[f"mean {kind}"] = {k: round(float(np.mean(v)), 4) for k, v in means.items()}
    return report
