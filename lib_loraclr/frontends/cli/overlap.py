"""`overlap`: how much LoRAs interfere, before any merge."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_loraclr.frontends.cli.merge import open_standalone
from lib_loraclr.frontends.cli.terminal import BarProgress, table, warnings_text
from lib_loraclr.merging.inputs import KINDS, Overlap, overlap


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add `overlap` to the sub-parsers and return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "overlap",
        help="interference of every pair of LoRAs, without a checkpoint",
        description="N x N table: 0 means that two LoRAs change unrelated directions, 1 the same ones. The higher, the "
        "more a plain sum of the two will bleed.",
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument(
        "--checkpoint", metavar="C", help="only for types that are defined by the base weight (DoRA, OFT)"
    )
    parser.add_argument(
        "--kind",
        choices=KINDS,
        default="cosine",
        help="cosine: do two LoRAs write the same change (default); inputs: do they react to the same features; "
        "outputs: do they write into the same features",
    )
    parser.set_defaults(run=run)
    return parser


@dataclass(frozen=True)
class Answer:
    """The matrix in the two forms the command line prints."""

    result: Overlap

    def as_json(self) -> dict[str, Any]:
        """Names, matrix, warnings."""
        return {"ok": True, **self.result.as_dict()}

    def as_text(self) -> str:
        """A numbered table."""
        names = self.result.names
        rows = [(i + 1, name, *row) for i, (name, row) in enumerate(zip(names, self.result.matrix, strict=True))]
        head = ("", "LoRA", *(str(i + 1) for i in range(len(names))))
        return "\n".join([table(head, rows), *warnings_text(self.result.warnings)])


def run(parsed: argparse.Namespace) -> Answer:
    """Compare the files."""
    checkpoint = Path(parsed.checkpoint) if parsed.checkpoint else None
    progress = BarProgress()
    try:
        host = (lambda: open_standalone(checkpoint, "cpu")) if checkpoint else None
        return Answer(
            overlap([Path(file) for file in parsed.files], kind=parsed.kind, open_host=host, progress=progress)
        )
    finally:
        progress.close()
