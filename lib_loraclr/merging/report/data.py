"""What a report says, as plain data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lib_loraclr.core.fidelity import ConceptFidelity, summarise
from lib_loraclr.core.merge import MergedLayer
from lib_loraclr.formats.lora_file import FileWarning
from lib_loraclr.merging.outcome import finite

REPORT_VERSION = 1


@dataclass(frozen=True)
class MethodVariant:
    """One way to merge the same inputs, measured on the same held-out statistics."""

    label: str
    method: str
    options: Mapping[str, Any]
    fidelity: Sequence[ConceptFidelity]

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """The JSON form, with mean and worst kept over the concepts."""
        kept = [item.kept for item in self.fidelity if item.kept is not None]
        return {
            "label": self.label,
            "method": self.method,
            "options": dict(self.options),
            "mean_kept": finite(sum(kept) / len(kept)) if kept else None,
            "worst_kept": finite(min(kept)) if kept else None,
            "concepts": [item.as_dict(names) for item in self.fidelity],
        }


@dataclass(frozen=True)
class MergeReport:
    """Everything the report shows. `layers` are the merged layers, `overlap` the interference before the merge.

    `concepts`: what is kept of each, in the model's predictions (`by_prediction`) or summed over its layers.
    """

    program: str
    out: str
    method: str
    options: Mapping[str, Any]
    recipe: Mapping[str, Any]
    checkpoint: str | None
    inputs: Sequence[Mapping[str, Any]]
    names: Sequence[str]
    layers: Mapping[str, MergedLayer]
    overlap: Sequence[Sequence[float]]
    concepts: Sequence[ConceptFidelity] = ()
    by_prediction: bool = False
    variants: Sequence[MethodVariant] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_mib: float = 0.0
    warnings: Sequence[FileWarning] = ()

    def as_json(self) -> dict[str, Any]:
        """The content of the JSON report."""
        return {
            "version": REPORT_VERSION,
            "program": self.program,
            "out": self.out,
            "method": self.method,
            "options": dict(self.options),
            "recipe": dict(self.recipe),
            "checkpoint": self.checkpoint,
            "inputs": [dict(item) for item in self.inputs],
            "concepts": [item.as_dict(self.names) for item in self.concepts],
            "by_prediction": self.by_prediction,
            "kept_by_block": self.kept_by(block_of, block_order),
            "kept_by_kind": self.kept_by(kind_of, KINDS.index),
            "overlap": {"names": list(self.names), "matrix": [[finite(v) for v in row] for row in self.overlap]},
            "variants": [variant.as_dict(self.names) for variant in self.variants],
            "solver": self.solver(),
            "layers": len(self.layers),
            "ranks": self.ranks(),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "peak_memory_mib": round(self.peak_memory_mib, 1),
            "warnings": [warning.as_dict() for warning in self.warnings],
        }

    def kept_by(self, group_of: Callable[[str], str], order: Callable[[str], Any]) -> dict[str, Any]:
        """`groups`, and `kept[concept][group]`: the share kept in a group's layers, None where the LoRA has none."""
        groups: dict[str, list[Sequence[ConceptFidelity]]] = {}
        for name, layer in self.layers.items():
            if layer.fidelity:
                groups.setdefault(group_of(name), []).append(layer.fidelity)
        names = sorted(groups, key=order)
        totals = [summarise(groups[name]) for name in names]
        kept = [[finite(total[i].kept) for total in totals] for i in range(len(self.names))] if names else []
        return {"groups": names, "kept": kept}

    def solver(self) -> dict[str, Any]:
        """What the layers' solvers said, pooled: mean loss by step, shares of active hinges."""
        histories = [layer.info["loss"] for layer in self.layers.values() if layer.info.get("loss")]
        result: dict[str, Any] = {}
        if histories:
            longest = max(map(len, histories))
            padded = [[*history, *[history[-1]] * (longest - len(history))] for history in histories]
            result["loss"] = [finite(sum(column) / len(column)) for column in zip(*padded, strict=True)]
        for name in ("active_hinges_at_start", "active_hinges"):
            shares = [float(layer.info[name]) for layer in self.layers.values() if name in layer.info]
            if shares:
                result[name] = finite(sum(shares) / len(shares))
        return result

    def ranks(self) -> dict[str, int]:
        """Smallest and largest rank of a layer, and their sum."""
        ranks = [layer.delta.rank for layer in self.layers.values()]
        return {"min": min(ranks), "max": max(ranks), "sum": sum(ranks)} if ranks else {}


# Which part of the model a layer belongs to, by its canonical name: two ways to cut, for the heat maps.
BLOCK = re.compile(r"unet\.(?:(down|up)_blocks\.(\d+)|(mid)_block)\.")


def block_of(layer: str) -> str:
    """`text`, `text 2`, `down 0` …, `mid`, `up 0` …, or `other`, in the order in which the model runs them."""
    if layer.startswith("text_encoder"):
        return "text 2" if layer.startswith("text_encoder_2") else "text"
    match = BLOCK.match(layer)
    if match is None:
        return "other"
    return "mid" if match.group(3) else f"{match.group(1)} {match.group(2)}"


def block_order(block: str) -> tuple[int, int]:
    """Sort key of `block_of`."""
    kind, _, number = block.partition(" ")
    return ("text", "down", "mid", "up", "other").index(kind), int(number or 0)


KINDS = ("text", "self q k", "self v out", "cross k v", "cross q out", "feed forward", "convolution", "other")


def kind_of(layer: str) -> str:
    """What the layer does: one of `KINDS`."""
    if layer.startswith("text_encoder"):
        return "text"
    if ".attn1." in layer:
        return "self q k" if layer.endswith(("to_q", "to_k")) else "self v out"
    if ".attn2." in layer:
        return "cross k v" if layer.endswith(("to_k", "to_v")) else "cross q out"
    if ".ff." in layer:
        return "feed forward"
    if "conv" in layer or "samplers" in layer or "proj_" in layer:
        return "convolution"
    return "other"
