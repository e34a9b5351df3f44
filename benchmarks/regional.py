"""What regions cost and what they give: FLOPs of one UNet step, wall clock, and who is recognised in each region.

    python benchmarks/regional.py flops                                   (a minute)
    python benchmarks/regional.py clock [--miniature DIR] [--size 512]
    python benchmarks/regional.py identity --lora MERGED [--miniature DIR] [--seeds 32]
    python benchmarks/regional.py picture --lora MERGED [--miniature DIR] [--picture docs/regional.png]
    python benchmarks/regional.py goals                                   (from the results alone)

`flops` counts on the meta device, with the published SD1.5 and SDXL configurations; shares over a plain step with both
guidance branches. `clock` times whole plain and regional steps in turn, in one process. `identity` is described in
regional_identity.py and goes on where it was broken off. Every part has its own place in
benchmarks/results/regional.json (`--out`); `goals` exits with 1 while a budget or a target is not reached.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.regional_identity import Gallery, gallery_picture, measure, spec_of
from benchmarks.regional_rates import identity_table
from lib_loraclr.model import SampleRequest
from lib_loraclr.regional import RegionalSpec
from lib_loraclr.regional.conditions import BatchRow, Encoded, RegionText
from lib_loraclr.regional.lora import RegionalRequest
from lib_loraclr.regional.runtime import RegionalRuntime
from lib_loraclr.regional.sites import find_sites
from lib_loraclr.regional.weights import RegionWeights

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
        runtime = RegionalRuntime(RegionWeights(spec or RegionalSpec(), self.side, self.side), find_sites(self.unet))
        one = Encoded(self.context[0], self.extra["text_embeds"][0])
        text = RegionText(one, one if negatives else None)
        counter = FlopCounterMode(display=False)
        with runtime.installed(), counter, torch.no_grad():
            runtime.begin_step(0.0, [[text] * len(runtime.region_weights.regions)])
            with runtime.calling([BatchRow(0, False), BatchRow(0, True)]):
                self.unet(self.latents, torch.zeros((), device="meta"), self.context, added_cond_kwargs=self.extra)
        if runtime.notes:
            raise SystemExit(runtime.notes[0])
        return counter.get_total_flops()


def count_flops(families: Iterable[str] = CONFIGS, layouts: Sequence[str] = tuple(LAYOUTS)) -> list[dict[str, Any]]:
    """Extra FLOPs in per cent of a plain step, by family, layout and what it does with negatives."""
    rows: list[dict[str, Any]] = []
    for family in families:
        step = MetaStep(family)
        plain = step.flops()
        for name in layouts:
            boxes = LAYOUTS[name]
            cases: dict[str, dict[str, Any]] = {"own negatives": {}, "inherited negatives": {}}
            if name == "2 x 30 %":
                cases["isolation"] = {"isolation": {"strength": 0.5}}
            for case, fields in cases.items():
                found = step.flops(spec_of(boxes, **fields), negatives=case != "inherited negatives")
                rows.append(
                    {"family": family, "layout": name, "case": case, "extra_percent": 100 * (found / plain - 1),
                     "plain_gflops": plain / 1e9}
                )  # fmt: skip
                print(f"{family}, {name}, {case}: {rows[-1]['extra_percent']:+.2f} %", file=sys.stderr, flush=True)
    return rows


def wall_clock(miniature: Path, size: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds of a plain step and of steps with regions, measured in turn; ratios are of their medians.

    The seconds of the processor do not count what other programs on the machine take away.
    """
    from lib_loraclr.hosts.standalone import load_checkpoint

    host = load_checkpoint(miniature / "miniature.safetensors")
    layouts: dict[str, RegionalRequest | None] = {"plain": None}
    for name in ("2 x 50 %", "4 x 25 %", "4 x 50 %"):
        for case in ("append", "inherit"):
            spec = spec_of(LAYOUTS[name], ["a man"] * 4, base={"negative": "empty" if case == "append" else "inherit"})
            layouts[f"{name}, {'own' if case == 'append' else 'inherited'} negatives"] = RegionalRequest(spec)
    layouts["2 x 30 %, isolation"] = RegionalRequest(
        spec_of(LAYOUTS["2 x 30 %"], ["a man"] * 2, isolation={"strength": 0.5})
    )
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in layouts}
    with host.ready():
        for _ in range(repeats + 1):  # the first round warms up
            for name, regions in layouts.items():
                request = SampleRequest(["a park"], [1], 2, (size, size), 7.0, "fog", regions=regions)
                start = time.perf_counter(), time.process_time()
                host.sample(request)
                times[name].append(((time.perf_counter() - start[0]) / 2, (time.process_time() - start[1]) / 2))
    wall, cpu = (
        {name: statistics.median(one[k] for one in found[1:]) for name, found in times.items()} for k in (0, 1)
    )
    return [
        {"layout": name, "size": size, "seconds_a_step": wall[name], "ratio": wall[name] / wall["plain"],
         "cpu_seconds_a_step": cpu[name], "cpu_ratio": cpu[name] / cpu["plain"]}
        for name in layouts
    ]  # fmt: skip


