"""What the painted canvases of `regional_identity.py` say: rates and cosines by variant and number of subjects."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

VARIANTS = ("plain prompt", "regions", "regions, isolated", "regions, solo", "single")
SUBJECTS = (2, 3)


class Seen(NamedTuple):
    """Whom the embedder saw, over all canvases of one variant and number of subjects."""

    each: float  # share of subjects that are recognised as themselves
    everyone: float  # share of canvases in which all of them are
    cosine: float  # mean, to the wanted character


def identity_table(results: Mapping[str, Any]) -> dict[int, dict[str, Seen]]:
    """Number of subjects -> variant that was measured -> what was seen; empty without a measurement."""
    canvases = results.get("identity", {}).get("canvases", ())
    table: dict[int, dict[str, Seen]] = {}
    for count in SUBJECTS if canvases else ():
        table[count] = {}
        for variant in VARIANTS:
            mine = [one for one in canvases if (one["subjects"], one["way"]) == (count, variant)]
            if not mine:
                continue
            right = [[a == b for a, b in zip(one["wanted"], one["seen"], strict=True)] for one in mine]
            cosine = [value for one in mine for value in one["cosine"]]
            table[count][variant] = Seen(
                statistics.fmean(one for canvas in right for one in canvas),
                statistics.fmean(all(canvas) for canvas in right),
                statistics.fmean(cosine),
            )
    return table
