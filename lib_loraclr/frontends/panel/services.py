"""What the panel asks of the program around it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from lib_loraclr.capture.prompts import phrase
from lib_loraclr.formats.metadata import recipe_of

MAX_CONCEPTS = 400


@dataclass(frozen=True)
class Concept:
    """One concept of a merged LoRA: `<lora:file:weight>` in the main prompt and `phrase` in a region show it.

    `phrase` is how a prompt calls it: the trigger with its class word ("anna woman").
    """

    name: str
    trigger: str
    file: str
    weight: float = 1.0
    phrase: str = ""


class PanelServices(Protocol):
    """Adapters of hosts implement it; every method is quick and never loads a model."""

    def count_tokens(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        """(tokens, room in the chunks they take) of every text; empty when no tokenizer is loaded."""
        ...

    def concepts(self) -> Sequence[Concept]:
        """Concepts of the merged LoRA files that the program knows."""
        ...


class NoServices:
    """A page without a model: no counts, no concepts."""

    def count_tokens(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        """Nothing to count with."""
        return []

    def concepts(self) -> Sequence[Concept]:
        """None known."""
        return ()


def concepts_of(file: str, metadata: Mapping[str, Any], weight: float = 1.0) -> list[Concept]:
    """The concepts in the recipe of a file merged here, in its order; none for any other file.

    WebUIs read JSON in metadata already, so values may be objects as well as texts.
    """
    recipe = recipe_of({key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()})
    inputs: Any = recipe.get("inputs") if recipe else None
    found: list[Concept] = []
    for entry in inputs if isinstance(inputs, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            trigger, word = (_text(entry.get(key)) for key in ("trigger", "class_word"))
            found.append(Concept(entry["name"], trigger, file, weight, phrase(trigger, word)))
    return found[:MAX_CONCEPTS]


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def as_json(concepts: Sequence[Concept]) -> list[dict[str, Any]]:
    """For the panel's JavaScript."""
    return [asdict(concept) for concept in concepts[:MAX_CONCEPTS]]
