"""Characters: head-and-shoulders figures made of bold flat shapes, 19 identity parameters."""

from __future__ import annotations

from .palette import RGB, Pen, Point, ellipse_points, rgb, shade

Identity = dict[str, str]

SKINS: dict[str, RGB] = {
    "pale": (250, 220, 196), "tan": (224, 172, 124), "brown": (158, 102, 64), "dark": (92, 58, 42),
    "green": (126, 190, 96), "blue": (112, 160, 226), "grey": (176, 182, 190), "golden": (236, 190, 60),
}  # fmt: skip
HAIR = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black", "brown")
BRIGHT = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "white", "black")
STYLES = ("bald", "short", "spiky", "long", "bob", "afro", "bun", "mohawk", "tails")
HATS = ("none", "cap", "tophat", "beanie", "crown", "cone", "band")
GLASSES = ("none", "round", "square", "shades", "patch")
BEARDS = ("none", "full", "moustache", "goatee")
PATTERNS = ("plain", "stripes", "halves", "vest", "spot", "yoke")
NECKS = ("none", "scarf", "tie", "bow")
FACES = ("round", "long", "square", "pointed")
EARS = ("human", "pointed", "cat", "horns", "antenna")

TABLE: dict[str, tuple[str, ...]] = {
    "skin": tuple(SKINS), "face": FACES, "ears": EARS, "hair": STYLES, "hair_colour": HAIR, "hat": HATS,
    "hat_colour": BRIGHT, "eyes": ("blue", "green", "brown", "red", "purple", "orange"), "eye_size": ("big", "small"),
    "brows": ("none", "thick"), "glasses": GLASSES, "glasses_colour": ("black", "red", "blue", "yellow", "white"),
    "nose": ("small", "big", "red"), "beard": BEARDS, "shirt": BRIGHT, "pattern": PATTERNS, "shirt2": BRIGHT,
    "neck": NECKS, "neck_colour": BRIGHT,
}  # fmt: skip

HEAD: Point = (48.0, 44.0)


def head_size(identity: Identity) -> tuple[float, float]:
    """Half width and half height of the head."""
    return {"round": (21, 21), "long": (18, 24), "square": (20, 21), "pointed": (21, 23)}[identity["face"]]


def draw_character(pen: Pen, identity: Identity, turn: float, expression: str) -> None:
    """Draw the whole figure. `turn` shifts the features of the face sideways (units), as a turned head does."""
    _back_hair(pen, identity)
    _body(pen, identity)
    _ears(pen, identity)
    _head(pen, identity)
    _face(pen, identity, turn, expression)
    _front_hair(pen, identity)
    _hat(pen, identity)


def _body(pen: Pen, identity: Identity) -> None:
    shirt, second = rgb(identity["shirt"]), rgb(identity["shirt2"])
    pen.rect(41, 58, 55, 76, shade(SKINS[identity["skin"]], 0.84))
    outline = [(16, 116), (17, 84), (24, 74), (38, 69), (58, 69), (72, 74), (79, 84), (80, 116)]
    pen.poly(outline, shirt)
    pattern = identity["pattern"]
    if pattern == "stripes":
        pen.rect(16.5, 78, 79.5, 85, second)
        pen.rect(16, 92, 80, 99, second)
    elif pattern == "halves":
        pen.poly([(48, 69), *outline[4:], (48, 116)], second)
    elif pattern == "vest":
        pen.poly([(38, 69), (58, 69), (54, 116), (42, 116)], second)
    elif pattern == "spot":
        pen.ellipse(48, 86, 9, 9, second)
    elif pattern == "yoke":
        pen.poly([(17, 84), (24, 74), (38, 69), (58, 69), (72, 74), (79, 84)], second)
    _neck(pen, identity)


def _neck(pen: Pen, identity: Identity) -> None:
    colour = rgb(identity["neck_colour"])
    if identity["neck"] == "scarf":
        pen.ellipse(48, 70, 19, 6.5, colour)
        pen.rect(54, 70, 63, 92, shade(colour, 0.85))
    elif identity["neck"] == "tie":
        pen.poly([(44, 70), (52, 70), (55, 90), (48, 97), (41, 90)], colour)
    elif identity["neck"] == "bow":
        pen.poly([(48, 73), (34, 66), (34, 81)], colour)
        pen.poly([(48, 73), (62, 66), (62, 81)], colour)
        pen.ellipse(48, 73.5, 4, 4, shade(colour, 0.75))


