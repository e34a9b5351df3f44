"""What the model is asked to draw while it is watched.

`{c}` is the concept (its trigger and class word), `{other}` something else. The templates put the concept into other
places and media and beside other things, because a merge that has only seen "photo of {c}" fits these few rows exactly
and forgets the rest. A concept's prompts do not depend on which other LoRAs are merged, so that a subset finds them in
the cache.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

SAMPLE_TEMPLATES = (
    "a photo of {c}", "{c} in a forest", "a photo of {c} next to {other}", "a painting of {c}",
    "a picture of {c} in a city", "a close-up photo of {c}", "{c} at the beach", "a drawing of {c}",
)  # fmt: skip
TEXT_TEMPLATES = (
    *SAMPLE_TEMPLATES, "{c}", "photo of {c}", "{c} in the snow", "a photo of {c} on a stage, full body",
    "{other} and {c}", "{c}, {other} in the background", "a 3d render of {c} in space", "the face of {c}",
)  # fmt: skip
HELD_OUT_TEMPLATES = (
    "a picture of {c} under the sea", "{c} standing in a meadow", "a sketch of {c} in a room", "{c} with {other}",
)  # fmt: skip
OBJECT_TEMPLATES = (
    "a photo of {c}", "{c} on a table", "a photo of {c} next to {other}", "a painting of {c}",
    "a picture of {c} in a city", "a close-up photo of {c}", "{c} in a forest", "a drawing of {c}",
)  # fmt: skip
STYLE_SAMPLE_TEMPLATES = (
    "a photo of {other} in {c}", "{other} in a forest, {c}", "a picture of {other} in a city in {c}",
    "{c}, {other} at the beach", "a close-up photo of {other} in {c}", "{other} on a stage in {c}",
)  # fmt: skip
STYLE_TEXT_TEMPLATES = (*STYLE_SAMPLE_TEMPLATES, "{c}", "a forest in {c}", "{other} in the snow in {c}")
STYLE_HELD_OUT_TEMPLATES = ("a picture of {other} under the sea in {c}", "{other} standing in a meadow, {c}")
EVERYTHING = ("a photo of {other}", "{other} in a forest", "a picture of {other} in a city", "{other} at the beach")
EVERYTHING_HELD_OUT = ("a picture of {other} under the sea", "{other} standing in a meadow")
CLASS_TEMPLATES = ("a photo of {c}", "{c} in a forest", "a painting of {c}", "{c}", "a picture of {c} in a city")
SCENES = ("", "a photo of a dog", "a forest", "a woman in a city", "the beach", "a room with a table", "a man")
OTHERS = ("a dog", "a woman", "a man", "a car", "a house", "a chair")


def check_templates(prompts: tuple[str, ...]) -> tuple[str, ...]:
    """Prompts in which {c} and {other} may stand, and no other field. Raises ValueError."""
    try:
        for prompt in prompts:
            prompt.format(c="", other="")
    except (KeyError, IndexError, ValueError, AttributeError):
        raise ValueError("prompts with no other braces than {c} and {other}") from None
    return prompts


def phrase(trigger: str, class_word: str) -> str:
    """How a prompt calls the concept: its trigger, followed by its class word unless the trigger contains it."""
    trigger, class_word = trigger.strip(), class_word.strip()
    if class_word and not re.search(rf"\b{re.escape(class_word)}\b", trigger, re.IGNORECASE):
        return f"{trigger} {class_word}" if trigger else with_article(class_word)
    return trigger


class Templates(NamedTuple):
    """Which templates a concept is captured with."""

    text: tuple[str, ...]
    sample: tuple[str, ...]
    held_out: tuple[str, ...]


CHARACTER = Templates(TEXT_TEMPLATES, SAMPLE_TEMPLATES, HELD_OUT_TEMPLATES)


def templates_for(kind: str, called: str, character: Templates = CHARACTER) -> Templates:
    """Of a concept of this kind (`concept.KINDS`) that prompts call so; `character` replaces those of a character.

    A style is drawn on other things; a LoRA that no word calls acts on everything.
    """
    if not called:
        return Templates(EVERYTHING, EVERYTHING, EVERYTHING_HELD_OUT)
    if kind == "style":
        return Templates(STYLE_TEXT_TEMPLATES, STYLE_SAMPLE_TEMPLATES, STYLE_HELD_OUT_TEMPLATES)
    if kind == "object":
        return Templates(OBJECT_TEMPLATES, OBJECT_TEMPLATES, character.held_out)
    return character


def with_article(noun: str) -> str:
    """An elf, a dog."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def filled(templates: Sequence[str], concept: str, first: int, count: int) -> tuple[str, ...]:
    """`count` prompts from the templates in turn, beginning at number `first`; {other} rotates with the number."""
    others = [other for other in OTHERS if other.split()[-1] not in concept.split()]
    numbers = range(first, first + count)
    return tuple(templates[k % len(templates)].format(c=concept, other=others[k % len(others)]) for k in numbers)


def neutral(class_words: Sequence[str], scenes: Sequence[str]) -> tuple[str, ...]:
    """Prompts that must stay as they are: scenes (one is empty) and every class word in several settings, by turns."""
    nouns = [with_article(word) for word in dict.fromkeys(word.strip().lower() for word in class_words) if word]
    classes = [template.format(c=noun) for template in CLASS_TEMPLATES for noun in nouns]
    by_turns = [prompt for pair in zip_longest(scenes, classes) for prompt in pair if prompt is not None]
    return tuple(dict.fromkeys(by_turns))


def in_turn(prompts: Sequence[str], first: int, count: int) -> tuple[str, ...]:
    """`count` of the prompts, beginning at number `first`, round and round."""
    return tuple(prompts[k % len(prompts)] for k in range(first, first + count))
