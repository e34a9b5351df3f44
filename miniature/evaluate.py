"""Does a single LoRA give its concept? Identity cosines of single LoRAs, class words and the stacked sum."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from . import lora
from .measure import Meter
from .sampling import Pipeline, contact_sheet


def load_concepts(folder: Path) -> dict:
    """concepts.json of a folder."""
    return json.loads((folder / "concepts.json").read_text(encoding="utf-8"))


def references(folder: Path, concept: dict, meter: Meter) -> np.ndarray:
    """Embeddings of a concept's reference pictures, (m, d): identity, or style for a style."""
    pictures = [Image.open(folder / name) for name in concept["references"]]
    return (meter.style if concept["kind"] == "style" else meter.identity)(pictures)


def vectors(pictures: np.ndarray, concept: dict, meter: Meter) -> np.ndarray:
    """The embedding that is compared with `references`."""
    return (meter.style if concept["kind"] == "style" else meter.identity)(pictures)


def prompts(concept: dict, count: int, subject: str | None = None) -> list[str]:
    """`count` prompts of a concept, its own list repeated; `subject` replaces "trigger class"."""
    texts = [concept["prompts"][k % len(concept["prompts"])] for k in range(count)]
    return [t.replace(f"{concept['trigger']} {concept['class_word']}", subject) if subject else t for t in texts]


def evaluate(folder: Path, count: int = 32, device: str = "cpu", names: list[str] | None = None, stack: int = 8,
             sheet: Path | None = None, seed: int = 1000, checkpoint: Path | None = None) -> dict:  # fmt: skip
    """Mean cosines of every concept: single LoRA, class word without a LoRA, trigger without a LoRA, stacked sum."""
    info, meter = load_concepts(folder), Meter(folder / "embedder.safetensors", device)
    pipeline = Pipeline.from_file(checkpoint or folder / "miniature.safetensors", device)
    settings = info["generation"]
    concepts = [c for c in info["concepts"] if names is None or c["name"] in names]
    known = {c["name"]: references(folder, c, meter) for c in info["concepts"]}
    crowd = [c for c in info["concepts"] if c["kind"] == "character"][:stack]

    def score(concept: dict, files: list[Path], subject: str | None) -> tuple[np.ndarray, np.ndarray]:
        old = lora.add_to_weights(pipeline.unet, pipeline.text, files)
        pictures = pipeline.sample(prompts(concept, count, subject), seed, settings["steps"], settings["cfg_scale"])
        lora.restore(pipeline.unet, pipeline.text, old)
        return pictures, vectors(pictures, concept, meter)

    report, rows = {}, []
    for concept in concepts:
        name, own = concept["name"], [folder / concept["file"]]
        rivals = [c["name"] for c in info["concepts"] if (c["kind"] == "style") == (concept["kind"] == "style")]
        pictures, v = score(concept, own, None)
        line = {"single": Meter.cosine(v, known[name]).mean(),
                "nearest_own": (Meter.nearest(v, [known[r] for r in rivals]) == rivals.index(name)).mean()}  # fmt: skip
        plain = concept["class_word"] if concept["kind"] != "style" else "old style"
        line["class_word"] = Meter.cosine(score(concept, [], plain)[1], known[name]).mean()
        line["class_word_with_lora"] = Meter.cosine(score(concept, own, plain)[1], known[name]).mean()
        shown = [np.stack([np.asarray(Image.open(folder / concept["references"][0]).convert("RGB"))]), pictures[:11]]
        if concept in crowd and stack:
            summed, v = score(concept, [folder / c["file"] for c in crowd], None)
            line["stacked_sum"] = Meter.cosine(v, known[name]).mean()
            shown.append(summed[:4])
        report[name] = {k: round(float(x), 4) for k, x in line.items()}
        row = np.concatenate(shown)
        rows.append(np.concatenate([row, np.full((16 - len(row), 96, 96, 3), 255, np.uint8)]))
        print(name, report[name], flush=True)
        if sheet:
            contact_sheet(np.concatenate(rows), 16).save(sheet)
    for kind in ("character", "animal", "object", "style"):
        part = [report[c["name"]] for c in concepts if c["kind"] == kind]
        if part:
            report[f"mean {kind}"] = {k: round(float(np.mean([p[k] for p in part if k in p])), 4) for k in part[0]}
            print(f"mean {kind}", report[f"mean {kind}"], flush=True)
    return report
