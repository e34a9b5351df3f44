"""The hosts' user metadata beside a LoRA (`<stem>.json`): activation text and preferred weight."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib_loraclr.formats.safetensors_io import atomic_path

HOST_VERSIONS = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}


def sidecar_path(path: Path) -> Path:
    """Where the hosts look for it."""
    return path.with_suffix(".json")


def read_sidecar(path: Path) -> dict[str, Any]:
    """The sidecar of a LoRA file; empty if there is none or it is not a JSON object."""
    try:
        value = json.loads(sidecar_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_sidecar(
    path: Path,
    triggers: Sequence[str],
    *,
    weight: float = 1.0,
    family: str = "unknown",
    notes: str = "",
    overwrite: bool = False,
) -> Path | None:
    """Write `<stem>.json` beside the LoRA `path`, so that a click on its card gives a working prompt.

    An existing one belongs to the user: it is left alone (None is returned) unless `overwrite`.
    """
    target = sidecar_path(path)
    if target.exists() and not overwrite:
        return None
    content = {
        "description": "",
        "sd version": HOST_VERSIONS.get(family, "Unknown"),
        "activation text": ", ".join(trigger for trigger in triggers if trigger),
        "preferred weight": weight,
        "negative text": "",
        "notes": notes,
    }
    with atomic_path(target, overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps(content, indent=4, ensure_ascii=False), encoding="utf-8")
    return target
