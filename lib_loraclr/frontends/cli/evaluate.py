"""`evaluate`: what single LoRAs, their stack and merged files keep, in pictures and numbers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib_loraclr.core.errors import InputError
from lib_loraclr.evaluation.folder import pictures_in
from lib_loraclr.evaluation.job import EvaluateOutcome, evaluate
from lib_loraclr.evaluation.options import (
    KINDS,
    ConceptSet,
    EvaluateOptions,
    Subject,
    load_set,
)
from lib_loraclr.formats.weighted import unique_name
from lib_loraclr.frontends.cli.arguments import InOrder, add_fields, pair, typed
from lib_loraclr.frontends.cli.generate import SAMPLING
from lib_loraclr.frontends.cli.merge import open_standalone
from lib_loraclr.frontends.cli.terminal import BarProgress, table, warnings_text
from lib_loraclr.generation.generator import SamplingParams
from lib_loraclr.merging.options import parse_lora_argument
from lib_loraclr.options import fields_of

DESCRIPTION = """Compare, on the same prompts and seeds, what every LoRA does alone, what all of them do stacked, and
what merged files do. Pictures, numbers and a page go into one folder; an evaluation that was stopped goes on."""

EXAMPLES = """examples:
  %(prog)s --checkpoint model.safetensors --clip clip-vit-base-patch32 --face insightface \\
      --lora anna.safetensors --trigger "anna woman" --references photos/anna \\
      --lora ben.safetensors --trigger "ben man" --references photos/ben \\
      --merged both.safetensors --stacked --out evaluation
  %(prog)s miniature/concepts.json --concept otto --concept zelda --merged merged.safetensors \\
      --out evaluation

Without metrics (--embedder, --clip, --face) there are only pictures and drift. Let people rate them with
python -m lib_loraclr rate FOLDER.
"""
PICTURES = ("pictures", "seed")
HEAD = ("method", "text", "image", "identity", "rate", "worst", "drift")
FIELDS = ("method", "text", "image", "identity_cosine", "identity_rate", "worst_identity_cosine", "drift")


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add `evaluate` to the sub-parsers and return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "evaluate",
        help="what LoRAs and merges keep, in pictures and numbers",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("set", nargs="?", metavar="SET.json", help="concepts with LoRAs, references and prompts (docs/evaluation.md)")
    add("--concept", action="append", default=[], metavar="NAME", help="a concept of the set, repeated; default: all")
    add("--checkpoint", metavar="C", help="the base model (.safetensors); default: the set's")
    inputs: tuple[tuple[str, str, str], ...] = (
        ("--lora", "FILE[:WEIGHT[:TE_WEIGHT]]", "a concept's LoRA, repeated"),
        ("--trigger", "TEXT", "what calls it in a prompt; default: what its metadata says"),
        ("--class-word", "TEXT", "what it is without its LoRA, such as 'woman'"),
        ("--references", "PATH", "a picture of it, or a folder of them"),
        ("--kind", "KIND", f"one of {', '.join(KINDS)} (default character); decides prompts and metric"),
    )
    for flag, metavar, text in inputs:
        add(flag, dest="events", action=InOrder, metavar=metavar, help=text)
    add("--merged", action="append", default=[], metavar="FILE", help="a merged file to compare, repeated")
    add("--stacked", action="store_true", help="also all LoRAs at once, as tags in one prompt")
    add("--prompts", metavar="FILE", help="own prompts, one a line, {c} is the concept")
    add_fields(add, fields_of(EvaluateOptions), PICTURES)
    add_fields(add, fields_of(SamplingParams), SAMPLING)  # what is not typed is the set's
    add("--embedder", metavar="FILE", help="a small network with its .network.json beside it; default: the set's")
    add("--clip", metavar="DIR", help="a CLIP model in transformers' layout, for text and image alignment")
    add("--face", metavar="NAME", help="an installed face embedder: insightface")
    add("--held-out", metavar="DIR", help="one sub-folder of pictures per identity: fixes the threshold of the rate")
    add("--device", metavar="D", default="auto", help="cpu, cuda, cuda:1 …; auto takes a GPU when there is one")
    add("--out", metavar="DIR", required=True, help="the evaluation's folder")
    add("--overwrite", action="store_true", help="begin anew in a folder that holds another evaluation")
    parser.set_defaults(run=run)
    return parser


@dataclass(frozen=True)
class Answer:
    """The rows in the two forms the command line prints."""

    outcome: EvaluateOutcome

    def as_json(self) -> dict[str, Any]:
        """Rows, per-concept scores, paths."""
        return self.outcome.as_json()

    def as_text(self) -> str:
        """One line per method."""
        rows = [tuple(row[field] for field in FIELDS) for row in self.outcome.rows]
        return "\n".join([table(HEAD, rows), f"Page: {self.outcome.report}", *warnings_text(self.outcome.warnings)])


def options_of(parsed: argparse.Namespace) -> EvaluateOptions:
    """The command line, laid over the set file."""
    concept_set = load_set(Path(parsed.set), parsed.concept) if parsed.set else ConceptSet()
    if parsed.concept and not parsed.set:
        raise InputError("bad-arguments", "--concept names a concept of a set file, but none was given.", key="concept")
    subjects = (*concept_set.subjects, *_subjects(parsed.events or []))
    if parsed.prompts:
        prompts = _prompts(Path(parsed.prompts))
        subjects = tuple(replace(subject, prompts=prompts) for subject in subjects)
    sampling = typed(parsed, fields_of(SamplingParams), SAMPLING)
    return EvaluateOptions(
        subjects=subjects,
        out=Path(parsed.out),
        checkpoint=_path(parsed.checkpoint) or concept_set.checkpoint,
        merged=tuple(Path(file) for file in parsed.merged),
        stacked=parsed.stacked,
        **typed(parsed, fields_of(EvaluateOptions), PICTURES),
        sampling=replace(concept_set.sampling, **sampling),
        neutral=concept_set.neutral,
        embedder=_path(parsed.embedder) or concept_set.embedder,
        clip=_path(parsed.clip),
        face=parsed.face,
        held_out=_path(parsed.held_out),
        device=parsed.device,
        overwrite=parsed.overwrite,
    )


def _subjects(events: Sequence[tuple[str, str]]) -> list[Subject]:
    subjects: list[Subject] = []
    for entry in pair(events, ("trigger", "class_word", "references", "kind")):
        choice = replace(
            parse_lora_argument(entry["lora"]), trigger=entry.get("trigger"), class_word=entry.get("class_word")
        )
        name = unique_name(choice.file.stem, [subject.name for subject in subjects])
        references = pictures_in(Path(entry["references"])) if "references" in entry else ()
        subjects.append(Subject(name, choice, entry.get("kind", "character"), references))
    return subjects


def _prompts(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("file-not-found", "The prompts cannot be read.", file=str(path), key="prompts") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts or any("{c}" not in prompt for prompt in prompts):
        raise InputError("bad-option", "Every prompt must contain {c}.", file=str(path), key="prompts")
    return prompts


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def run(parsed: argparse.Namespace) -> Answer:
    """Evaluate."""
    from lib_loraclr.hosts.standalone.metrics import open_metrics

    options = options_of(parsed)
    progress = BarProgress()
    try:
        return Answer(evaluate(options, open_host=open_standalone, open_metrics=open_metrics, progress=progress))
    finally:
        progress.close()
