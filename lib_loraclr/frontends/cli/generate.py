"""`generate`: pictures, with LoRA tags in the prompt."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_loraclr.core.errors import InputError
from lib_loraclr.frontends.cli.arguments import add_fields, typed
from lib_loraclr.frontends.cli.merge import open_standalone
from lib_loraclr.frontends.cli.terminal import BarProgress, warnings_text
from lib_loraclr.generation.generator import SamplingParams
from lib_loraclr.generation.job import GenerateOptions, GenerateOutcome, generate
from lib_loraclr.options import fields_of
from lib_loraclr.regional import RegionalSpec
from lib_loraclr.regional.layout import read_regions

SAMPLING = ("negative_prompt", "steps", "cfg_scale", "size")
PICTURES = ("seed", "count", "grid")


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add `generate` to the sub-parsers and return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "generate",
        help="a picture, with <lora:FILE:1> in the prompt",
        description="Make pictures with a checkpoint. <lora:FILE:WEIGHT> in the prompt adds a LoRA; as in the WebUI, "
        "<lora:FILE:TE:UNET> and <lora:FILE:te=…:unet=…> weigh text encoder and UNet apart.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--checkpoint", metavar="C", required=True, help="the base model (.safetensors)")
    add("--prompt", metavar="TEXT", required=True)
    add_fields(add, fields_of(SamplingParams), SAMPLING)
    add_fields(add, fields_of(GenerateOptions), PICTURES)
    add(
        "--regions",
        metavar="SPEC.json",
        help="several subjects in one picture: which prompt acts where (docs/regional.md says how to write it); "
        "--prompt is the rest of the picture",
    )
    add("--lora-dir", metavar="DIR", help="where names in tags are looked up (a path works without it)")
    add("--device", metavar="D", default="auto", help="cpu, cuda, cuda:1 …; auto takes a GPU when there is one")
    add(
        "--out",
        metavar="FILE.png",
        default="picture.png",
        help="several pictures are numbered NAME-1.png, NAME-2.png …",
    )
    add("--overwrite", action="store_true", help="replace pictures that exist")
    parser.set_defaults(run=run)
    return parser


@dataclass(frozen=True)
class Answer:
    """The pictures in the two forms the command line prints."""

    outcome: GenerateOutcome

    def as_json(self) -> dict[str, Any]:
        """Paths, seeds, seconds, warnings."""
        return self.outcome.as_json()

    def as_text(self) -> str:
        """One path per line."""
        return "\n".join([*(str(path) for path in self.outcome.files), *warnings_text(self.outcome.warnings)])


def _regions(path: str | None) -> RegionalSpec | None:
    """The layout of a file; a layout with a problem stops the job, unlike in the WebUI."""
    if path is None:
        return None
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("bad-regions", f"The regions cannot be read: {error}.", file=path, key="regions") from error
    spec, problems = read_regions(text)
    if problems:
        first = problems[0]
        raise InputError(first.code, f"{path}: {first.message}", file=path, key=first.key)
    return spec


def run(parsed: argparse.Namespace) -> Answer:
    """Make the pictures."""
    options = GenerateOptions(
        checkpoint=Path(parsed.checkpoint),
        prompt=parsed.prompt,
        sampling=SamplingParams(**typed(parsed, fields_of(SamplingParams), SAMPLING)),
        **typed(parsed, fields_of(GenerateOptions), PICTURES),
        lora_dir=Path(parsed.lora_dir) if parsed.lora_dir else None,
        device=parsed.device,
        out=Path(parsed.out),
        overwrite=parsed.overwrite,
        regions=_regions(parsed.regions),
    )
    progress = BarProgress()
    try:
        return Answer(generate(options, open_host=open_standalone, progress=progress))
    finally:
        progress.close()
