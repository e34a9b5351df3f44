"""What an evaluation depends on: checkpoint, concepts with their references and prompts, merged files, seeds.

A set file is a JSON object: `checkpoint`, `embedder`, `generation` {width, height, steps, cfg_scale, negative_prompt},
`neutral_prompts`, and `concepts`, a list of {name, kind, trigger, class_word, file, references, prompts}. Paths are
relative to the set file; other entries are left alone. `miniature/concepts.json` is one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_loraclr.capture.prompts import phrase, with_article
from lib_loraclr.core.errors import InputError
from lib_loraclr.generation.generator import SamplingParams
from lib_loraclr.merging.options import LoraChoice
from lib_loraclr.reading import Reader, array, integer, number, object_, text

KINDS = ("character", "animal", "object", "style")
# New places, media, company and changes, as Mix-of-Show asks its concepts for; none is a template of the capture.
PROMPTS = (
    "a photo of {c}", "{c} standing on a mountain", "a portrait of {c}, studio light", "{c} in a kitchen",
    "an oil painting of {c}", "{c} on a sofa reading a book", "a photo of {c} at night in the rain", "{c} in a boat",
    "a watercolor of {c}", "{c} holding a flower",
)  # fmt: skip
STYLE_PROMPTS = tuple(
    f"a photo of {with_article(thing)} {place} in {{c}}"
    for thing, place in (("cat", "on a chair"), ("woman", "in a garden"), ("house", "on a hill"), ("man", "at a table"))
)
NEUTRAL = (
    "", "a photo of a man", "a photo of a woman", "a cat on a chair", "a house by a lake", "a bowl of fruit",
    "a street in the rain", "a portrait of an old man",
)  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """One concept: its LoRA, what kind of thing it is, what it looks like, and on which prompts it is drawn.

    Without references there is no identity and no image alignment; without prompts the built-in ones are used.
    """

    name: str
    choice: LoraChoice
    kind: str = "character"
    references: tuple[Path, ...] = ()
    prompts: tuple[str, ...] = ()

    def filled(self, trigger: str, class_word: str) -> tuple[str, ...]:
        """The prompts in full."""
        called = phrase(trigger, class_word)
        own = self.prompts or (STYLE_PROMPTS if self.kind == "style" else PROMPTS)
        return tuple(prompt.replace("{c}", called) for prompt in own)


@dataclass(frozen=True)
class EvaluateOptions:
    """`pictures` per concept and variant, picture k on prompt k with seed `seed` + k; `merged` are files to compare.

    `embedder` is a network file (`network.py`), `clip` a folder with a CLIP model, `face` the name of an installed face
    embedder; `held_out` a folder with one sub-folder of pictures per identity, which fixes the threshold of the rate.
    """

    subjects: tuple[Subject, ...]
    out: Path
    checkpoint: Path | None = None
    merged: tuple[Path, ...] = ()
    stacked: bool = False
    pictures: int = 8
    seed: int = 1000
    sampling: SamplingParams = field(default_factory=SamplingParams)
    neutral: tuple[str, ...] = NEUTRAL
    embedder: Path | None = None
    clip: Path | None = None
    face: str | None = None
    held_out: Path | None = None
    device: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raises InputError for what cannot be evaluated, before a file is read."""
        if not self.subjects:
            raise InputError("empty-selection", "No LoRA was chosen; give at least one.", key="lora")
        for name, low, value in (("pictures", 1, self.pictures), ("steps", 1, self.sampling.steps)):
            if value < low:
                raise InputError("bad-option", f"'{name}' must be at least {low}, not {value}.", key=name)
        for subject in self.subjects:
            if subject.kind not in KINDS:
                raise InputError("bad-option", f"'{subject.kind}' is not one of {', '.join(KINDS)}.", key="kind")
        names = [subject.name for subject in self.subjects]
        if len(set(names)) < len(names):
            twin = next(name for name in names if names.count(name) > 1)
            raise InputError("same-file", f"Two concepts are called '{twin}'.", key="lora")


@dataclass(frozen=True)
class ConceptSet:
    """The content of a set file."""

    subjects: tuple[Subject, ...]
    checkpoint: Path | None
    embedder: Path | None
    sampling: SamplingParams
    neutral: tuple[str, ...]


def load_set(path: Path, names: Sequence[str] = ()) -> ConceptSet:
    """Read a set file; `names` chooses concepts, all without. Raises InputError."""
    raw = _json(path)
    folder, source = path.parent, str(path)
    read = Reader(raw, "", source, folder)
    entries: list[dict[str, Any]] = read.get("concepts", _objects, [])
    known = [str(entry.get("name", "")) for entry in entries]
    for name in names:
        if name not in known:
            raise InputError("unknown-concept", f"The set has no concept '{name}'.", file=source, key="concept")
    subjects = [
        _subject(entry, f"concepts[{k}].", source, folder)
        for k, entry in enumerate(entries)
        if not names or known[k] in names
    ]
    if not subjects:
        raise InputError("empty-selection", "The set holds no concept.", file=source, key="concepts")
    neutral = tuple(read.get("neutral_prompts", _texts, NEUTRAL))
    generation: Mapping[str, Any] = read.get("generation", object_, {})
    sampling = _sampling(Reader(generation, "generation.", source, folder))
    return ConceptSet(tuple(subjects), read.path("checkpoint"), read.path("embedder"), sampling, neutral)


def _texts(value: Any) -> list[str]:
    try:
        return [text(item) for item in array(value)]
    except ValueError:
        raise ValueError("a list of texts") from None


def _objects(value: Any) -> list[dict[str, Any]]:
    try:
        return [object_(item) for item in array(value)]
    except ValueError:
        raise ValueError("a list of objects") from None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError("file-not-found", "The set file does not exist.", file=str(path))
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError("bad-set", f"The set file is not readable JSON: {error}.", file=str(path)) from error
    if not isinstance(raw, dict):
        raise InputError("bad-set", "The set file is not a JSON object.", file=str(path))
    return raw


def _subject(entry: Mapping[str, Any], prefix: str, source: str, folder: Path) -> Subject:
    read = Reader(entry, prefix, source, folder)
    file = read.path("file", required=True) or Path()
    choice = LoraChoice(
        file,
        read.get("weight", number, 1.0),
        trigger=read.get("trigger", text, None),
        class_word=read.get("class_word", text, None),
    )
    return Subject(
        read.get("name", text, file.stem),
        choice,
        read.get("kind", text, "character"),
        tuple(folder / name for name in read.get("references", _texts, ())),
        tuple(read.get("prompts", _texts, ())),
    )


def _sampling(read: Reader) -> SamplingParams:
    width, height = read.get("width", integer, None), read.get("height", integer, None)
    return SamplingParams(
        read.get("steps", integer, 20),
        read.get("cfg_scale", number, 7.0),
        (width, height) if width and height else None,
        read.get("negative_prompt", text, ""),
    )
