"""The report as one page without scripts and without a network; every text from outside is escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lib_loraclr.merging.report.charts import dot_plot, heat_map, line

STYLE = """
:root{color-scheme:light dark;--ink:#1c2128;--soft:#5b6572;--page:#fff;--card:#f5f6f8;--rule:#d5dae1;
--m0:#0b5fa5;--m1:#b35900;--m2:#00796b;--m3:#8b3a8f;--m4:#b3203c;--m5:#5d7a00}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa5b4;--page:#14171c;--card:#1d2229;--rule:#39424e;
--m0:#6db3f2;--m1:#f0a35e;--m2:#57c7b6;--m3:#d793db;--m4:#ff8fa3;--m5:#b5d44c}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:70rem;padding:2rem 1.25rem 4rem;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.5rem;margin:0 0 .25rem}h2{font-size:1.1rem;margin:2.2rem 0 .4rem}p{max-width:46rem;margin:.3rem 0 .8rem}
.soft{color:var(--soft)}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{padding:.3rem .7rem;text-align:left;
border-bottom:1px solid var(--rule);overflow-wrap:anywhere}th{font-weight:600;color:var(--soft);white-space:nowrap}
td.n,th.n{text-align:right}
tr.low td:first-child::before{content:"▲ ";color:var(--m1)}
.facts{display:flex;flex-wrap:wrap;gap:.6rem;margin:1rem 0}
.facts div{background:var(--card);border:1px solid var(--rule);
border-radius:8px;padding:.5rem .9rem}
.facts b{display:block;font-size:1.15rem}.facts span{color:var(--soft);font-size:.85rem}
svg{max-width:none;display:block}svg text{font:12px system-ui,sans-serif;fill:var(--ink)}svg .axis{fill:var(--soft)}
svg .end{text-anchor:end}svg .mid,svg .cell{text-anchor:middle}svg .cell{font-size:11px}
svg text[fill="#ffffff"]{fill:#fff}
svg text[fill="#111111"]{fill:#111}
svg .empty{fill:var(--card);stroke:var(--rule)}svg .grid{stroke:var(--rule);fill:none}
svg .line{stroke:var(--m0);stroke-width:2;fill:none}.mark{stroke:var(--page);stroke-width:1}
.m0{fill:var(--m0)}.m1{fill:var(--m1)}.m2{fill:var(--m2)}.m3{fill:var(--m3)}
.m4{fill:var(--m4)}.m5{fill:var(--m5)}
pre{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:.8rem;
overflow-x:auto;font-size:12.5px}
"""
LOW_KEPT = 0.5
BEFORE = " Of the solution before distillation, which goes other ways through the layers to the same pictures."


def render_html(report: Mapping[str, Any]) -> str:
    """The page for the JSON form of a report."""
    names = report["overlap"]["names"]
    body = [
        f"<h1>{escape(report['out'])}</h1>",
        _subtitle(report),
        _facts(report),
        _warnings(report["warnings"]),
        _concepts(report),
        _inputs(report["inputs"]),
        _section(
            "Interference before the merge",
            "Cosine between the updates of two LoRAs: 0 is unrelated, 1 the same change, negative the opposite one. "
            "The larger the value off the diagonal, the more a plain sum of the two bleeds.",
            heat_map(
                "Interference of every pair of LoRAs", names, names, report["overlap"]["matrix"], low=-0.2, high=1
            ),
        ),
        _kept_maps(report, names),
        _variants(report["variants"], names),
        _solver(report["solver"]),
        _costs(report),
        "<h2>Recipe</h2><p>Save it as a file to repeat the merge; the merged file's metadata holds it too.</p>",
        f"<pre>{escape(json.dumps(report['recipe'], indent=2, ensure_ascii=False))}</pre>",
    ]
    title = f"Merge report: {escape(report['out'])}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _subtitle(report: Mapping[str, Any]) -> str:
    base = report["checkpoint"] or "no checkpoint"
    text = f"{len(report['inputs'])} LoRAs merged with {report['method']} on {base} by {report['program']}"
    return f'<p class="soft">{escape(text)}</p>'


def _section(title: str, text: str, content: str) -> str:
    return f'<h2>{escape(title)}</h2><p>{escape(text)}</p><div class="scroll">{content}</div>'


def _facts(report: Mapping[str, Any]) -> str:
    kept = [concept["kept"] for concept in report["concepts"] if concept["kept"] is not None]
    facts = [("layers", str(report["layers"]))]
    if report["ranks"]:
        low, high = report["ranks"]["min"], report["ranks"]["max"]
        facts.append(("rank of a layer", str(low) if low == high else f"{low} to {high}"))
    if kept:
        facts += [("kept on average", f"{sum(kept) / len(kept):.0%}"), ("kept at worst", f"{min(kept):.0%}")]
    facts += [
        ("total", _time(report["seconds"].get("total", 0))),
        ("peak memory", f"{report['peak_memory_mib']:.0f} MiB"),
    ]
    cards = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in facts)
    return f'<div class="facts">{cards}</div>'


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def _warnings(warnings: Sequence[Mapping[str, Any]]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(w['message'])}{_where(w)}</li>" for w in warnings)
    return f"<h2>Notes</h2><ul>{items}</ul>"


def _where(warning: Mapping[str, Any]) -> str:
    parts = [str(warning[name]) for name in ("file", "key") if warning.get(name)]
    return f' <span class="soft">{escape(", ".join(parts))}</span>' if parts else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], low: Sequence[bool] = ()) -> str:
    numeric = [all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(head))]
    mark = [' class="n"' if number else "" for number in numeric]
    top = "".join(f"<th{mark[i]}>{escape(name)}</th>" for i, name in enumerate(head))
    lines = []
    for index, row in enumerate(rows):
        cells = "".join(f"<td{mark[i]}>{_value(value)}</td>" for i, value in enumerate(row))
        flag = ' class="low"' if index < len(low) and low[index] else ""
        lines.append(f"<tr{flag}>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _value(value: Any) -> str:
    if value is None or value == "":
        return "&ndash;"
    return f"{value:.3f}" if isinstance(value, float) else escape(str(value))


def _concepts(report: Mapping[str, Any]) -> str:
    concepts = report["concepts"]
    if not concepts:
        return (
            "<h2>Fidelity</h2><p>This method works on the files alone, so nothing was measured on the model. "
            "A data-driven method with a checkpoint fills this section.</p>"
        )
    where = "prompts that the solver did not see" if all(c["held_out"] for c in concepts) else "the captured prompts"
    learned = report["by_prediction"]
    what = "effect on what the model predicts" if learned else "response in the layers"
    text = (
        f"Measured on {where}. Kept: the share of a LoRA's own {what} that the merge reproduces (1 is all, 0 none). "
        "Nearest other: the wrong LoRA that the merge resembles most on this concept's pictures; separation: how much "
        "farther away it is than the right one (negative: nearer). Drift: what the merge changes on neutral prompts."
    )
    fields = ["name", "kept", "nearest_other", "separation", "drift"]
    if not learned:
        text += " Accuracy: the share of the response in layers where the right LoRA is nearest."
        fields.append("accuracy")
    head = [field.replace("_", " ") if field != "name" else "concept" for field in fields]
    rows = [tuple(concept[field] for field in fields) for concept in concepts]
    low = [concept["kept"] is not None and concept["kept"] < LOW_KEPT for concept in concepts]
    note = "<p class='soft'>▲ less than half is kept.</p>" if any(low) else ""
    return f"<h2>Fidelity</h2><p>{escape(text)}</p>{_table(head, rows, low)}{note}"


def _inputs(inputs: Sequence[Mapping[str, Any]]) -> str:
    head = ("name", "file", "type", "rank", "weight", "text weight", "trigger", "class word", "sha256")
    fields = ("name", "file", "type", "rank", "weight", "te_weight", "trigger", "class_word")
    rows = [(*(item[field] for field in fields), str(item["sha256"])[:12]) for item in inputs]
    return "<h2>Inputs</h2>" + _table(head, rows)


def _kept_maps(report: Mapping[str, Any], names: Sequence[str]) -> str:
    parts = []
    before = BEFORE if report["by_prediction"] else ""
    for field, title in (("kept_by_block", "block"), ("kept_by_kind", "kind of layer")):
        data = report[field]
        if data["groups"]:
            chart = heat_map(f"Kept by {title}", names, data["groups"], data["kept"], low=0, high=1)
            text = "1: the LoRA's response is all there; 0: nothing is; a dash: the LoRA leaves these layers alone."
            parts.append(_section(f"Kept by {title}", text + before, chart))
    return "".join(parts)


def _variants(variants: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    if not variants:
        return ""
    series = [(v["label"], [concept["kept"] for concept in v["concepts"]]) for v in variants]
    chart = dot_plot("Kept per concept and method", names, series)
    head = ("method", "mean kept", "worst kept", "mean separation", "drift")
    rows = [
        (
            v["label"],
            v["mean_kept"],
            v["worst_kept"],
            *(_mean(v["concepts"], f) for f in ("separation", "drift")),
        )
        for v in variants
    ]
    text = "Other ways to merge the same inputs, solved from the same statistics and measured on the same prompts."
    return _section("Methods side by side", text, chart) + _table(head, rows)


def _mean(concepts: Sequence[Mapping[str, Any]], field: str) -> float | None:
    values = [concept[field] for concept in concepts if concept[field] is not None]
    return sum(values) / len(values) if values else None


def _solver(solver: Mapping[str, Any]) -> str:
    if "loss" not in solver:
        return ""
    active, start = solver.get("active_hinges"), solver.get("active_hinges_at_start")
    text = "Mean of the layers' objectives by descent step; it can only fall."
    if active is not None and start is not None:
        text += f" Negatives closer than the margin: {start:.0%} at the start, {active:.0%} at the end."
    return _section("Contrastive solver", text, line("Objective by step", solver["loss"]))


def _costs(report: Mapping[str, Any]) -> str:
    rows = [(name, float(value)) for name, value in report["seconds"].items()]
    return "<h2>Time</h2>" + _table(("phase", "seconds"), rows)