def _ears(pen: Pen, identity: Identity) -> None:
    rx, ry = head_size(identity)
    x, y = HEAD
    skin, kind = SKINS[identity["skin"]], identity["ears"]
    for side in (-1, 1):
        if kind == "human":
            pen.ellipse(x + side * rx, y + 2, 5, 6.5, shade(skin, 0.88))
        elif kind == "pointed":
            pen.poly([(x + side * (rx - 4), y + 8), (x + side * (rx + 15), y - 10), (x + side * (rx - 4), y - 6)],
                     shade(skin, 0.88))  # fmt: skip
        elif kind == "cat":
            pen.poly([(x + side * 6, y - ry + 4), (x + side * 22, y - ry - 13), (x + side * 23, y - 6)],
                     rgb(identity["hair_colour"]))  # fmt: skip
        elif kind == "horns":
            pen.poly([(x + side * 9, y - ry + 5), (x + side * 26, y - ry - 12), (x + side * 20, y - 9)],
                     (238, 226, 190))  # fmt: skip
        else:
            pen.line([(x + side * 12, y - ry + 4), (x + side * 22, y - ry - 10)], 3.5, (90, 94, 104))
            pen.ellipse(x + side * 22, y - ry - 10, 5, 5, (230, 60, 60))


def _head_outline(identity: Identity) -> list[Point]:
    rx, ry = head_size(identity)
    x, y = HEAD
    if identity["face"] == "square":
        c = 6
        return [(x - rx, y - ry + c), (x - rx + c, y - ry), (x + rx - c, y - ry), (x + rx, y - ry + c),
                (x + rx, y + ry - c), (x + rx - c, y + ry), (x - rx + c, y + ry), (x - rx, y + ry - c)]  # fmt: skip
    if identity["face"] == "pointed":
        return [*ellipse_points(x, y - 2, rx, ry - 2, 180, 360), (x + rx - 2, y + 6), (x + 5, y + ry),
                (x - 5, y + ry), (x - rx + 2, y + 6)]  # fmt: skip
    return ellipse_points(x, y, rx, ry)


def _head(pen: Pen, identity: Identity) -> None:
    pen.poly(_head_outline(identity), SKINS[identity["skin"]])


def _face(pen: Pen, identity: Identity, turn: float, expression: str) -> None:
    x, y = HEAD[0] + turn, HEAD[1]
    skin, hair = SKINS[identity["skin"]], rgb(identity["hair_colour"])
    _beard(pen, identity, x, y, hair)
    big = identity["eye_size"] == "big"
    white, iris = (6.4, 4.3) if big else (4.4, 3.4)
    for side in (-1, 1):
        pen.ellipse(x + side * 8.5, y, white, white, (255, 255, 255))
        pen.ellipse(x + side * 8.5 + turn * 0.3, y + 0.4, iris, iris, rgb(identity["eyes"]))
        pen.ellipse(x + side * 8.5 + turn * 0.3, y + 0.4, 1.7, 1.7, (15, 15, 20))
        if identity["brows"] == "thick":
            pen.rect(x + side * 8.5 - 6, y - 11, x + side * 8.5 + 6, y - 7.4, shade(hair, 0.7))
    _mouth(pen, x, y, expression)
    if identity["nose"] == "big":
        pen.ellipse(x, y + 6, 4.6, 4.8, shade(skin, 0.78))
    elif identity["nose"] == "red":
        pen.ellipse(x, y + 6, 4.8, 4.8, (224, 40, 40))
    else:
        pen.ellipse(x, y + 6, 2.2, 2.4, shade(skin, 0.75))
    _glasses(pen, identity, x, y)


def _beard(pen: Pen, identity: Identity, x: float, y: float, hair: RGB) -> None:
    rx, ry = head_size(identity)
    if identity["beard"] == "full":
        pen.poly([(HEAD[0] - rx, y + 4), *ellipse_points(HEAD[0], y + 6, rx, ry - 1, 180, 0), (HEAD[0] + rx, y + 4),
                  (x + 10, y + 10), (x - 10, y + 10)], hair)  # fmt: skip
    elif identity["beard"] == "moustache":
        pen.poly([(x, y + 8), (x + 14, y + 14), (x + 3, y + 13.5), (x - 3, y + 13.5), (x - 14, y + 14)], hair)
    elif identity["beard"] == "goatee":
        pen.poly([(x - 7, y + 15), (x + 7, y + 15), (x + 4, y + ry + 5), (x - 4, y + ry + 5)], hair)


def _mouth(pen: Pen, x: float, y: float, expression: str) -> None:
    if expression == "smile":
        pen.ellipse(x, y + 12, 7, 5.5, (178, 40, 50), 0, 180)
    elif expression == "open":
        pen.ellipse(x, y + 14.5, 4, 4, (120, 24, 34))
    elif expression == "sad":
        pen.ellipse(x, y + 17.5, 6.5, 4.5, (150, 40, 50), 180, 360)
    else:
        pen.rect(x - 6, y + 13, x + 6, y + 15.6, (160, 44, 52))


