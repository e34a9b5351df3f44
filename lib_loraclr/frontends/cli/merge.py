"""`merge`: several LoRAs into one file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_loraclr.core.errors import InputError
from lib_loraclr.core.methods import METHODS
from lib_loraclr.frontends.cli.pairs import InOrder, pair
from lib_loraclr.frontends.cli.progress import BarProgress
from lib_loraclr.frontends.cli.table import table, warnings_text
from lib_loraclr.hosts.standalone import StandaloneHost, load_checkpoint
from lib_loraclr.merging.config import JOB_OPTIONS
from lib_loraclr.merging.options import (
    DEFAULT_METHOD,
    DTYPES,
    PRESETS,
    MergeOptions,
    parse_lora_argument,
    parse_merge_options,
)
from lib_loraclr.merging.outcome import MergeOutcome
from lib_loraclr.merging.pipeline import merge
from lib_loraclr.merging.recipe import load_recipe
from lib_loraclr.options import Field, as_value

DESCRIPTION = """Merge LoRAs into one LoRA file that keeps each of them.

Data-driven methods run the checkpoint with each LoRA in turn to see what it does, then solve for one update that does
all of it at once. Model-free methods only do arithmetic on the files and need no checkpoint."""

EXAMPLES = """examples:
  %(prog)s --checkpoint model.safetensors --lora anna.safetensors --trigger "anna" \\
      --lora ben.safetensors:0.9 --trigger "ben" --out both.safetensors --report report
  %(prog)s --method sum --lora a.safetensors:0.7 --lora b.safetensors:0.5:0 --out sum.safetensors
  %(prog)s recipe.json --rank 32 --out small.safetensors
