"""Tables of the README, generated from benchmarks/results/*.json and never typed.

python benchmarks/tables.py            write them between `<!-- table:NAME -->` and `<!-- /table:NAME -->`
python benchmarks/tables.py --check    exit status 1 when README.md is not what the results say
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"(<!-- table:(\w+) -->\n)(.*?)(<!-- /table:\2 -->)", re.DOTALL)
METHODS = {
    "adamw-50": "AdamW-50",
    "lbfgs-50": "LBFGS-50",
    "gradient-fusion": "closed form",
    "contrastive": "contrastive",
}


def merge_speed(result: dict[str, Any]) -> str:
    """One line per model and N: the time of all layer families, the mean residual and the largest peak memory."""
    lines = [
        "| layers of | LoRAs | "
        + " | ".join(f"{title}: s / residual / MiB" for title in METHODS.values())
        + " | faster |",
        "|---" * (len(METHODS) + 3) + "|",
    ]
    rows = result["rows"]
    for statistics in dict.fromkeys(row["statistics"] for row in rows):
        for count in sorted({row["n"] for row in rows if row["statistics"] == statistics}):
            cells, seconds = [], {}
            for method in METHODS:
                mine = [r for r in rows if (r["statistics"], r["n"], r["method"]) == (statistics, count, method)]
                seconds[method] = sum(row["seconds"] for row in mine)
                residual = sum(row["residual"] for row in mine) / len(mine)
                peak = max(row["peak_memory_mib"] for row in mine)
                cells.append(f"{_short(seconds[method])} / {residual:.4f} / {peak:.0f}")
            factor = min(seconds["adamw-50"], seconds["lbfgs-50"]) / seconds["gradient-fusion"]
            lines.append(f"| {statistics} | {count} | {' | '.join(cells)} | {factor:.0f} x |")
    return "\n".join(lines) + "\n"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {"merge_speed": merge_speed}


def render(text: str, results: Path) -> str:
    """The text with every marked table replaced; a table whose result or renderer is missing stays as it is."""

    def table(match: re.Match[str]) -> str:
        name, file = match[2], results / f"{match[2]}.json"
        if name not in TABLES or not file.exists():
            return match[0]
        return match[1] + TABLES[name](json.loads(file.read_text())) + match[4]

    return MARKED.sub(table, text)


def _short(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 when a table is stale")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args(arguments)
    before = given.readme.read_text(encoding="utf-8")
    after = render(before, given.results)
    if given.check:
        if before != after:
            print(f"{given.readme.name} is stale: run python benchmarks/tables.py", file=sys.stderr)
        return int(before != after)
    given.readme.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
