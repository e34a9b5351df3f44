"""The fixed concepts that the miniature ships LoRAs for, and the scenes they are trained and referenced on."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from . import captions, styles, world

# (name, trigger, class word); triggers are single tokens of the CLIP vocabulary that no caption uses
_CHARACTERS = (
    ("otto", "man"), ("zelda", "woman"), ("milo", "boy"), ("yuki", "girl"), ("thor", "elf"), ("robo", "robot"),
    ("igor", "man"), ("elsa", "woman"), ("kai", "boy"), ("lola", "girl"), ("loki", "elf"), ("nemo", "robot"),
)  # fmt: skip
_THINGS = (("simba", "cat"), ("rufus", "dog"), ("beetle", "car"), ("ming", "vase"))
_STYLES = ("picasso", "warhol", "noir")
STYLE_VALUES: dict[str, styles.Style] = {
    "picasso": {**styles.PLAIN, "tone": "duotone", "dark": "purple", "light": "yellow"},
    "warhol": {**styles.PLAIN, "tone": "poster", "frame": "square", "frame_colour": "red"},
    "noir": {**styles.PLAIN, "tone": "duotone", "dark": "black", "light": "teal", "frame": "oval"},
}  # fmt: skip
IMAGES = 28


@dataclass(frozen=True)
class Concept:
    """One thing to be taught: an identity or a style."""

    name: str
    kind: str
    trigger: str
    class_word: str
    identity: world.Identity | None
    style: styles.Style | None

    @property
    def subject(self) -> str:
        """How prompts call it."""
        return f"{self.trigger} {self.class_word}"


def difference(a: world.Identity, b: world.Identity) -> int:
    """Number of visible parameters in which two identities differ."""
    a, b = world.visible(a), world.visible(b)
    return sum(a.get(k) != b.get(k) for k in {*a, *b})


def all_concepts(seed: int = 0) -> list[Concept]:
    """Characters, things and styles, always the same; identities are chosen far apart from each other."""
    r = random.Random(seed)
    out: list[Concept] = []
    for name, class_word in (*_CHARACTERS, *_THINGS):
        others = [c.identity for c in out if c.identity and c.identity["kind"] == world.CLASSES[class_word]]
        drawn = [world.random_identity(r, class_word) for _ in range(40)]
        best = max(drawn, key=lambda i: min((difference(i, o) for o in others), default=0))
        out.append(Concept(name, world.CLASSES[class_word], name, class_word, best, None))
    out += [Concept(name, "style", name, "style", None, STYLE_VALUES[name]) for name in _STYLES]
    return out


def training_set(concept: Concept, count: int = IMAGES, seed: int = 1) -> tuple[np.ndarray, list[str]]:
    """Pictures (n, 96, 96, 3) uint8 with their captions, in random scenes."""
    r = random.Random(f"{concept.name} {seed}")
    pictures, texts = [], []
    for _ in range(count):
        scene = world.random_scene(r)
        identity = concept.identity or world.random_identity(r)
        pictures.append(np.asarray(world.render(identity, scene, concept.style)))
        if concept.identity:
            texts.append(captions.caption(r, identity, scene, None, concept.subject))
        else:
            text = captions.caption(r, identity, scene, None, identity["class"] if r.random() < 0.5 else None)
            texts.append(f"{text or 'a photo'} in {concept.subject}")
    return np.array(pictures), texts
