"""What a LoRA file is and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats import FileWarning, describe, read_lora


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
    facts = {name: value for name, value in describe(lora).items() if name != "problems"}
    return Inspection(path, facts, lora.warnings)
