"""The demo: merge eight of the miniature's LoRAs into one file, and show what is left of each.

    python miniature/demo.py [--pictures N]

Writes into outputs/: merged.safetensors; for comparison merged-full.safetensors (the preset layerwise) and
gradient-fusion.safetensors (as published); merged.report.json, merged.report.html, demo.png (the grid) and demo.json
(the figures behind it).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
if sys.path and Path(sys.path[0]).resolve() == HERE:  # run as a file: this folder's modules are no top-level modules
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
from PIL import Image, ImageDraw, ImageFont  # noqa: E402

from lib_loraclr.core.errors import LoraclrError  # noqa: E402
from lib_loraclr.frontends.cli.terminal import BarProgress, table  # noqa: E402
from lib_loraclr.generation.generator import ImageGenerator, SamplingParams  # noqa: E402
from lib_loraclr.hosts.standalone import StandaloneHost, load_checkpoint  # noqa: E402
from lib_loraclr.merging.options import DEFAULT_METHOD, DEFAULT_PRESET, LoraChoice, MergeOptions  # noqa: E402
from lib_loraclr.merging.outcome import MergeOutcome  # noqa: E402
from lib_loraclr.merging.pipeline import merge  # noqa: E402
from lib_loraclr.model import Phase  # noqa: E402
from miniature.measure import IdentityMetric  # noqa: E402

BATCH_SIZE = 16  # the README's figures were measured with it
SEED = 1000
COLUMNS = ("single LoRA", "stacked sum", "gradient fusion\nas published", "preset layerwise", "our default")
MUTE = (96, 104, 115)
INK = (28, 33, 40)


@dataclass
class Cell:
    """Pictures of one concept made in one way, and the cosine of each to the concept's references."""

    pictures: np.ndarray
    cosines: np.ndarray
    nearest: np.ndarray  # for each picture: is its own concept the nearest of all?


