"""What one LoRA file is: for `inspect`, the tab and the API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.lora_file import FileWarning, LoraFile
from lib_loraclr.formats.metadata import recipe_of
from lib_loraclr.formats.read import read_lora
from lib_loraclr.formats.triggers import frequent_tags


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
    }


@dataclass(frozen=True)
class Inspection:
    """`facts` as the formats layer tells them; `error` instead when the file cannot be used."""

    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[FileWarning] = ()
    error: InputError | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        if self.error is not None:
            return {"file": str(self.path), "ok": False, "error": self.error.as_dict()}
        warnings = [warning.as_dict() for warning in self.warnings]
        return {"file": str(self.path), "ok": True, **self.facts, "warnings": warnings}


def inspect(path: Path) -> Inspection:
    """Look at one file; wrong input becomes `error`, so that one bad file among many does not hide the others."""
    try:
        if not path.is_file():
            raise InputError("file-not-found", "The LoRA file does not exist.", file=str(path))
        lora = read_lora(path)
    except InputError as error:
        return Inspection(path, error=error)
    return Inspection(path, describe(lora), lora.warnings)
