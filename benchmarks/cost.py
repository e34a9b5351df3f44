"""What a merge asks of the model, by preset and number of LoRAs, from the cost model that the progress bar uses.

    python benchmarks/cost.py

Writes benchmarks/results/cost.json: `calls`, rows {preset, n, watch, draw, learn, evaluate, total} in calls of the
UNet for one picture at one step, with nothing in the cache and default options; a backward pass counts as two. And
`measured`, seconds and memory of whole merges of the miniature on a CPU, taken from whole_merge.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib_loraclr.app.cost import MergeCost
from lib_loraclr.merging.config import config_of
from lib_loraclr.merging.options import MergeOptions, parse_merge_options
from lib_loraclr.options import fields_of

RESULTS = Path(__file__).resolve().parent / "results"
COUNTS = (1, 2, 4, 8, 12)
RUNS = {"first": "first merge", "margin": "again with another margin", "rank": "again with another rank"}


def calls(preset: str, count: int) -> dict[str, Any]:
    """Calls of one merge by what they are for: watch, draw, learn, evaluate, and in total."""
    loras = [f"{number}.safetensors" for number in range(count)]
    config = config_of(parse_merge_options({"lora": loras, "out": "merged.safetensors", "preset": preset}))
    return {"preset": preset, "n": count, **MergeCost.of(config).rows()}


def result() -> dict[str, Any]:
    """All of cost.json."""
    presets = [name for name in fields_of(MergeOptions)["preset"].choices if name != "instant"]
    whole = json.loads((RESULTS / "whole_merge.json").read_text(encoding="utf-8"))["rows"]
    measured = [
        {"run": RUNS[row["run"]], "n": row["n"], "seconds": row["seconds"]["total"], "mib": row["peak_memory_mib"]}
        for row in whole
        if row["run"] in RUNS
    ]
    return {"calls": [calls(preset, count) for preset in presets for count in COUNTS], "measured": measured}


if __name__ == "__main__":
    (RESULTS / "cost.json").write_text(json.dumps(result(), indent=1) + "\n", encoding="utf-8")
