"""Is each subject of a picture recognised as itself? On the miniature, by its embedder, with one merged file.

Every seed draws two or three of the merged characters and paints them side by side on a canvas of native squares:

- `plain prompt`: one prompt that names them all, "a photo of anna woman and ben man";
- `regions`: the base prompt "a photo", and for every square a region with "a photo of anna woman";
- `regions, isolated`: the same with self-attention isolation, at all layers and steps;
- `regions, solo`: regions where each is a picture of its own in the first share of the steps;
- `single`: each of them alone in a picture of one square, with the region's prompt and the same seed.

The square of a subject is cut out, and the embedder says which of the merged characters is nearest. Chance is 1 / 8.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.regional_rates import SUBJECTS, VARIANTS
from lib_loraclr.formats import recipe_of
from lib_loraclr.formats.safetensors_io import SafetensorsFile
from lib_loraclr.generation.generator import ImageGenerator, SamplingParams
from lib_loraclr.hosts.standalone import load_checkpoint
from lib_loraclr.regional import RegionalSpec, parse_spec
from lib_loraclr.regional.spec import SUBJECTS_SEPARATE_UNTIL
from miniature.evaluate import references
from miniature.measure import IdentityMetric

# Complete isolation: the miniature's deep layers have 6 and 3 cells a side. The share of solo, what the merge tab's
# layouts begin with, was chosen from 0.2 to 0.5 on other seeds, 100 to 123.
ISOLATION: dict[str, dict[str, float]] = {
    "regions, isolated": {"strength": 1, "end": 1, "min_cells": 1},
    "regions, solo": {"strength": 0, "separate_until": SUBJECTS_SEPARATE_UNTIL},
}


def spec_of(boxes: Sequence[Sequence[float]], texts: Sequence[str] = (), **fields: Any) -> RegionalSpec:
    """A spec of boxes; `texts` are their prompts."""
    regions: list[dict[str, Any]] = [{"shape": {"t": "box", "r": list(box)}} for box in boxes]
    for region, prompt in zip(regions, texts, strict=False):
        region["prompt"] = prompt
    return parse_spec({"regions": regions, **fields})


class Gallery:
    """The characters of a merged file, who they are, and a model that paints them."""

    def __init__(self, folder: Path, lora: Path) -> None:
        info = json.loads((folder / "concepts.json").read_text(encoding="utf-8"))
        recipe = recipe_of(SafetensorsFile.open(lora).metadata) or {}
        merged = [entry["name"] for entry in recipe.get("inputs", ())]
        known = {one["name"]: one for one in info["concepts"] if one["kind"] == "character"}
        self.concepts = [known[name] for name in merged if name in known]
        if len(self.concepts) < max(SUBJECTS):
            raise SystemExit(f"{lora} holds {len(self.concepts)} of the miniature's characters; 3 or more are needed.")
        self.lora, self.settings, self.folder = lora, info["generation"], folder
        self.fingerprint = {"lora": _sha256(lora), "checkpoint": _sha256(folder / info["checkpoint"])}
        self.metric = IdentityMetric(folder / info["embedder"])
        self.references = [references(folder, one, self.metric) for one in self.concepts]
        self.host = load_checkpoint(folder / info["checkpoint"])
        self.side = self.host.info.native_size
        self.generator = ImageGenerator(self.host)

    def text(self, *who: int) -> str:
        """A prompt that names these characters."""
        named = (f"{self.concepts[k]['trigger']} {self.concepts[k]['class_word']}" for k in who)
        return "a photo of " + " and ".join(named)

    def paint(self, prompt: str, seed: int, squares: int, regions: RegionalSpec | None = None) -> np.ndarray:
        """(side, squares * side, 3) uint8. Inside `host.ready()`."""
        settings, size = self.settings, (squares * self.side, self.side)
        params = SamplingParams(settings["steps"], settings["cfg_scale"], size, settings["negative_prompt"])
        tagged = f"{prompt} <lora:{self.lora.absolute()}:1>"
        return self.generator.generate([tagged], [seed], params, regions=regions)[0].numpy()

    def together(self, variant: str, who: Sequence[int], seed: int) -> np.ndarray:
        """One canvas with these characters from left to right."""
        count = len(who)
        if variant == "single":
            return np.concatenate([self.paint(self.text(k), seed, 1) for k in who], 1)
        if variant == "plain prompt":
            return self.paint(self.text(*who), seed, count)
        boxes = [[k / count, 0.0, (k + 1) / count, 1.0] for k in range(count)]
        spec = spec_of(boxes, [self.text(k) for k in who], iso=ISOLATION.get(variant, {}))
        return self.paint("a photo", seed, count, spec)

    def judge(self, canvas: np.ndarray, who: Sequence[int]) -> tuple[list[str], list[float]]:
        """(name that is nearest, cosine to the wanted one) of every square."""
        squares = [Image.fromarray(one) for one in np.split(canvas, len(who), 1)]
        vectors = self.metric.identity(squares)
        nearest = [self.concepts[k]["name"] for k in self.metric.nearest(vectors, self.references)]
        own = [float(self.metric.cosine(v[None], self.references[k])[0]) for v, k in zip(vectors, who, strict=True)]
        return nearest, own


def cast_of(seed: int, count: int, concepts: int) -> list[int]:
    """Who stands in the picture of a seed, from left to right."""
    return random.Random(f"{count} subjects, seed {seed}").sample(range(concepts), count)


def measure(gallery: Gallery, seeds: int, known: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """This part of the results after every new canvas; what `known` has of the same files is not painted again."""
    names = [one["name"] for one in gallery.concepts]
    same = known.get("files") == gallery.fingerprint and known.get("concepts") == names
    canvases: list[dict[str, Any]] = list(known["canvases"]) if same else []
    done = {(one["subjects"], one["way"], one["seed"]) for one in canvases}
    part = {"files": gallery.fingerprint, "concepts": names, "seeds": 0, "canvases": canvases}
    with gallery.host.ready():
        for seed in range(seeds):
            for count in SUBJECTS:
                who = cast_of(seed, count, len(names))
                for variant in VARIANTS:
                    if (count, variant, seed) in done:
                        continue
                    seen, own = gallery.judge(gallery.together(variant, who, seed), who)
                    canvases.append(
                        {"subjects": count, "way": variant, "seed": seed, "wanted": [names[k] for k in who],
                         "seen": seen, "cosine": [round(value, 4) for value in own]}
                    )  # fmt: skip
                    print(f"{count} subjects, seed {seed}, {variant}: {canvases[-1]['wanted']} {seen}", file=sys.stderr)
                    yield part
            part["seeds"] = seed + 1
    yield part


def gallery_picture(gallery: Gallery, path: Path, seeds: Sequence[int] = (1, 2)) -> None:
    """Canvases of fixed seeds in rows: references, then every variant but `single`; a PNG with a palette."""
    variants, gap, head, scale = [variant for variant in VARIANTS if variant != "single"], 12, 26, 144 / gallery.side
    rows: list[tuple[int, list[np.ndarray]]] = []
    with gallery.host.ready():
        for count in SUBJECTS:
            for seed in seeds:
                who = cast_of(seed, count, len(gallery.concepts))
                shown = [Image.open(gallery.folder / gallery.concepts[k]["references"][0]).convert("RGB") for k in who]
                size = (gallery.side, gallery.side)
                first = np.concatenate([np.asarray(one.resize(size, Image.Resampling.LANCZOS)) for one in shown], 1)
                rows.append((count, [first, *(gallery.together(variant, who, seed) for variant in variants)]))
    side = round(gallery.side * scale)
    widest = max(SUBJECTS) * side
    sheet = Image.new(
        "RGB", ((1 + len(variants)) * (widest + gap) - gap, head + len(rows) * (side + gap) - gap), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(("who they are", *variants)):
        draw.text((column * (widest + gap), 2), title, "#1c2128", ImageFont.load_default(16))
    for row, (count, canvases) in enumerate(rows):
        for column, canvas in enumerate(canvases):
            picture = Image.fromarray(canvas).resize((count * side, side), Image.Resampling.LANCZOS)
            sheet.paste(picture, (column * (widest + gap), head + row * (side + gap)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
