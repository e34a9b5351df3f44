"""What kind of thing a LoRA shows decides what the model draws while it is watched."""

from __future__ import annotations

import re

from lib_loraclr.capture.prompts import (
    EVERYTHING,
    SAMPLE_TEMPLATES,
    STYLE_SAMPLE_TEMPLATES,
    phrase,
)
from lib_loraclr.merging.inputs import class_word_in

KINDS = {"character": "Character", "object": "Object", "style": "Style"}
OBJECT_TEMPLATES = (
    "a photo of {c}", "{c} on a table", "a photo of {c} next to {other}", "a painting of {c}",
    "a picture of {c} in a city", "a close-up photo of {c}", "{c} in a forest", "a drawing of {c}",
)  # fmt: skip
OBJECT_WORDS = frozenset((
    "robot", "toy", "doll", "car", "vehicle", "house", "building", "chair", "lamp", "bag", "backpack", "shoe", "hat",
    "dress", "shirt", "sword", "vase", "cup", "bottle", "plant", "flower", "clothes", "armor", "weapon", "mug",
))  # fmt: skip


def guess_kind(name: str, trigger: str) -> str:
    """From the words of its name and trigger."""
    words = set(re.split(r"[^a-z]+", f"{name} {trigger}".lower()))
    if "style" in words:
        return "style"
    return "object" if class_word_in(trigger) in OBJECT_WORDS or words & OBJECT_WORDS else "character"


def usual_prompts(kind: str, trigger: str, class_word: str) -> tuple[str, ...]:
    """The prompts that a card shows before anybody edits them; a LoRA that no word calls acts on everything."""
    if not phrase(trigger, class_word):
        return EVERYTHING
    return {"style": STYLE_SAMPLE_TEMPLATES, "object": OBJECT_TEMPLATES}.get(kind, SAMPLE_TEMPLATES)


def prompts_for_job(kind: str, trigger: str, class_word: str, prompts: tuple[str, ...]) -> tuple[str, ...]:
    """What `LoraChoice.prompts` should be: nothing where the job's own choice of prompts is meant.

    The job draws unedited characters, styles whose phrase says so, and LoRAs without a trigger by itself, with more
    templates for the text encoder than a card shows.
    """
    usual = usual_prompts(kind, trigger, class_word)
    if prompts and prompts != usual:
        return prompts
    by_itself = usual_prompts(unprompted_kind(trigger, class_word), trigger, class_word)
    return () if usual == by_itself else usual


def unprompted_kind(trigger: str, class_word: str) -> str:
    """What the job takes a LoRA for when no prompts are given: nobody guesses objects there."""
    return "style" if phrase(trigger, class_word).lower().endswith("style") else "character"


def is_usual(prompts: tuple[str, ...]) -> bool:
    """Whether the prompts are those of some kind, so that another kind may replace them."""
    return not prompts or prompts in (SAMPLE_TEMPLATES, STYLE_SAMPLE_TEMPLATES, OBJECT_TEMPLATES, EVERYTHING)
