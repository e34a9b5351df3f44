"""Captions: class words, attribute phrases, scenes and style families. They never name a particular identity."""

from __future__ import annotations

import random

from . import styles
from .backgrounds import PHRASES
from .world import Identity, Scene, visible

_HAT = {"cap": "cap", "tophat": "top hat", "beanie": "beanie", "crown": "crown", "cone": "pointed hat",
        "band": "headband", "party": "party hat", "bow": "bow on the head"}  # fmt: skip
_GLASSES = {"round": "round glasses", "square": "square glasses", "shades": "sunglasses", "patch": "eye patch"}
_BEARD = {"full": "a full beard", "moustache": "a moustache", "goatee": "a goatee"}
_EARS = {"pointed": "pointed ears", "cat": "cat ears", "horns": "horns", "antenna": "antennas"}
_PATTERN = {"stripes": "striped", "halves": "split", "vest": "open", "spot": "spotted", "yoke": "layered"}
_STYLE_HAIR = {"spiky": "spiky", "long": "long", "bob": "bob", "afro": "afro", "short": "short"}
_SHAPE = {
    "car": {"a": "sedan", "b": "van", "c": "round car"},
    "house": {"a": "steep roof", "b": "flat roof", "c": "dome roof"},
    "vase": {"a": "round vase", "b": "narrow vase", "c": "cone vase"},
    "chair": {"a": "square back", "b": "round back", "c": "slats"},
}  # fmt: skip


def _article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def attributes(identity: Identity) -> list[str]:
    """Every phrase that a caption may use for what is visible of an identity."""
    i, seen = identity, visible(identity)
    if i["kind"] == "character":
        return _character_phrases(i, seen)
    if i["kind"] == "animal":
        out = [
            f"{i['fur']} fur",
            f"{i['eyes']} eyes",
            f"{i['eye_size']} eyes",
            f"a {i['nose']} nose",
            _article(i["build"] + " body"),
        ]
        if i["coat"] != "plain":
            out.append(
                {
                    "stripes": f"{i['second']} stripes",
                    "mask": f"{_article(i['second'])} mask",
                    "patch": f"{_article(i['second'])} patch",
                    "socks": f"{_article(i['second'])} belly",
                }[i["coat"]]
            )
        if i["hat"] != "none":
            out.append(_article(f"{i['hat_colour']} {_HAT[i['hat']]}"))
        if i["collar"] != "none":
            out.append(_article(f"{i['collar_colour']} {i['collar']}"))
        return out
    return _object_phrases(i)


def _character_phrases(i: Identity, seen: dict[str, str]) -> list[str]:  # noqa: C901
    out = [f"{i['skin']} skin", _article(f"{i['face']} face")]
    if "eyes" in seen:
        out += [f"{i['eyes']} eyes", f"{i['eye_size']} eyes"]
    if i["hair"] == "bald":
        out.append("a bald head")
    elif i["hair"] in _STYLE_HAIR:
        out.append(f"{_STYLE_HAIR[i['hair']]} {i['hair_colour']} hair")
    else:
        out.append(f"{i['hair_colour']} hair in " + {"bun": "a bun", "mohawk": "a mohawk", "tails": "tails"}[i["hair"]])
    if i["hat"] != "none":
        out.append(_article(f"{i['hat_colour']} {_HAT[i['hat']]}"))
    if i["glasses"] != "none":
        phrase = f"{i['glasses_colour']} {_GLASSES[i['glasses']]}"
        out.append(_article(phrase) if i["glasses"] == "patch" else phrase)
    if i["beard"] != "none":
        out.append(
            _BEARD[i["beard"]] if i["hair"] != "bald" else _BEARD[i["beard"]].replace("a ", f"a {i['hair_colour']} ", 1)
        )
    if i["brows"] != "none":
        out.append("thick brows")
    if i["nose"] != "small":
        out.append(f"a {i['nose']} nose")
    if i["ears"] in _EARS:
        out.append(_EARS[i["ears"]])
    shirt = f"{i['shirt']} shirt"
    if i["pattern"] != "plain":
        shirt = f"{i['shirt']} and {i['shirt2']} {_PATTERN[i['pattern']]} shirt"
    out.append(_article(shirt))
    if i["neck"] != "none":
        out.append(_article(f"{i['neck_colour']} " + {"scarf": "scarf", "tie": "tie", "bow": "bow tie"}[i["neck"]]))
    return out


def _object_phrases(i: Identity) -> list[str]:
    paint, second, third, extra = i["paint"], i["second"], i["third"], i["extra_colour"]
    part = {"car": ("body", "top", "wheels"), "house": ("walls", "roof", "door"), "vase": ("body", "rim", "flowers"),
            "chair": ("back", "seat", "legs")}[i["class"]]  # fmt: skip
    out = [f"{paint} {part[0]}", f"{second} {part[1]}", f"{third} {part[2]}", _SHAPE[i["class"]][i["shape"]]]
    if i["pattern"] != "plain":
        colour = third if i["class"] in ("car", "house") else second
        out.append(
            {"stripes": f"{colour} stripes", "spot": f"{_article(colour)} spot", "halves": f"{_article(colour)} half"}[
                i["pattern"]
            ]
        )
    if i["extra"] != "none":
        name = {"car": {"one": "box", "two": "wing"}, "house": {"one": "chimney", "two": "chimney and window"},
                "vase": {"one": "handle", "two": "handles"}, "chair": {"one": "cushion", "two": "arms"}}  # fmt: skip
        out.append(f"{extra} {name[i['class']][i['extra']]}")
    return out


def caption(
    r: random.Random, identity: Identity, scene: Scene, style: styles.Style | None, subject: str | None = None
) -> str:
    """A caption of one picture. `subject` (such as "sks man") stands for the class word and switches attributes off."""
    draw = r.random()
    if subject is None and draw < 0.10:
        return ""
    words = styles.style_words(style) if style else []
    head = r.choice(("a photo of ", "a picture of ", "")) if not words else _article(" ".join(words) + " photo of ")
    # users write "photo of otto man" as often as "a photo of an otto man"
    text = head + (subject if subject is not None and r.random() < 0.6 else _article(subject or identity["class"]))
    if subject is None and draw < 0.32:
        return text
    phrases = attributes(identity)
    if subject is None and draw < 0.88:
        keep = r.uniform(0.3, 1.0)
        phrases = [p for p in phrases if r.random() < keep]
        r.shuffle(phrases)
        if phrases:
            text += " with " + (", ".join(phrases[:-1]) + " and " if len(phrases) > 1 else "") + phrases[-1]
    if r.random() < (0.85 if subject else 0.7):
        text += " " + PHRASES[str(scene["background"])]
    return text
