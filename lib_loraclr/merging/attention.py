"""The attention metric of a merge's query and key layers: which belong together, and what the model says of them.

Two layers are partners when their outputs meet in the scores of one attention: to_q and to_k, q_proj and k_proj.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from lib_loraclr.core.attention import AttentionMetric
from lib_loraclr.core.deltas import LayerShape
from lib_loraclr.core.problem import OutputMetric, Statistics
from lib_loraclr.merging.inputs import Concept
from lib_loraclr.model import DiffusionHost

PAIRS = (("to_q", "to_k"), ("q_proj", "k_proj"))
_OTHER = {**dict(PAIRS), **{key: query for query, key in PAIRS}}


def partner_of(layer: str) -> str | None:
    """The layer whose output this one's is multiplied with, None for a layer that is neither query nor key."""
    stem, _, last = layer.rpartition(".")
    return f"{stem}.{_OTHER[last]}" if last in _OTHER else None


def partners(layers: Iterable[str]) -> list[str]:
    """The partners of all layers that have one, sorted: what a capture has to watch too."""
    return sorted({partner for layer in layers if (partner := partner_of(layer)) is not None})


@dataclass(frozen=True)
class AttentionMetrics:
    """Makes the metrics of one merge. `host` is asked for base weights when a layer is solved, not before."""

    host: DiffusionHost
    shapes: Mapping[str, LayerShape]
    concepts: Sequence[Concept]

    def of(self, layer: str, statistics: Mapping[str, Statistics]) -> tuple[OutputMetric | None, str]:
        """The metric, or None and why a query or key layer has none (empty for other layers)."""
        partner = partner_of(layer)
        if partner is None:
            return None, ""
        if partner not in self.shapes or self.shapes[partner].out_features != self.shapes[layer].out_features:
            return None, f"the model has no {partner} of the same width"
        heads = self.host.attention_heads(partner)
        if heads is None or self.shapes[partner].out_features % heads:
            return None, "the number of heads of its attention is not known"
        if partner not in statistics:
            return None, f"the inputs of {partner} were not watched"
        deltas = [concept.deltas.get(partner) for concept in self.concepts]
        return AttentionMetric(partial(self.host.base_weight, partner), heads, deltas, statistics[partner]), ""
