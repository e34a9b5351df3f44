"""What a LoRA of a merge stands for: how prompts call it, what kind of thing it is, and what it adds to the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lib_loraclr.capture.prompts import phrase
from lib_loraclr.core.deltas import Delta

KINDS = ("character", "object", "style")
"""What the model is asked to draw depends on the kind: `prompts.templates_for`."""

# fmt: off
CLASS_WORDS = frozenset((
    "woman", "style", "elf", "man", "girl", "boy", "person", "character", "lady", "guy", "child", "baby", "dog", "cat",
    "horse", "bird", "animal", "creature", "monster", "robot", "toy", "doll", "car", "vehicle", "house",
    "building", "chair", "lamp", "bag", "backpack", "shoe", "hat", "dress", "shirt", "sword", "vase", "cup",
    "bottle", "plant", "flower",
))
# fmt: on


@dataclass(frozen=True)
class Concept:
    """One LoRA of a merge. `name` is unique in it; `deltas`, by canonical layer name, have the user's weight folded in.

    `kind` is one of `KINDS`; `prompts` are templates of the user's own in place of the usual ones of that kind, for all
    but the held-out prompts.
    """

    name: str
    trigger: str
    class_word: str
    deltas: Mapping[str, Delta] = field(repr=False)
    kind: str = "character"
    prompts: tuple[str, ...] = ()

    @property
    def phrase(self) -> str:
        """How prompts call it: "alice woman"; empty for a LoRA that no word calls."""
        return phrase(self.trigger, self.class_word)


def class_word_in(trigger: str) -> str:
    """The class word that a trigger such as "alice woman" brings along, or nothing."""
    words = trigger.lower().replace(",", " ").split()
    return words[-1] if len(words) > 1 and words[-1] in CLASS_WORDS else ""


def guess_kind(trigger: str, class_word: str) -> str:
    """The kind where nobody said one, as in recipes and requests of version 0.1.0, which knew no other rule."""
    return "style" if phrase(trigger, class_word).lower().endswith("style") else "character"
