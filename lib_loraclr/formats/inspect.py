"""What one LoRA file is: for `inspect`, the tab and the API."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.lora_file import LoraFile
from lib_loraclr.formats.metadata import recipe_of
from lib_loraclr.formats.read import read_lora
from lib_loraclr.formats.triggers import frequent_tags


def inspect_lora(path: Path) -> dict[str, Any]:
    """A JSON-ready description: type, family, ranks, layers, triggers, size, hash, problems.

    Never raises for a bad file: `ok` is then False and `problems` begins with the reason.
    """
    path = Path(path)
    try:
        file = read_lora(path)
    except InputError as error:
        return {"file": str(path), "name": path.stem, "ok": False, "problems": [error.as_dict()]}
    return {"file": str(path), "name": file.name, "ok": True, **describe(file)}


def describe(file: LoraFile) -> dict[str, Any]:
    """The description of a file that was read already."""
    components = Counter(name.partition(".")[0] for name in file.layers)
    ranks = Counter(update.rank for update in file.layers.values() if update.rank is not None)
    return {
        "types": list(file.types),
        "family": file.family,
        "layers": dict(sorted(components.items())),
        "vectors": len(file.vectors),
        "ranks": {str(rank): count for rank, count in sorted(ranks.items())},
        "needs_checkpoint": any(update.needs_base for update in file.layers.values()),
        "triggers": list(file.triggers),
        "frequent_tags": frequent_tags(file.metadata, 10),
        "embeddings": sorted(file.embeddings),
        "bytes": file.path.stat().st_size,
        "sha256": file.sha256,
        "base_model": file.metadata.get("ss_sd_model_name") or file.metadata.get("modelspec.architecture"),
        "recipe": recipe_of(file.metadata),
        "problems": [warning.as_dict() for warning in file.warnings],
    }
