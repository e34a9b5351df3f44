"""What a whole merge costs, as a user runs it: first, again, with another margin or rank, with 2 and with 12 LoRAs.

    python benchmarks/whole_merge.py [--out FILE] [--loras 8]

Every merge of the miniature's LoRAs is a process of its own, the command line with `--json`. Rows of the result:
{run, n, method, wall_seconds, seconds, peak_memory_mib, sha256}; `seconds` and `peak_memory_mib` are what the command
reports (start of Python and imports left out of the seconds). `wall_seconds` is the process from start to end.
`ratios` holds what follows from them: how much faster a merge from cached statistics is, and the memory of 12 to 2.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FEW, MANY = 2, 12
SHORT = ("--option", "distill=2")  # more steps take time, not memory


def merge(name: str, concepts: Sequence[dict[str, Any]], folder: Path, cache: str, *extra: str) -> dict[str, Any]:
    """One run of the command line; raises RuntimeError with its message when it fails."""
    out = folder / name / "merged.safetensors"  # one name for all: it stands in the file
    out.parent.mkdir()
    command = [sys.executable, "-m", "lib_loraclr", "merge", "--json", "--device", "cpu", "--out", str(out)]
    command += [] if "--method" in extra else ["--method", "contrastive"]  # the one with a margin
    command += ["--checkpoint", str(ROOT / "miniature" / "miniature.safetensors"), "--cache", str(folder / cache)]
    for concept in concepts:
        command += ["--lora", str(ROOT / "miniature" / concept["file"])]
        command += ["--trigger", concept["trigger"], "--class-word", concept["class_word"]]
    start = time.perf_counter()
    done = subprocess.run([*command, *extra], cwd=ROOT, capture_output=True, text=True)
    wall = time.perf_counter() - start
    answer = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"ok": False, "error": done.stderr[-2000:]}
    if not answer["ok"]:
        raise RuntimeError(f"{name}: {answer['error']}")
    row = {
        "run": name,
        "n": len(concepts),
        "method": answer["method"],
        "wall_seconds": round(wall, 2),
        "seconds": answer["seconds"],
        "peak_memory_mib": answer["peak_memory_mib"],
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
    }
    print(f"{name:12} N={row['n']:<3} {wall:7.1f} s  {row['peak_memory_mib']:7.0f} MiB", file=sys.stderr, flush=True)
    return row


def measure(concepts: Sequence[dict[str, Any]], count: int) -> dict[str, Any]:
    """All rows and the ratios."""
    with tempfile.TemporaryDirectory() as name:
        folder, some = Path(name), concepts[:count]
        rows = [
            merge("first", some, folder, "a"),
            merge("other cache", some, folder, "b"),
            merge("again", some, folder, "a"),
            merge("margin", some, folder, "a", "--option", "margin=1.2"),
            merge("rank", some, folder, "a", "--rank", "16"),
            merge("few", concepts[:FEW], folder, "c", "--method", "gradient-fusion", *SHORT),
            merge("many", concepts[:MANY], folder, "d", "--method", "gradient-fusion", *SHORT),
        ]
    by_name = {row["run"]: row for row in rows}
    first = by_name["first"]

    def faster(name: str, field: str = "") -> float:
        def seconds(row: dict[str, Any]) -> float:
            return row["seconds"]["total"] if field == "total" else row["wall_seconds"]

        return round(seconds(first) / seconds(by_name[name]), 2)

    ratios = {
        "margin_faster": faster("margin", "total"),
        "rank_faster": faster("rank", "total"),
        "margin_faster_wall": faster("margin"),
        "rank_faster_wall": faster("rank"),
        "memory_many_to_few": round(by_name["many"]["peak_memory_mib"] / by_name["few"]["peak_memory_mib"], 3),
        "identical_again": by_name["again"]["sha256"] == first["sha256"],
        "identical_without_cache": by_name["other cache"]["sha256"] == first["sha256"],
    }
    return {"rows": rows, "ratios": ratios}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loras", type=int, default=8, metavar="N", help="how many LoRAs (default 8)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "whole_merge.json")
    given = parser.parse_args(arguments)
    known = json.loads((ROOT / "miniature" / "concepts.json").read_text(encoding="utf-8"))["concepts"]
    result = measure([concept for concept in known if concept["kind"] == "character"], given.loras)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["ratios"], indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