@dataclass
class Demo:
    """The miniature in `folder`, the concepts that are merged, and where results go."""

    folder: Path
    out: Path
    pictures: int
    count: int
    progress: BarProgress = field(default_factory=BarProgress)

    def __post_init__(self) -> None:
        self.info: dict[str, Any] = json.loads((self.folder / "concepts.json").read_text(encoding="utf-8"))
        characters = [concept for concept in self.info["concepts"] if concept["kind"] == "character"]
        self.concepts = characters[: self.count]
        self.metric = IdentityMetric(self.folder / self.info["embedder"])
        self.references = [
            self.metric.identity([Image.open(self.folder / name) for name in concept["references"]])
            for concept in self.concepts
        ]
        self._host: StandaloneHost | None = None

    def host(self) -> StandaloneHost:
        """The miniature, loaded once for both merges and all pictures."""
        if self._host is None:
            self._host = load_checkpoint(self.folder / self.info["checkpoint"])
        return self._host

    def merge(
        self, stem: str, method: str, option: dict[str, Any], *, preset: str, report: bool = False
    ) -> MergeOutcome:
        """Merge all concepts into outputs/<stem>.safetensors."""
        lora = tuple(
            LoraChoice(self.folder / concept["file"], trigger=concept["trigger"], class_word=concept["class_word"])
            for concept in self.concepts
        )
        options = MergeOptions(
            lora=lora,
            out=self.out / f"{stem}.safetensors",
            checkpoint=self.folder / self.info["checkpoint"],
            method=method,
            preset=preset,
            option=option,
            device="cpu",
            overwrite=True,
            report=self.out if report else None,
            cache=self.out / "cache",
        )
        return merge(options, open_host=lambda checkpoint, device: self.host(), progress=self.progress)

    def sampling(self) -> SamplingParams:
        """How the miniature's pictures are sampled."""
        settings = self.info["generation"]
        return SamplingParams(
            settings["steps"], settings["cfg_scale"], (settings["width"], settings["height"]),
            settings["negative_prompt"], batch_size=BATCH_SIZE,
        )  # fmt: skip

    def cell(self, generator: ImageGenerator, index: int, tags: str) -> Cell:
        """Pictures of concept `index` on its own prompts; the same seeds whatever the tags."""
        texts = self.concepts[index]["prompts"]
        prompts = [f"{texts[k % len(texts)]} {tags}" for k in range(self.pictures)]
        seeds = [SEED + k for k in range(self.pictures)]
        pictures = generator.generate(prompts, seeds, self.sampling(), progress=self.progress).numpy()
        vectors = self.metric.identity(pictures)
        return Cell(
            pictures,
            self.metric.cosine(vectors, self.references[index]),
            self.metric.nearest(vectors, self.references) == index,
        )

    def all_cells(self, published: Path, full: Path, merged: Path) -> list[list[Cell]]:
        """Cells [concept][way] in the order of `COLUMNS`."""
        files = [self.folder / concept["file"] for concept in self.concepts]
        stack = " ".join(f"<lora:{file}:1>" for file in files)
        host = self.host()
        generator = ImageGenerator(host)
        steps = generator.steps(self.pictures, self.sampling()) * len(COLUMNS)
        rows: list[list[Cell]] = []
        with host.ready():
            for index, concept in enumerate(self.concepts):
                self.progress.phase(Phase.GENERATE, steps, concept["name"])
                tags = [f"<lora:{file}:1>" for file in (files[index], published, full, merged)]
                rows.append([self.cell(generator, index, tag) for tag in (tags[0], stack, *tags[1:])])
        return rows

    def grid(self, rows: Sequence[Sequence[Cell]], path: Path) -> None:
        """The picture: one row per concept, reference first, the first seed of every way, its cosine underneath."""
        side, gap, left, top, foot = 128, 10, 96, 64, 24
        step_x, step_y = side + gap, side + foot + gap
        width, height = left + step_x * (1 + len(COLUMNS)), top + step_y * len(rows) + 52
        sheet = Image.new("RGB", (width, height), (255, 255, 255))
        draw = ImageDraw.Draw(sheet)
        small, plain = ImageFont.load_default(14), ImageFont.load_default(15)
        for column, title in enumerate(("reference", *COLUMNS)):
            middle = left + step_x * column + side / 2
            draw.multiline_text((middle, top - 10), title, INK, plain, anchor="md", align="center")
        for number, (concept, row) in enumerate(zip(self.concepts, rows, strict=True)):
            y = top + step_y * number
            draw.multiline_text(
                (12, y + side / 2), f"{concept['trigger']}\n{concept['class_word']}", INK, plain, anchor="lm"
            )
            reference = Image.open(self.folder / concept["references"][0]).convert("RGB")
            pictures = [reference, *(Image.fromarray(cell.pictures[0]) for cell in row)]
            for column, picture in enumerate(pictures):
                x = left + step_x * column
                sheet.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (x, y))
                if column:
                    text = f"{row[column - 1].cosines[0]:.2f}"
                    draw.text((x + side / 2, y + side + 4), text, INK, small, anchor="ma")
        y = top + step_y * len(rows) + 6
        draw.text((12, y), f"mean of {self.pictures * len(rows)}", MUTE, small)
        for column, mean in enumerate(means(rows)):
            text = f"{mean['cosine']:.2f}  (nearest: {mean['nearest']:.0%})"
            draw.text((left + step_x * (column + 1) + side / 2, y), text, INK, small, anchor="ma")
        note = "Number: identity cosine to the concept's reference pictures, 1 is the same person, 0 a stranger."
        draw.text((12, y + 22), note, MUTE, small)
        sheet.quantize(256).save(path, optimize=True)


def means(rows: Sequence[Sequence[Cell]]) -> list[dict[str, float]]:
    """Per way: mean cosine with the half width of its 95 % interval, and the share of pictures nearest to their own."""
    found = []
    for way in range(len(COLUMNS)):
        cosines = np.concatenate([row[way].cosines for row in rows])
        nearest = np.concatenate([row[way].nearest for row in rows])
        half = 1.96 * float(cosines.std(ddof=1)) / math.sqrt(len(cosines)) if len(cosines) > 1 else float("nan")
        found.append({"cosine": float(cosines.mean()), "half_interval": half, "nearest": float(nearest.mean())})
    return found


def figures(demo: Demo, rows: Sequence[Sequence[Cell]], outcome: MergeOutcome) -> dict[str, Any]:
    """The content of demo.json."""
    names = [title.replace("\n", " ") for title in COLUMNS]
    return {
        "pictures_per_concept": demo.pictures,
        "variants": dict(zip(names, means(rows), strict=True)),
        "concepts": [
            {
                "name": concept["name"],
                **{name: float(cell.cosines.mean()) for name, cell in zip(names, row, strict=True)},
            }
            for concept, row in zip(demo.concepts, rows, strict=True)
        ],
        "merge": {key: value for key, value in outcome.as_json().items() if key != "out"},
    }


