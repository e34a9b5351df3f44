"""What an evaluation depends on: checkpoint, concepts with their references and prompts, merged files, seeds.

A set file is a JSON object: `checkpoint`, `embedder`, `generation` {width, height, steps, cfg_scale, negative_prompt},
`neutral_prompts`, and `concepts`, a list of {name, kind, trigger, class_word, file, references, prompts}. Paths are
relative to the set file; other entries are left alone. `miniature/concepts.json` is one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lib_loraclr.capture.prompts import phrase, with_article
from lib_loraclr.core.errors import InputError
from lib_loraclr.generation.generator import SamplingParams
from lib_loraclr.merging.options import LoraChoice
from lib_loraclr.options import FieldReader, check, fields_of, option, resolve

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
    kind: str = option("character", "What kind of thing it is; decides prompts and metrics.", choices=KINDS)
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
    pictures: int = option(8, "Pictures per concept and method.", 1, metavar="N")
    seed: int = option(1000, "Of the first picture.", metavar="S")
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
        check(self)
        check(self.sampling)
        for subject in self.subjects:
            check(subject)
        names = [subject.name for subject in self.subjects]
        if len(set(names)) < len(names):
            twin = next(name for name in names if names.count(name) > 1)
            raise InputError("same-file", f"Two concepts are called '{twin}'.", key="lora")


_SAMPLING, _LORA = fields_of(SamplingParams), fields_of(LoraChoice)


@dataclass(frozen=True)
class _Generation:
    """`generation` of a set file; other entries are left alone."""

    width: int | None = option(None, "Pixels.", 8, kind="whole")
    height: int | None = option(None, "Pixels.", 8, kind="whole")
    steps: int = _SAMPLING["steps"].attribute()
    cfg_scale: float = _SAMPLING["cfg_scale"].attribute()
    negative_prompt: str = _SAMPLING["negative_prompt"].attribute()
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def sampling(self) -> SamplingParams:
        """As the generator takes it."""
        size = (self.width, self.height) if self.width and self.height else None
        return SamplingParams(self.steps, self.cfg_scale, size, self.negative_prompt)


@dataclass(frozen=True)
class _Concept:
    """An entry of `concepts`; other entries are left alone."""

    file: Path = option(None, "The LoRA file.", kind="path", required=True)
    name: str = option("", "Its name; default: that of the file.")
    weight: float = _LORA["weight"].attribute()
    trigger: str | None = _LORA["trigger"].attribute()
    class_word: str | None = _LORA["class_word"].attribute()
    kind: str = fields_of(Subject)["kind"].attribute()
    references: tuple[Path, ...] = option((), "Pictures of it.", kind="list", entry=resolve)
    prompts: tuple[str, ...] = option((), "With {c} for the concept; default: the usual ones.", kind="list")
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def subject(self) -> Subject:
        """As the evaluation takes it."""
        choice = LoraChoice(self.file, self.weight, trigger=self.trigger, class_word=self.class_word)
        return Subject(self.name or self.file.stem, choice, self.kind, self.references, self.prompts)


@dataclass(frozen=True)
class ConceptSet:
    """A set file; other entries are left alone."""

    checkpoint: Path | None = option(None, "The base model.", kind="path")
    embedder: Path | None = option(None, "A network that knows identities.", kind="path")
    generation: _Generation = option(None, "How pictures are made.", part=_Generation)
    neutral: tuple[str, ...] = option(NEUTRAL, "Prompts without a concept.", kind="list", name="neutral_prompts")
    concepts: tuple[_Concept, ...] = option((), "What is evaluated.", kind="list", part=_Concept)
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """The concepts."""
        return tuple(concept.subject for concept in self.concepts)

    @property
    def sampling(self) -> SamplingParams:
        """How pictures are made."""
        return self.generation.sampling


def load_set(path: Path, names: Sequence[str] = ()) -> ConceptSet:
    """Read a set file; `names` chooses concepts, all without. Raises InputError."""
    concept_set: ConceptSet = FieldReader(str(path), path.parent).make(ConceptSet, _json(path))
    known = [subject.name for subject in concept_set.subjects]
    for name in names:
        if name not in known:
            raise InputError("unknown-concept", f"The set has no concept '{name}'.", file=str(path), key="concept")
    chosen = tuple(c for c, name in zip(concept_set.concepts, known, strict=True) if not names or name in names)
    if not chosen:
        raise InputError("empty-selection", "The set holds no concept.", file=str(path), key="concepts")
    return replace(concept_set, concepts=chosen)


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
