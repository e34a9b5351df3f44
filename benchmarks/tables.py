"""Tables of README and docs, generated from benchmarks/results/*.json and never typed.

python benchmarks/tables.py            write them between `<!-- table:NAME -->` and `<!-- /table:NAME -->`
python benchmarks/tables.py --check    exit status 1 when a file is not what the results say
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.labels import calibration_of, is_main, label
from benchmarks.regional_rates import identity_table

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
    for group in dict.fromkeys(row["statistics"] for row in rows):
        for count in sorted({row["n"] for row in rows if row["statistics"] == group}):
            cells, seconds = [], {}
            for method in METHODS:
                mine = [r for r in rows if (r["statistics"], r["n"], r["method"]) == (group, count, method)]
                seconds[method] = sum(row["seconds"] for row in mine)
                residual = sum(row["residual"] for row in mine) / len(mine)
                peak = max(row["peak_memory_mib"] for row in mine)
                cells.append(f"{_short(seconds[method])} / {residual:.4f} / {peak:.0f}")
            factor = min(seconds["adamw-50"], seconds["lbfgs-50"]) / seconds["gradient-fusion"]
            lines.append(f"| {group} | {count} | {' | '.join(cells)} | {factor:.0f} x |")
    return "\n".join(lines) + "\n"


Rows = Sequence[Mapping[str, Any]]
MEASURES = (
    ("text", "text"), ("image", "image"), ("identity_cosine", "identity"), ("identity_rate", "recognised"),
    ("worst_identity_cosine", "worst identity"), ("drift", "drift"),
)  # fmt: skip


def fidelity(rows: Rows) -> str:
    """One line per main variant: identity, mean and standard deviation over draws, by number of concepts."""
    counts = sorted({row["n"] for row in rows})
    return _table(
        ["method", *(f"N = {n}" for n in counts)],
        (
            [label(*variant), *(_spread([r["identity_cosine"] for r in mine if r["n"] == n]) for n in counts)]
            for variant, mine in _by_variant(row for row in rows if is_main(row))
        ),
    )


def fidelity_columns(rows: Rows) -> str:
    """One line per main variant at the largest N: every measure, mean over draws."""
    largest = max((row["n"] for row in rows), default=0)
    chosen = [row for row in rows if row["n"] == largest and is_main(row)]
    return _measures(f"method, N = {largest}", ((label(*variant), mine) for variant, mine in _by_variant(chosen)))


def fidelity_variants(rows: Rows) -> str:
    """One line per variant (anchor, rounds, balance) at the largest N that has them."""
    variants = [row for row in rows if not is_main(row)]
    largest = max((row["n"] for row in variants), default=0)
    chosen = [row for row in variants if row["n"] == largest]
    return _measures(f"method, N = {largest}", ((label(*variant), mine) for variant, mine in _by_variant(chosen)))


def combinations(rows: Rows) -> str:
    """One line per combination and variant, mean over its pairs."""
    lines = [
        (f"{name}: {label(*variant)}", mine)
        for name in dict.fromkeys(row["combination"] for row in rows)
        for variant, mine in _by_variant(row for row in rows if row["combination"] == name)
    ]
    return _measures("combination", lines)


def ablation(rows: Rows) -> str:
    """One line per value of every parameter, mean over draws."""
    values = dict.fromkeys((row["parameter"], json.dumps(row["value"])) for row in rows)
    lines = []
    for parameter, value in values:
        mine = [row for row in rows if (row["parameter"], json.dumps(row["value"])) == (parameter, value)]
        name = parameter if value == "null" else f"{parameter} = {json.loads(value)}"
        lines.append((name, mine))
    return _measures("changed", lines)


def parts(rows: Rows) -> str:
    """One line per part of the layers that is the merge's, the rest each single LoRA's; two columns per variant."""
    variants, shown = _by_variant(rows), (MEASURES[2], MEASURES[4])
    head = ["from the merge", *(f"{label(*variant)}: {title}" for variant, _ in variants for _, title in shown)]
    lines: list[list[str]] = []
    for part in dict.fromkeys(row["part"] for row in rows):
        mine = [next((row for row in found if row["part"] == part), None) for _, found in variants]
        lines.append([part, *(f"{row[measure]:.3f}" if row else "-" for row in mine for measure, _ in shown)])
    return _table(head, lines)


def embedder_calibration(details: Mapping[str, Any]) -> str:
    """The embedder's own errors."""
    return _table(
        ["measuring stick", "value"],
        (
            [f"{group.replace('_', ' ')}: {name.replace('_', ' ')}", f"{value:g}"]
            for group, values in calibration_of(details).items()
            for name, value in values.items()
        ),
    )


def _by_variant(rows: Iterable[Mapping[str, Any]]) -> list[tuple[tuple[str, dict[str, Any]], list[Mapping[str, Any]]]]:
    """((method, options), rows), in the order of the rows."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(json.dumps([row["method"], row["options"]]), []).append(row)
    return [((mine[0]["method"], mine[0]["options"]), mine) for mine in found.values()]


def _measures(first: str, lines: Iterable[tuple[str, Rows]]) -> str:
    head = [first, *(title for _, title in MEASURES)]
    return _table(head, ([name, *(_spread([row[m] for row in mine]) for m, _ in MEASURES)] for name, mine in lines))


def _spread(values: Sequence[float | None]) -> str:
    """Mean, and standard deviation where there are several."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.fmean(known):.3f}"
    return f"{mean} ± {statistics.stdev(known):.3f}" if len(known) > 1 else mean


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *body]) + "\n"


