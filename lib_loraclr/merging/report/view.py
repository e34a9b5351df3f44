"""The report as one page without scripts and without a network: what templates/report.html shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lib_loraclr.charts import dot_plot, heat_map, line
from lib_loraclr.html import memory_text, percent, render, time_text

LOW_KEPT = 0.5  # a concept of which less is kept is marked
INPUT_FIELDS = ("name", "file", "type", "rank", "weight", "te_weight", "trigger", "class_word")


def render_html(report: Mapping[str, Any]) -> str:
    """The page for the JSON form of a report."""
    names = report["overlap"]["names"]
    return render(
        "report.html",
        report=report,
        facts=_facts(report),
        concepts=_concepts(report),
        inputs=[(*(item[field] for field in INPUT_FIELDS), str(item["sha256"])[:12]) for item in report["inputs"]],
        overlap=heat_map(
            "Interference of every pair of LoRAs", names, names, report["overlap"]["matrix"], low=-0.2, high=1
        ),
        kept_by=_kept_maps(report, names),
        variants=_variants(report["variants"], names),
        loss=line("Objective by step", report["solver"]["loss"]) if "loss" in report["solver"] else "",
        times=[(phase, float(seconds)) for phase, seconds in report["seconds"].items()],
        recipe=json.dumps(report["recipe"], indent=2, ensure_ascii=False),
    )


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of what is said first."""
    facts = [("layers", str(report["layers"]))]
    if report["ranks"]:
        low, high = report["ranks"]["min"], report["ranks"]["max"]
        facts.append(("rank of a layer", str(low) if low == high else f"{low} to {high}"))
    kept = [concept["kept"] for concept in report["concepts"] if concept["kept"] is not None]
    if kept:
        facts += [("kept on average", percent(sum(kept) / len(kept))), ("kept at worst", percent(min(kept)))]
    total, peak = time_text(report["seconds"].get("total", 0)), memory_text(report["peak_memory_mib"])
    return [*facts, ("total", total), ("peak memory", peak)]


def _concepts(report: Mapping[str, Any]) -> dict[str, Any]:
    """The table of fidelity; `low` marks concepts of which little is kept."""
    fields = ["name", "kept", "nearest_other", "separation", "drift"]
    if not report["by_prediction"]:
        fields.append("accuracy")
    concepts = report["concepts"]
    return {
        "head": ["concept", *(field.replace("_", " ") for field in fields[1:])],
        "rows": [[concept[field] for field in fields] for concept in concepts],
        "low": [concept["kept"] is not None and concept["kept"] < LOW_KEPT for concept in concepts],
        "held_out": all(concept["held_out"] for concept in concepts),
    }


def _kept_maps(report: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Title -> heat map, for groups that have layers."""
    maps = {"Kept by block": report["kept_by_block"], "Kept by kind of layer": report["kept_by_kind"]}
    return {
        title: heat_map(title, names, data["groups"], data["kept"], low=0, high=1)
        for title, data in maps.items()
        if data["groups"]
    }


def _variants(variants: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Chart and rows of the methods side by side; empty without any."""
    if not variants:
        return {}
    series = [(v["label"], [concept["kept"] for concept in v["concepts"]]) for v in variants]
    return {
        "chart": dot_plot("Kept per concept and method", names, series),
        "rows": [
            (
                v["label"],
                v["mean_kept"],
                v["worst_kept"],
                *(_mean(v["concepts"], field) for field in ("separation", "drift")),
            )
            for v in variants
        ],
    }


def _mean(concepts: Sequence[Mapping[str, Any]], field: str) -> float | None:
    values = [concept[field] for concept in concepts if concept[field] is not None]
    return sum(values) / len(values) if values else None
