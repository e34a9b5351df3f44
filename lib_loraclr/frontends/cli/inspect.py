"""`inspect`: what a file is and what is wrong with it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_loraclr.formats.inspect import Inspection, inspect
from lib_loraclr.frontends.cli.terminal import warnings_text


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add `inspect` to the sub-parsers and return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "inspect",
        help="type, base family, ranks, layers, triggers, and what is wrong with a file",
        description="Show what a LoRA file is. Needs no checkpoint. Exit status 2 when a file cannot be used.",
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.set_defaults(run=run)
    return parser


@dataclass(frozen=True)
class Answer:
    """Inspections in the two forms the command line prints."""

    inspections: list[Inspection]

    @property
    def exit_status(self) -> int:
        """2 when any file is unusable."""
        return 0 if all(item.error is None for item in self.inspections) else 2

    def as_json(self) -> dict[str, Any]:
        """`ok` is false when a file is unusable; then `error` is the first one's."""
        errors = [item.error for item in self.inspections if item.error is not None]
        data: dict[str, Any] = {"ok": not errors, "files": [item.as_dict() for item in self.inspections]}
        return data | ({"error": errors[0].as_dict()} if errors else {})

    def as_text(self) -> str:
        """A paragraph per file."""
        return "\n\n".join("\n".join(_paragraph(item)) for item in self.inspections)


def _paragraph(item: Inspection) -> list[str]:
    if item.error is not None:
        key = f" (key {item.error.key})" if item.error.key else ""
        return [str(item.path), f"  cannot be used: {item.error.message}{key}"]
    lines = [str(item.path)]
    for name, value in item.facts.items():
        if name in ("file", "path", "name", "warnings", "metadata") or value in (None, "", [], {}, (), 0, False):
            continue
        lines.append(f"  {name.replace('_', ' ') + ':':<12} {_short(value)}")
    return lines + ["  " + line for line in warnings_text(item.warnings)]


def _short(value: Any) -> str:
    if isinstance(value, dict) and "inputs" in value:
        return f"{value.get('method')} of {', '.join(str(entry.get('file')) for entry in value['inputs'])}"
    if isinstance(value, dict):
        return ", ".join(
            f"{key} x {count}" if isinstance(count, int) else f"{key}: {count}" for key, count in value.items()
        )
    if isinstance(value, list | tuple):
        shown = ", ".join(str(item) for item in value[:12])
        return shown + (f", and {len(value) - 12} more" if len(value) > 12 else "")
    return str(value)


def run(parsed: argparse.Namespace) -> Answer:
    """Inspect every file."""
    return Answer([inspect(Path(file)) for file in parsed.files])
