"""PEFT's adapter configuration, where alpha of a diffusers LoRA is kept."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_METADATA_KEY = "lora_adapter_metadata"  # diffusers: JSON of "component.option" -> value
_SIDECAR = "adapter_config.json"  # PEFT: beside adapter_model.safetensors


@dataclass(frozen=True)
class AdapterConfig:
    """Options by component ("" for a file of one model)."""

    options: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, path: Path, metadata: Mapping[str, str]) -> AdapterConfig | None:
        """From the file's metadata, or from the configuration beside a PEFT adapter; None without either."""
        flat = _json_object(metadata.get(_METADATA_KEY, ""))
        if flat:
            options: dict[str, dict[str, Any]] = {}
            for key, value in flat.items():
                component, _, option = key.rpartition(".")
                options.setdefault(component, {})[option] = value
            return cls(options)
        sidecar = path.with_name(_SIDECAR)
        if path.name.startswith("adapter_model") and sidecar.is_file():
            flat = _json_object(sidecar.read_text(encoding="utf-8"))
            return cls({"": flat}) if flat else None
        return None

    def scale(self, module: str, rank: int | None) -> float | None:
        """PEFT's scaling of a module: alpha / rank, or alpha / sqrt(rank) for rsLoRA; None if it is not configured.

        The rank is the file's where it shows, else the configured one.
        """
        component = next((name for name in self.options if name and module.startswith(f"{name}.")), "")
        options = self.options.get(component, {})
        alpha = options.get("lora_alpha", options.get("alpha"))
        if alpha is None:
            return None
        alpha = _matching(options.get("alpha_pattern") or {}, module, alpha)
        rank = rank or _matching(options.get("rank_pattern") or {}, module, options.get("r"))
        if not isinstance(alpha, int | float) or not isinstance(rank, int) or rank < 1:
            return None
        return alpha / (math.sqrt(rank) if options.get("use_rslora") else rank)


def _matching(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """PEFT's rule: a pattern's key is a regular expression for the end of the module's name."""
    for key, value in pattern.items():
        if re.fullmatch(rf"(.*\.)?{key}", module):
            return value
    return default


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
