"""What the painted canvases of `regional_identity.py` say: rates and cosines by way and number of subjects."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

WAYS = ("plain prompt", "regions", "regions, isolated", "single")
SUBJECTS = (2, 3)


def identity_rates(results: Mapping[str, Any]) -> dict[int, dict[str, float]]:
    """Number of subjects -> way -> share of subjects that are recognised as themselves; empty without a measurement."""
    return {count: {way: rate for way, (rate, _) in ways.items()} for count, ways in identity_table(results).items()}


def identity_table(results: Mapping[str, Any]) -> dict[int, dict[str, tuple[float, float]]]:
    """Number of subjects -> way -> (share recognised as themselves, mean cosine to the wanted character)."""
    canvases = results.get("identity", {}).get("canvases", ())
    table: dict[int, dict[str, tuple[float, float]]] = {}
    for count in SUBJECTS if canvases else ():
        table[count] = {}
        for way in WAYS:
            mine = [one for one in canvases if (one["subjects"], one["way"]) == (count, way)]
            right = [a == b for one in mine for a, b in zip(one["wanted"], one["seen"], strict=True)]
            cosine = [value for one in mine for value in one["cosine"]]
            table[count][way] = statistics.fmean(right), statistics.fmean(cosine)
    return table