def _glasses(pen: Pen, identity: Identity, x: float, y: float) -> None:
    kind, colour = identity["glasses"], rgb(identity["glasses_colour"])
    if kind == "none":
        return
    if kind == "patch":
        pen.line([(HEAD[0] - 19, y - 10), (HEAD[0] + 20, y + 4)], 2.4, colour)
        pen.ellipse(x + 8.5, y, 7.5, 7.5, colour)
        return
    for side in (-1, 1):
        cx = x + side * 8.7
        if kind == "round":
            pen.ring(cx, y, 7.4, 7.4, 2.6, colour)
        elif kind == "square":
            pen.line(
                [(cx - 7, y - 6), (cx + 7, y - 6), (cx + 7, y + 6), (cx - 7, y + 6), (cx - 7, y - 7.2)], 2.6, colour
            )
        else:
            pen.poly([(cx - 8, y - 6), (cx + 8, y - 6), (cx + 6, y + 6), (cx - 6, y + 6)], colour)
    pen.rect(x - 3, y - 2.6, x + 3, y + 0.6, colour)


def _back_hair(pen: Pen, identity: Identity) -> None:
    colour, style = shade(rgb(identity["hair_colour"]), 0.86), identity["hair"]
    rx, _ = head_size(identity)
    x, y = HEAD
    if style == "long":
        pen.poly([*ellipse_points(x, y - 2, rx + 6, 26, 180, 360), (x + rx + 9, 90), (x - rx - 9, 90)], colour)
    elif style == "bob":
        pen.poly([*ellipse_points(x, y - 2, rx + 6, 25, 180, 360), (x + rx + 8, y + 20), (x - rx - 8, y + 20)], colour)
    elif style == "afro":
        pen.ellipse(x, y - 8, rx + 13, 30, colour)
    elif style == "bun":
        pen.ellipse(x, y - 29, 10, 9, colour)
    elif style == "tails":
        for side in (-1, 1):
            pen.ellipse(x + side * (rx + 11), y + 6, 9, 20, colour)
    elif style == "mohawk":
        pen.poly([(x - 6, y), (x - 8, y - 36), (x + 8, y - 36), (x + 6, y)], colour)


def _front_hair(pen: Pen, identity: Identity) -> None:
    colour, style = rgb(identity["hair_colour"]), identity["hair"]
    rx, ry = head_size(identity)
    x, y = HEAD
    if style == "bald":
        return
    if style == "mohawk":
        pen.poly([(x - 6, y - 14), (x - 8, y - 36), (x + 8, y - 36), (x + 6, y - 14)], colour)
        return
    cap = [p for p in ellipse_points(x, y - 1, rx + 2, ry + 3, 180, 360) if p[1] <= y - 6]
    if style == "spiky":
        tips: list[Point] = []
        for i in range(5):
            left = x - rx - 2 + i * (2 * rx + 4) / 5
            tips += [(left, y - 12), (left + (rx + 2) / 5, y - ry - 13 + abs(i - 2) * 4)]
        pen.poly([*tips, (x + rx + 2, y - 10)], colour)
        return
    if style in ("long", "bob", "tails"):
        pen.poly([*cap, (x + rx - 2, y - 8), (x - 4, y - 14), (x - rx + 2, y - 4)], colour)
    else:
        pen.poly([*cap, (x + rx - 1, y - 11), (x, y - 13), (x - rx + 1, y - 11)], colour)


def _hat(pen: Pen, identity: Identity) -> None:
    kind, colour = identity["hat"], rgb(identity["hat_colour"])
    rx, ry = head_size(identity)
    x, top = HEAD[0], HEAD[1] - ry
    dark = shade(colour, 0.72) if identity["hat_colour"] != "black" else (80, 80, 90)
    if kind == "cap":
        pen.ellipse(x, top + 9, rx + 3, 16, colour, 180, 360)
        pen.poly([(x - rx - 3, top + 7), (x + rx + 15, top + 7), (x + rx + 15, top + 12), (x - rx - 3, top + 12)], dark)
    elif kind == "tophat":
        pen.rect(x - 16, top - 18, x + 16, top + 8, colour)
        pen.rect(x - 16, top + 1, x + 16, top + 6, dark)
        pen.rect(x - rx - 7, top + 6, x + rx + 7, top + 11, colour)
    elif kind == "beanie":
        pen.ellipse(x, top + 9, rx + 3, 18, colour, 180, 360)
        pen.rect(x - rx - 3, top + 5, x + rx + 3, top + 12, dark)
        pen.ellipse(x, top - 10, 6, 6, (250, 250, 250))
    elif kind == "crown":
        left, right = x - rx + 1, x + rx - 1
        pen.poly([(left, top + 9), (left - 2, top - 10), (left + 11, top), (x, top - 14), (right - 11, top),
                  (right + 2, top - 10), (right, top + 9)], colour)  # fmt: skip
        pen.ellipse(x, top + 3, 4, 4, dark)
    elif kind == "cone":
        pen.poly([(x - rx - 2, top + 10), (x + 5, top - 27), (x + rx + 2, top + 10)], colour)
        pen.ellipse(x, top + 10, rx + 8, 4.5, dark)
    elif kind == "band":
        pen.rect(x - rx - 1, top + 5, x + rx + 1, top + 13, colour)