"""

SIMPLE = ("method", "preset", "rank", "dtype", "device", "seed")
PATHS = ("checkpoint", "out", "report", "cache")


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add `merge` to the sub-parsers and return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "merge",
        help="several LoRAs into one file",
        description=DESCRIPTION,
        epilog=_method_help() + "\n" + EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_inputs(parser.add_argument)
    _add_solution(parser.add_argument)
    _add_outputs(parser.add_argument)
    parser.set_defaults(run=run)
    return parser


def _add_inputs(add: Callable[..., object]) -> None:
    """What is merged."""
    add(
        "recipe",
        nargs="?",
        metavar="RECIPE.json",
        help="a JSON object with these options by the same names, or a file merged before, whose recipe is read; "
        "options on the command line win",
    )
    add("--checkpoint", metavar="C", help="the base model (.safetensors); needed by data-driven methods")
    add(
        "--lora",
        dest="events",
        action=InOrder,
        metavar="FILE[:WEIGHT[:TE_WEIGHT]]",
        help="an input, repeated; WEIGHT scales it in the UNet (may be negative or 0), TE_WEIGHT in the text encoder "
        "(default: WEIGHT)",
    )
    add(
        "--trigger",
        dest="events",
        action=InOrder,
        metavar="TEXT",
        help="what calls the LoRA in a prompt; default: what its metadata says; '' for a style without one",
    )
    add(
        "--class-word",
        dest="events",
        action=InOrder,
        metavar="TEXT",
        help="what the concept is without its LoRA, such as 'woman'; keeps the merge from changing that",
    )
    add(
        "--lora-dir", metavar="DIR", help="where the inputs of a recipe read from a merged file are; default: beside it"
    )


def _add_solution(add: Callable[..., object]) -> None:
    """How it is merged."""
    add("--method", metavar="NAME", help=f"one of {', '.join(METHODS)} (see below); default {DEFAULT_METHOD}")
    add(
        "--preset",
        choices=PRESETS,
        help="instant: no sampling, model-free method; text: text encoder and cross-attention keys and values only, "
        "seconds; full: every layer, samples pictures; best: full, and then the merged LoRA learns what each LoRA "
        "makes the whole model predict, in the time and memory of a short training (default)",
    )
    add(
        "--rank",
        metavar="exact|N|energy=E|size=MB",
        help="exact: the sum of the inputs' ranks, nothing lost (default); N: that rank in every layer; energy=0.95: "
        "what keeps this share of the response; size=20: the best file of at most 20 MB",
    )
    add("--dtype", choices=DTYPES, help="precision of the file; fp16 halves it and every host reads it (default)")
    add("--device", metavar="D", help="cpu, cuda, cuda:1 …; auto takes a GPU when there is one (default)")
    add("--seed", type=int, metavar="S", help="same seed, same inputs: same file, byte for byte (default 0)")
    add(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the method or of the capture, repeated (see below)",
    )


def _add_outputs(add: Callable[..., object]) -> None:
    """Where results go."""
    add("--out", metavar="FILE", help="the merged file, .safetensors")
    add("--overwrite", action="store_true", help="replace the output when it exists")
    add("--report", metavar="DIR", help="write a report (JSON and one HTML page) there; costs a few extra solves")
    add("--cache", metavar="DIR", help="where captured statistics are kept, so that the next merge only solves")


def _method_help() -> str:
    lines = ["methods and their options (--option NAME=VALUE):"]
    for method in METHODS.values():
        lines.append(f"  {method.name:<16} {method.summary}")
        lines += [f"      {_option_line(option)}" for option in method.options]
    lines.append("options of the capture:")
    lines += [f"      {_option_line(option)}" for option in JOB_OPTIONS]
    return "\n".join(lines) + "\n"


def _option_line(field: Field) -> str:
    allowed = f" ({', '.join(field.choices)})" if field.choices else ""
    return f"{field.name}={as_value(field, field.default)}{allowed}: {field.help}"


def options_of(parsed: argparse.Namespace) -> MergeOptions:
    """The command line, laid over the recipe, as validated options."""
    raw: dict[str, Any] = {}
    folder: Path | None = None
    source: str | None = None
    if parsed.recipe:
        source = str(parsed.recipe)
        raw, folder = load_recipe(Path(parsed.recipe), lora_folder=Path(parsed.lora_dir) if parsed.lora_dir else None)
    for name in SIMPLE:
        if getattr(parsed, name) is not None:
            raw[name] = getattr(parsed, name)
    for name in PATHS:
        if getattr(parsed, name) is not None:
            raw[name] = str(_from_here(getattr(parsed, name), folder))
    if parsed.overwrite:
        raw["overwrite"] = True
    if parsed.events:
        raw["lora"] = [_lora_entry(entry, folder) for entry in pair(parsed.events)]
        if not raw["lora"]:
            raise InputError("bad-arguments", "--trigger and --class-word each need a --lora.", key="trigger")
    if parsed.option:
        given = raw.get("option")
        raw["option"] = {**(given if isinstance(given, dict) else {}), **dict(map(_option, parsed.option))}
    return parse_merge_options(raw, folder=folder, source=source)


def _from_here(path: str, folder: Path | None) -> Path:
    # A recipe's paths are relative to the recipe, the command line's to where it is typed.
    return Path(path) if folder is None else Path.cwd() / Path(path).expanduser()


def _lora_entry(entry: dict[str, str], folder: Path | None) -> dict[str, Any]:
    choice = parse_lora_argument(entry["lora"])
    fields: dict[str, Any] = {"file": str(_from_here(str(choice.file), folder)), "weight": choice.weight}
    if choice.te_weight is not None:
        fields["te_weight"] = choice.te_weight
    return fields | {name: value for name, value in entry.items() if name != "lora"}


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise InputError("bad-arguments", f"'{text}' is not NAME=VALUE.", key="option")
    return name.strip(), value


@dataclass(frozen=True)
class Answer:
    """A merge's outcome in the two forms the command line prints."""

    outcome: MergeOutcome

    def as_json(self) -> dict[str, Any]:
        """The documented object."""
        return self.outcome.as_json()

    def as_text(self) -> str:
        """A small table and where the files are."""
        out = self.outcome
        lines = []
        if any(concept.kept is not None for concept in out.concepts):
            rows = [(c.name, c.kept, c.nearest_other, c.drift) for c in out.concepts]
            lines += [table(("concept", "kept", "nearest other", "drift"), rows), ""]
        seconds = out.seconds
        lines.append(
            f"Merged {len(out.concepts)} LoRAs with {out.method} in {seconds['total']:.1f} s "
            f"(capture {seconds['capture']:.1f}, solve {seconds['solve']:.1f}); "
            f"peak memory {out.peak_memory_mib:.0f} MiB."
        )
        lines.append(f"{out.out} ({out.bytes / 1e6:.1f} MB)")
        lines += [str(path) for path in out.report]
        return "\n".join(lines + warnings_text(out.warnings))


def run(parsed: argparse.Namespace) -> Answer:
    """Do the merge."""
    options = options_of(parsed)
    progress = BarProgress()
    try:
        outcome = merge(options, open_host=open_standalone, progress=progress)
    finally:
        progress.close()
    return Answer(outcome)


def open_standalone(checkpoint: Path | None, device: str) -> StandaloneHost:
    """The checkpoint on its device; arithmetic in fp32, so that a merge does not depend on the machine."""
    if checkpoint is None:
        raise InputError("missing-checkpoint", "This needs a base model; give one with --checkpoint.", key="checkpoint")
    return load_checkpoint(checkpoint, device=device)