def demo(result: Mapping[str, Any]) -> str:
    """One line per variant of the demo's grid: identity with its 95 % interval, and the share nearest to their own."""
    lines = [
        [name, f"{variant['cosine']:.3f} ± {variant['half_interval']:.3f}", f"{variant['nearest']:.0%}"]
        for name, variant in result.get("variants", result.get("ways", {})).items()
    ]
    pictures = result["pictures_per_concept"]
    return _table(
        [f"{len(result['concepts'])} characters, {pictures} pictures each", "identity", "own is nearest"], lines
    )


def regional_cost(result: Mapping[str, Any]) -> str:
    """One line per layout and case: extra FLOPs of a step, and the time of a step in units of the plain one."""
    rows, timed = result.get("flops", {}).get("rows", ()), result.get("clock", {}).get("rows", ())
    extra = {(row["family"], row["layout"], row["case"]): row["extra_percent"] for row in rows}
    ratio = {row["layout"]: row["ratio"] for row in timed}
    lines = dict.fromkeys((layout, case) for _, layout, case in extra)
    if not lines:
        return ""
    return _table(
        ["regions", "FLOPs SD1.5", "FLOPs SDXL", "time a step, miniature"],
        (
            [
                f"{layout}, {case}",
                *(f"{extra[family, layout, case]:+.1f} %" for family in ("sd15", "sdxl")),
                f"{ratio[f'{layout}, {case}']:.2f} x" if f"{layout}, {case}" in ratio else "-",
            ]
            for layout, case in lines
        ),
    )


def regional_identity(result: Mapping[str, Any]) -> str:
    """One line per variant: shares of subjects and of pictures recognised, and cosine, by number of subjects."""
    table = identity_table(result)
    if not table:
        return ""
    variants = [variant for variant in table[min(table)] if all(variant in seen for seen in table.values())]
    return _table(
        [f"{result['identity']['seeds']} seeds", *(f"{count} subjects: each / everyone / identity" for count in table)],
        (
            [
                variant,
                *(f"{s.each:.0%} / {s.everyone:.0%} / {s.cosine:.3f}" for s in (table[c][variant] for c in table)),
            ]
            for variant in variants
        ),
    )


def cost(result: Mapping[str, Any]) -> str:
    """One line per preset: calls of the model by number of LoRAs. Then one per measured merge: seconds and memory."""
    rows = result["calls"]
    counts = sorted({row["n"] for row in rows})
    calls = {(row["preset"], row["n"]): row["total"] for row in rows}
    presets = dict.fromkeys(row["preset"] for row in rows)
    head = ["preset: calls of the model", *(f"{count} LoRA{'s' * (count > 1)}" for count in counts)]
    expected = _table(head, ([name, *(f"{calls[name, count]:,}" for count in counts)] for name in presets))
    timed = [
        [row["run"], str(row["n"]), f"{row['seconds']:.0f} s", f"{row['mib']:.0f} MiB"] for row in result["measured"]
    ]
    return expected + "\n" + _table(["measured: miniature, CPU", "LoRAs", "time", "memory"], timed)


TABLES: dict[str, Callable[[Any], str]] = {
    "demo": demo, "cost": cost, "merge_speed": merge_speed, "fidelity": fidelity, "fidelity_columns": fidelity_columns,
    "fidelity_variants": fidelity_variants, "combinations": combinations, "ablation": ablation,
    "embedder_calibration": embedder_calibration,
    "parts": parts, "regional_cost": regional_cost, "regional_identity": regional_identity,
}  # fmt: skip
FILES = {"fidelity_columns": "fidelity", "fidelity_variants": "fidelity", "embedder_calibration": "fidelity_details",
         "regional_cost": "regional", "regional_identity": "regional"}  # fmt: skip
PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("evaluation", "method", "regional")))


def render(text: str, results: Path) -> str:
    """The text with every marked table replaced; a table whose result or renderer is missing stays as it is."""

    def table(match: re.Match[str]) -> str:
        name = match[2]
        file = results / f"{FILES.get(name, name)}.json"
        if name not in TABLES or not file.exists():
            return match[0]
        return match[1] + TABLES[name](json.loads(file.read_text(encoding="utf-8"))) + match[4]

    return MARKED.sub(table, text)


def _short(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 when a table is stale")
    parser.add_argument("--readme", type=Path, nargs="+", default=PAGES, help="files with marked tables")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args(arguments)
    status = 0
    for page in given.readme:
        before = page.read_text(encoding="utf-8")
        after = render(before, given.results)
        if given.check and before != after:
            print(f"{page.name} is stale: run python benchmarks/tables.py", file=sys.stderr)
            status = 1
        elif not given.check:
            page.write_text(after, encoding="utf-8")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
