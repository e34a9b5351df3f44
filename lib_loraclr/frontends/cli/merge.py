"""`merge`: several LoRAs into one file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_loraclr.app.merge import run_merge
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.methods import METHODS
from lib_loraclr.frontends.cli.arguments import InOrder, add_fields, flag_of, from_here, help_of, pair, typed
from lib_loraclr.frontends.cli.terminal import ConsoleHook, table, warnings_text
from lib_loraclr.hosts.standalone import StandaloneHost, load_checkpoint
from lib_loraclr.hosts.standalone.application import StandaloneApplication
from lib_loraclr.merging.config import JOB_OPTIONS
from lib_loraclr.merging.options import LoraChoice, MergeOptions, load_recipe, parse_lora_argument, parse_merge_options
from lib_loraclr.merging.outcome import MergeOutcome
from lib_loraclr.options import Field, as_value, fields_of

DESCRIPTION = """Merge LoRAs into one LoRA file that keeps each of them.

Data-driven methods run the checkpoint with each LoRA in turn to see what it does, then solve for one update that does
all of it at once. Model-free methods only do arithmetic on the files and need no checkpoint."""

EXAMPLES = """examples:
  %(prog)s --checkpoint model.safetensors --lora anna.safetensors --trigger "anna" \\
      --lora ben.safetensors:0.9 --trigger "ben" --out both.safetensors --report report
  %(prog)s --method sum --lora a.safetensors:0.7 --lora b.safetensors:0.5:0 --out sum.safetensors
  %(prog)s recipe.json --rank 32 --out small.safetensors
"""

INPUT = ("checkpoint",)
SOLUTION = ("method", "preset", "rank", "dtype", "device", "seed")
OUTPUT = ("out", "overwrite", "report", "cache")


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
    add_fields(parser.add_argument, fields_of(MergeOptions), OUTPUT)
    parser.set_defaults(run=run)
    return parser


def _add_inputs(add: Callable[..., object]) -> None:
    """What is merged."""
    options, choice = fields_of(MergeOptions), fields_of(LoraChoice)
    add(
        "recipe",
        nargs="?",
        metavar="RECIPE.json",
        help="a JSON object with these options by the same names, or a file merged before, whose recipe is read; "
        "options on the command line win",
    )
    add_fields(add, options, INPUT)
    for field in (options["lora"], choice["trigger"], choice["class_word"], choice["kind"]):
        add(flag_of(field), dest="events", action=InOrder, metavar=field.metavar, help=help_of(field))
    add(
        "--lora-dir", metavar="DIR", help="where the inputs of a recipe read from a merged file are; default: beside it"
    )


def _add_solution(add: Callable[..., object]) -> None:
    """How it is merged."""
    options = fields_of(MergeOptions)
    add_fields(add, options, SOLUTION)
    add(
        "--option", action="append", default=[], metavar=options["option"].metavar,
        help="an option of the method or of the capture, repeated (see below)",
    )  # fmt: skip


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
    fields = fields_of(MergeOptions)
    for name, value in typed(parsed, fields, (*INPUT, *SOLUTION, *OUTPUT)).items():
        # the paths of a command line start from where it is typed, those of a recipe from its folder
        raw[name] = str(from_here(str(value), folder)) if isinstance(value, Path) else as_value(fields[name], value)
    if parsed.events:
        raw["lora"] = [_lora_entry(entry, folder) for entry in pair(parsed.events)]
        if not raw["lora"]:
            raise InputError("bad-arguments", "--trigger, --class-word and --kind each need a --lora.", key="trigger")
    if parsed.option:
        in_recipe = raw.get("option")
        raw["option"] = {**(in_recipe if isinstance(in_recipe, dict) else {}), **dict(map(_option, parsed.option))}
    return parse_merge_options(raw, folder=folder, source=source)


def _lora_entry(entry: dict[str, str], folder: Path | None) -> dict[str, Any]:
    choice = parse_lora_argument(entry["lora"])
    fields: dict[str, Any] = {"file": str(from_here(str(choice.file), folder)), "weight": choice.weight}
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
    """Do the merge: the job of tab and API, in this thread."""
    options = options_of(parsed)
    application = _Program(
        options.out.parent, options.checkpoint, device=options.device, cache=options.cache, hook=ConsoleHook()
    )
    return Answer(run_merge(application, options, owner="cli").outcome)


class _Program(StandaloneApplication):
    """The command line as the program around the job."""

    def open_host(self, checkpoint: Path | None, device: str) -> StandaloneHost:
        """The checkpoint that the options name."""
        return open_standalone(checkpoint, device)


def open_standalone(checkpoint: Path | None, device: str) -> StandaloneHost:
    """The checkpoint on its device; arithmetic in fp32, so that a merge does not depend on the machine."""
    if checkpoint is None:
        raise InputError("missing-checkpoint", "This needs a base model; give one with --checkpoint.", key="checkpoint")
    return load_checkpoint(checkpoint, device=device)
