"""Short names of the variants of merging, for tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib_loraclr.core.methods import METHODS

NAMES = {method.name: method.label for method in METHODS.values()} | {
    "single": "single LoRAs", "gradient-fusion-lbfgs": "gradient fusion, LBFGS", "loraclr": "LoRACLR",
    "orthogonal-adaptation": "orthogonal adaptation",
}  # fmt: skip
SHORT = {
    ("gradient-fusion", "published True"): "gradient fusion, as published",
    ("gradient-fusion", "preset distilled"): "gradient fusion, distilled (default)",
    ("contrastive", "preset distilled"): "contrastive, distilled",
    ("loraclr", "precision fp32"): "LoRACLR, float32",
    ("loraclr", "precision fp16"): "LoRACLR, as its program runs",
}
VARIANT = ("prior_preservation", "weight")  # variants with these options are left out of the main tables


def label(method: str, options: Mapping[str, Any]) -> str:
    """A method with its options in a few words."""
    details = ", ".join(f"{name} {value}" for name, value in options.items())
    plain = NAMES.get(method, method)
    if not details:
        return plain
    return SHORT.get((method, details)) or f"{plain} ({details})"


def is_main(row: Mapping[str, Any]) -> bool:
    """Whether a row belongs to a variant that main tables and figures show."""
    return not any(name in row["options"] for name in VARIANT)


def calibration_of(details: Mapping[str, Any]) -> Mapping[str, Any]:
    """The embedder's calibration in fidelity_details.json, which version 0.1.0 wrote as `stick`."""
    return details.get("embedder_calibration", details.get("stick", {}))