def tell(demo: Demo, rows: Sequence[Sequence[Cell]], outcome: MergeOutcome, seconds: float) -> str:
    """What happened, in plain words."""
    single, stacked, _, full, ours = means(rows)
    names = [title.replace("\n", " ") for title in COLUMNS]
    lines = [
        (concept["name"], *(float(cell.cosines.mean()) for cell in row))
        for concept, row in zip(demo.concepts, rows, strict=True)
    ]
    lines.append(("mean", *(mean["cosine"] for mean in means(rows))))
    capture, distill = outcome.seconds["capture"], outcome.seconds.get("distill", 0.0)
    return f"""
{table(("identity", *names), lines)}

What this did: {len(demo.concepts)} LoRAs, one character each, became one file. The model was watched while it drew each
character (capture, {capture:.0f} s), one update was solved for that does what each LoRA does to its own character's
features, and then it learned what each LoRA makes the whole model predict (distillation, {distill:.0f} s).
The table compares {demo.pictures} pictures a character and way with the character's references: 1 is the same person,
0 a stranger. Stacking all LoRAs in one prompt leaves {stacked["cosine"]:.2f}; the merged file has \
{ours["cosine"]:.2f} of the single LoRAs' {single["cosine"]:.2f}, that is
{ours["cosine"] / single["cosine"]:.0%}; without the distillation (preset layerwise) it would be \
{full["cosine"] / single["cosine"]:.0%}.
Whole demo: {seconds / 60:.1f} minutes.

  {outcome.out}   the merged LoRA
  {demo.out / "merged-full.safetensors"}   the same without distillation
  {demo.out / "demo.png"}   the pictures
  {demo.out / "merged.report.html"}   the report, for a browser
  {demo.out / "demo.json"}   the figures
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when it went well."""
    parser = argparse.ArgumentParser(description="Merge eight of the miniature's LoRAs and show the result.")
    parser.add_argument("--pictures", type=int, default=4, metavar="N", help="pictures per concept and way (default 4)")
    parser.add_argument("--concepts", type=int, default=8, metavar="N", help="how many characters to merge (default 8)")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs", metavar="DIR", help="default: outputs/")
    parser.add_argument(
        "--record", action="store_true", help="also keep grid and figures for the README (docs/, benchmarks/)"
    )
    parser.add_argument("--miniature", type=Path, default=HERE, metavar="DIR", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if not (given.miniature / "concepts.json").exists():
        print(
            f"The trained miniature is not in {given.miniature}; miniature/README.md says how to make it.",
            file=sys.stderr,
        )
        return 1
    start = time.monotonic()
    given.out.mkdir(parents=True, exist_ok=True)
    try:
        demo = Demo(given.miniature, given.out, given.pictures, given.concepts)
        print(
            f"Merging {len(demo.concepts)} LoRAs of the miniature into {given.out / 'merged.safetensors'} …", flush=True
        )
        outcome = demo.merge("merged", DEFAULT_METHOD, {}, preset=DEFAULT_PRESET, report=True)
        print("The same without distillation, for comparison …", flush=True)
        full = demo.merge("merged-full", DEFAULT_METHOD, {}, preset="layerwise")
        print("Gradient fusion as published, for comparison …", flush=True)
        published = demo.merge("gradient-fusion", "gradient-fusion", {"published": True}, preset="layerwise")
        print(f"Painting {len(demo.concepts) * len(COLUMNS) * demo.pictures} pictures …", flush=True)
        rows = demo.all_cells(published.out, full.out, outcome.out)
    except LoraclrError as error:
        print(f"The demo could not run: {error.message} {error.file or ''}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    demo.progress.close()
    text = json.dumps(figures(demo, rows, outcome), indent=1) + "\n"
    kept = [(ROOT / "docs" / "demo.png", ROOT / "benchmarks" / "results" / "demo.json")] if given.record else []
    for picture, numbers in [(given.out / "demo.png", given.out / "demo.json"), *kept]:
        demo.grid(rows, picture)
        numbers.parent.mkdir(parents=True, exist_ok=True)
        numbers.write_text(text, encoding="utf-8")
    print(tell(demo, rows, outcome, time.monotonic() - start))
    return 0


if __name__ == "__main__":
    sys.exit(main())
