"""The drawn world: identities, scenes, pictures and captions. Everything is a pure function of its arguments.

An *identity* is a dict of named choices (`kind`, `class` and the parameters of the kind's table), a *scene* is all that
varies between two pictures of one identity (pose, background, light), a *style* changes the whole picture.
"""

from __future__ import annotations

import random

import numpy as np
from PIL import Image

from . import backgrounds, characters, styles, things
from .palette import SIZE, SUPERSAMPLE, Pen

Identity = dict[str, str]
Scene = dict[str, float | int | str | bool]

PEOPLE = ("man", "woman", "boy", "girl", "elf", "robot")
CLASSES = {**dict.fromkeys(PEOPLE, "character"), **dict.fromkeys(things.ANIMALS, "animal"),
           **dict.fromkeys(things.OBJECTS, "object")}  # fmt: skip
EXPRESSIONS = ("smile", "open", "sad", "calm")
# What each class rules out or prefers, so that a class word means something.
LIMITS: dict[str, dict[str, tuple[str, ...]]] = {
    "man": {"hair": ("bald", "short", "spiky", "afro", "mohawk"), "ears": ("human", "cat", "horns"),
            "eye_size": ("small",)},
    "woman": {"hair": ("long", "bob", "afro", "bun", "tails"), "ears": ("human", "cat", "horns"), "beard": ("none",)},
    "boy": {"hair": ("short", "spiky", "mohawk", "afro"), "ears": ("human", "cat", "horns"), "beard": ("none",),
            "eye_size": ("big",), "face": ("round", "square")},
    "girl": {"hair": ("bob", "bun", "tails", "long"), "ears": ("human", "cat", "horns"), "beard": ("none",),
             "eye_size": ("big",), "face": ("round",)},
    "elf": {"ears": ("pointed",)},
    "robot": {"hair": ("bald",), "ears": ("antenna",), "face": ("square",), "beard": ("none",),
              "skin": ("grey", "golden", "blue", "green")},
}  # fmt: skip


def table(kind: str) -> dict[str, tuple[str, ...]]:
    """Parameters of a kind and the values each may take."""
    return {"character": characters.TABLE, "animal": things.ANIMAL_TABLE, "object": things.OBJECT_TABLE}[kind]


def random_identity(r: random.Random, class_word: str | None = None) -> Identity:
    """Draw an identity; characters are drawn more often than animals and objects."""
    if class_word is None:
        pool = PEOPLE if r.random() < 0.64 else (*things.ANIMALS, *things.OBJECTS)
        class_word = r.choice(pool)
    kind = CLASSES[class_word]
    limits = LIMITS.get(class_word, {})
    identity = {"kind": kind, "class": class_word}
    for key, values in table(kind).items():
        choices = limits.get(key, values)
        # "none" twice as often: a face with hat, glasses, beard and scarf at once hides itself
        identity[key] = r.choice((*choices, "none") if "none" in choices else choices)
    return _make_distinct(identity, r)


def _make_distinct(identity: Identity, r: random.Random) -> Identity:
    """Second colours must differ from the first, or a pattern would be invisible."""
    for first, second in (("shirt", "shirt2"), ("shirt", "neck_colour"), ("fur", "second"), ("paint", "second")):
        values = table(identity["kind"]).get(second, ())
        while values and first in identity and identity[first] == identity[second]:
            identity[second] = r.choice(values)
    return identity


def visible(identity: Identity) -> dict[str, str]:
    """The identity without parameters that cannot be seen (the colour of a hat that is not worn)."""
    gone = set()
    for owner, value, slave in (
        ("hat", "none", "hat_colour"), ("glasses", "none", "glasses_colour"), ("pattern", "plain", "shirt2"),
        ("neck", "none", "neck_colour"), ("collar", "none", "collar_colour"), ("coat", "plain", "second"),
        ("extra", "none", "extra_colour"), ("glasses", "shades", "eyes"), ("glasses", "shades", "eye_size"),
    ):  # fmt: skip
        if identity.get(owner) == value and slave in identity:
            gone.add(slave)
    if identity.get("hair") == "bald" and identity.get("ears") != "cat" and identity.get("beard") == "none":
        gone.add("hair_colour") if identity["brows"] == "none" else None
    return {key: value for key, value in identity.items() if key not in gone}


def near_identity(identity: Identity, r: random.Random, changes: int) -> Identity:
    """A hard negative: the same identity with `changes` visible parameters replaced."""
    other = dict(identity)
    limits = LIMITS.get(identity["class"], {})
    seen = visible(identity)
    keys = [k for k, v in table(identity["kind"]).items() if k in seen and len(limits.get(k, v)) > 1]
    for key in r.sample(keys, min(changes, len(keys))):
        values = limits.get(key, table(identity["kind"])[key])
        other[key] = r.choice([v for v in values if v != identity[key]])
    return _make_distinct(other, r)


def random_scene(r: random.Random) -> Scene:
    """Everything that varies between pictures of one identity."""
    return {
        "background": r.choice(backgrounds.NAMES), "seed": r.randrange(1 << 30), "scale": r.uniform(0.82, 1.02),
        "angle": r.uniform(-9, 9), "dx": r.uniform(-8, 8), "dy": r.uniform(-1, 7), "mirror": r.random() < 0.5,
        "turn": r.uniform(-3.5, 3.5), "expression": r.choice(EXPRESSIONS), "light": r.uniform(0.86, 1.08),
        "warmth": r.uniform(-0.05, 0.05),
    }  # fmt: skip


def render(identity: Identity, scene: Scene, style: styles.Style | None = None) -> Image.Image:
    """Draw a 96 x 96 RGB picture."""
    image = Image.new("RGB", (SIZE * SUPERSAMPLE, SIZE * SUPERSAMPLE))
    backgrounds.draw_background(image, str(scene["background"]), int(scene["seed"]))
    pen = Pen(image, float(scene["scale"]), float(scene["angle"]), (float(scene["dx"]), float(scene["dy"])),
              bool(scene["mirror"]), (48.0, 60.0))  # fmt: skip
    if identity["kind"] == "character":
        characters.draw_character(pen, identity, float(scene["turn"]), str(scene["expression"]))
    elif identity["kind"] == "animal":
        things.draw_animal(pen, identity, float(scene["turn"]), str(scene["expression"]))
    else:
        things.draw_object(pen, identity)
    image = image.resize((SIZE, SIZE), Image.Resampling.BOX)
    warmth = float(scene["warmth"])
    gain = np.array([1 + warmth, 1.0, 1 - warmth], dtype=np.float32) * float(scene["light"])
    image = Image.fromarray(np.clip(np.asarray(image, dtype=np.float32) * gain, 0, 255).astype(np.uint8))
    return styles.apply_style(image, style) if style else image
