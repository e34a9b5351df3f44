"""What regions cost and what they give: FLOPs of one UNet step, wall clock, and who is recognised in each region.

    python benchmarks/regional.py flops [--out FILE]
    python benchmarks/regional.py clock [--checkpoint C] [--size 384] [--out FILE]
    python benchmarks/regional.py identity --lora MERGED [--miniature DIR] [--seeds 32] [--out FILE]

`flops` counts on the meta device, with the published SD1.5 and SDXL configurations; shares over a plain step with both
guidance branches. `clock` times whole plain and regional steps in turn, in one process. `identity` paints pictures with
two and three subjects side by side, with one prompt that names them all and with a region for each, and asks the
miniature's embedder whom it sees in each subject's part of the picture; `single` is each concept in a picture alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib_loraclr.hosts.ports import RegionalRequest, SampleRequest
from lib_loraclr.regional import RegionalSpec, parse_spec
from lib_loraclr.regional.conditions import Encoded, RegionText, Row
from lib_loraclr.regional.layout import Layout
from lib_loraclr.regional.runtime import RegionalRuntime
from lib_loraclr.regional.sites import find_sites

ROOT = Path(__file__).resolve().parents[1]
LAYOUTS: dict[str, list[list[float]]] = {
    "2 x 50 %": [[0, 0, 0.5, 1], [0.5, 0, 1, 1]],
    "4 x 25 %": [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]],
    "4 x 50 %": [[0, 0, 0.5, 1], [0.5, 0, 1, 1], [0, 0, 1, 0.5], [0, 0.5, 1, 1]],
    "4 x 100 %": [[0, 0, 1, 1]] * 4,
    "2 x 30 %": [[0.05, 0.15, 0.45, 0.9], [0.55, 0.15, 0.95, 0.9]],
}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64},
    "sdxl": {
        "sample_size": 128, "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "use_linear_projection": True,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip


def spec_of(boxes: Sequence[Sequence[float]], texts: Sequence[str] = (), **fields: Any) -> RegionalSpec:
    """A spec of boxes; `texts` are their prompts."""
    regions = [{"shape": {"t": "box", "r": list(box)}} for box in boxes]
    for region, prompt in zip(regions, texts, strict=False):
        region["prompt"] = prompt  # pyright: ignore[reportArgumentType]
    return parse_spec({"regions": regions, **fields})


class MetaStep:
    """One UNet call with an unconditional and a conditional row, on the meta device."""

    def __init__(self, family: str) -> None:
        from diffusers import UNet2DConditionModel

        with torch.device("meta"):
            self.unet = UNet2DConditionModel(**CONFIGS[family]).eval().requires_grad_(False)
            self.side, self.width = int(self.unet.config.sample_size), int(self.unet.config.cross_attention_dim)
            self.latents = torch.empty(2, 4, self.side, self.side)
            self.context = torch.empty(2, 77, self.width)
            self.extra = {"text_embeds": torch.empty(2, 1280), "time_ids": torch.empty(2, 6)}

    def flops(self, spec: RegionalSpec | None = None, *, negatives: bool = True) -> int:
        """Multiply-adds times two of one call; with `negatives` every region has its own."""
        runtime = RegionalRuntime(Layout(spec or RegionalSpec(), self.side, self.side), find_sites(self.unet))
        one = Encoded(self.context[0], self.extra["text_embeds"][0])
        text = RegionText(one, one if negatives else None)
        counter = FlopCounterMode(display=False)
        with runtime.installed(), counter, torch.no_grad():
            runtime.begin_step(0.0, [[text] * len(runtime.layout.regions)])
            with runtime.calling([Row(0, False), Row(0, True)]):
                self.unet(self.latents, torch.zeros((), device="meta"), self.context, added_cond_kwargs=self.extra)
        if runtime.notes:
            raise SystemExit(runtime.notes[0])
        return counter.get_total_flops()


def count_flops() -> list[dict[str, Any]]:
    """Extra FLOPs in per cent of a plain step, by family, layout and what it does with negatives."""
    rows: list[dict[str, Any]] = []
    for family in CONFIGS:
        step = MetaStep(family)
        plain = step.flops()
        for name, boxes in LAYOUTS.items():
            cases: dict[str, dict[str, Any]] = {"own negatives": {}, "inherited negatives": {}}
            if name == "2 x 30 %":
                cases["isolation"] = {"iso": {"s": 0.5}}
            for case, fields in cases.items():
                found = step.flops(spec_of(boxes, **fields), negatives=case != "inherited negatives")
                rows.append(
                    {"family": family, "layout": name, "case": case, "extra_percent": 100 * (found / plain - 1),
                     "plain_gflops": plain / 1e9}
                )  # fmt: skip
                print(f"{family}, {name}, {case}: {rows[-1]['extra_percent']:+.2f} %", file=sys.stderr, flush=True)
    return rows


def wall_clock(checkpoint: Path, size: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds of a plain step and of steps with regions, measured in turn; the ratio is of their medians."""
    from lib_loraclr.hosts.standalone import load_checkpoint

    host = load_checkpoint(checkpoint)
    layouts: dict[str, RegionalRequest | None] = {"plain": None}
    for name in ("2 x 50 %", "4 x 25 %", "4 x 50 %"):
        for case in ("append", "inherit"):
            spec = spec_of(LAYOUTS[name], ["a man"] * 4, base={"neg": "empty" if case == "append" else "inherit"})
            layouts[f"{name}, {'own' if case == 'append' else 'inherited'} negatives"] = RegionalRequest(spec)
    layouts["2 x 30 %, isolation"] = RegionalRequest(spec_of(LAYOUTS["2 x 30 %"], ["a man"] * 2, iso={"s": 0.5}))
    times: dict[str, list[float]] = {name: [] for name in layouts}
    with host.ready():
        for _ in range(repeats + 1):
            for name, regions in layouts.items():
                request = SampleRequest(["a park"], [1], 2, (size, size), 7.0, "fog", regions=regions)
                start = time.perf_counter()
                host.sample(request)
                times[name].append((time.perf_counter() - start) / 2)
    plain = statistics.median(times["plain"][1:])
    return [
        {"layout": name, "size": size, "seconds_a_step": statistics.median(values[1:]),
         "ratio": statistics.median(values[1:]) / plain}
        for name, values in times.items()
    ]  # fmt: skip