BUDGETS = {("sd15", "2 x 50 %"): 5.0, ("sd15", "4 x 25 %"): 6.0, ("sd15", "4 x 50 %"): 9.0,
           ("sdxl", "2 x 50 %"): 9.0, ("sdxl", "4 x 25 %"): 11.0, ("sdxl", "4 x 50 %"): 18.0}  # fmt: skip


def goals(results: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """(sentence, reached) of every budget and target whose part of the results is there."""
    found: list[tuple[str, bool]] = []
    extra = {
        (r["family"], r["layout"], r["case"]): r["extra_percent"] for r in results.get("flops", {}).get("rows", ())
    }
    for (family, layout), most in BUDGETS.items() if extra else ():
        for case, limit in (("own negatives", most), ("inherited negatives", most / 2)):
            value = extra[family, layout, case]
            found.append((f"{family}, {layout}, {case}: {value:+.2f} %, at most {limit:g} %", value <= limit))
    for count, variants in identity_table(results).items():
        plain, regions, near = variants["plain prompt"], variants["regions"], variants["single"].each - 0.05
        pairs = [("each", regions.each, 2 * plain.each), ("everyone", regions.everyone, 2 * plain.everyone)]
        pairs += [
            (f"{variant}, each", seen.each, near) for variant, seen in variants.items() if variant.startswith("regions")
        ]
        found += [(f"{count} subjects, {what}: {rate:.3f}, at least {least:.3f}", rate >= least)
                  for what, rate, least in pairs]  # fmt: skip
    return found


def save(out: Path, part: str, value: Any) -> None:
    """Put one part into the results file; the others stay."""
    results = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    results[part] = value
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".part")
    partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    partial.replace(out)


def main() -> int:
    """Run one of the measurements and write its part of the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("flops", "clock", "identity", "picture", "goals"))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "regional.json")
    parser.add_argument("--miniature", type=Path, default=ROOT / "miniature")
    parser.add_argument("--lora", type=Path, help="a merged file of the miniature's characters")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "regional.png")
    parser.add_argument("--size", type=int, default=512, help="side of the timed pictures, in pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=32)
    given = parser.parse_args()
    if given.what in ("identity", "picture") and given.lora is None:
        parser.error(f"{given.what} needs --lora")
    if given.what == "goals":
        reached = goals(json.loads(given.out.read_text(encoding="utf-8")))
        for sentence, good in reached:
            print(f"{'reached' if good else 'MISSED '}  {sentence}")
        return 0 if all(good for _, good in reached) else 1
    if given.what == "picture":
        gallery_picture(Gallery(given.miniature, given.lora), given.picture)
    elif given.what == "identity":
        known = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
        for part in measure(Gallery(given.miniature, given.lora), given.seeds, known.get("identity", {})):
            save(given.out, "identity", part)
    else:
        rows = count_flops() if given.what == "flops" else wall_clock(given.miniature, given.size, given.repeats)
        save(given.out, given.what, {"torch": torch.__version__, "rows": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