class Gallery:
    """The miniature's embedder and the references of its characters."""

    def __init__(self, folder: Path) -> None:
        from miniature.evaluate import references
        from miniature.measure import Meter

        info = json.loads((folder / "concepts.json").read_text(encoding="utf-8"))
        self.checkpoint, self.settings = folder / info["checkpoint"], info["generation"]
        self.meter = Meter(folder / info["embedder"])
        self.concepts = [one for one in info["concepts"] if one["kind"] == "character"]
        self.references = [references(folder, one, self.meter) for one in self.concepts]

    def seen(self, pictures: Tensor, box: Sequence[float]) -> Tensor:
        """Index of the nearest character in the square around a box's middle, for pictures (n, h, w, 3)."""
        height, width = pictures.shape[1:3]
        side = min(height, round((box[2] - box[0]) * width))
        left, top = round((box[0] + box[2]) / 2 * width - side / 2), round((box[1] + box[3]) / 2 * height - side / 2)
        from PIL import Image

        crops = [Image.fromarray(one[top : top + side, left : left + side].numpy()) for one in pictures]
        return torch.from_numpy(self.meter.nearest(self.meter.identity(crops), self.references))


def identity(folder: Path, lora: str, seeds: int, together: int) -> list[dict[str, Any]]:
    """Share of parts in which the right character is nearest, by way: one plain prompt, regions, regions isolated."""
    from lib_loraclr.hosts.standalone import load_checkpoint
    from lib_loraclr.jobs.generate import Painter

    gallery = Gallery(folder)
    host = load_checkpoint(gallery.checkpoint)
    native = host.info.native_size
    painter = Painter(host, lora_dir=folder / "loras")
    boxes = [[k / together, 0.0, (k + 1) / together, 1.0] for k in range(together)]
    size = (native * together, native)
    hits: dict[str, int] = {"plain prompt": 0, "regions": 0, "regions, isolated": 0, "single": 0}

    def paint(prompt: str, seed: int, regions: RegionalSpec | None, size: tuple[int, int]) -> Tensor:
        return painter.paint(
            f"{prompt} <lora:{lora}:1>", [seed], steps=gallery.settings["steps"], cfg=gallery.settings["cfg_scale"],
            size=size, regions=regions,
        )  # fmt: skip

    with host.ready():
        for seed in range(seeds):
            who = [(seed + k) % len(gallery.concepts) for k in range(together)]
            names = [f"{gallery.concepts[k]['trigger']} {gallery.concepts[k]['class_word']}" for k in who]
            texts = [f"a photo of {name}" for name in names]
            ways: dict[str, tuple[str, RegionalSpec | None]] = {
                "plain prompt": ("a photo of " + " and ".join(names), None),
                "regions": ("a photo", spec_of(boxes, texts)),
                "regions, isolated": ("a photo", spec_of(boxes, texts, iso={"s": 0.5})),
            }
            for way, (prompt, regions) in ways.items():
                picture = paint(prompt, seed, regions, size)
                hits[way] += sum(int(gallery.seen(picture, box)[0] == k) for box, k in zip(boxes, who, strict=True))
            for text, k in zip(texts, who, strict=True):
                hits["single"] += int(gallery.seen(paint(text, seed, None, (native, native)), [0, 0, 1, 1])[0] == k)
    return [
        {"subjects": together, "way": way, "seeds": seeds, "right": count / (seeds * together)}
        for way, count in hits.items()
    ]


def main() -> None:
    """Run one of the three measurements and write its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("flops", "clock", "identity"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--miniature", type=Path, default=ROOT / "miniature")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--lora", help="a merged file of at least three of the miniature's characters")
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=32)
    given = parser.parse_args()
    if given.what == "identity" and not given.lora:
        parser.error("identity needs --lora")
    measures: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "flops": count_flops,
        "clock": lambda: wall_clock(
            given.checkpoint or given.miniature / "miniature.safetensors", given.size, given.repeats
        ),
        "identity": lambda: [
            row for count in (2, 3) for row in identity(given.miniature, given.lora, given.seeds, count)
        ],
    }
    rows = measures[given.what]()
    out = given.out or ROOT / "benchmarks" / "results" / f"regional_{given.what}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"what": given.what, "torch": torch.__version__, "rows": rows}, indent=1) + "\n")
    for row in rows:
        print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}))


if __name__ == "__main__":
    main()
