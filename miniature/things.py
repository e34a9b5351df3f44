"""Animals and objects: bold flat drawings with seven to ten identity parameters each."""

from __future__ import annotations

from .palette import RGB, Pen, rgb, shade

Identity = dict[str, str]

FURS = ("orange", "yellow", "green", "blue", "purple", "pink", "white", "black", "grey", "brown")
PAINTS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "white", "black")

ANIMAL_TABLE: dict[str, tuple[str, ...]] = {
    "fur": FURS, "second": FURS, "coat": ("plain", "stripes", "mask", "patch", "socks"),
    "eyes": ("blue", "green", "brown", "red", "yellow"), "eye_size": ("big", "small"), "nose": ("pink", "black", "red"),
    "hat": ("none", "crown", "party", "bow"), "hat_colour": PAINTS,
    "collar": ("none", "collar", "scarf"), "collar_colour": PAINTS, "build": ("slim", "fat"),
}  # fmt: skip
OBJECT_TABLE: dict[str, tuple[str, ...]] = {
    "paint": PAINTS, "second": PAINTS, "third": PAINTS, "shape": ("a", "b", "c"),
    "pattern": ("plain", "stripes", "spot", "halves"), "extra": ("none", "one", "two"), "extra_colour": PAINTS,
}  # fmt: skip
ANIMALS = ("cat", "dog", "rabbit", "bear")
OBJECTS = ("car", "house", "vase", "chair")


def draw_animal(pen: Pen, identity: Identity, turn: float, expression: str) -> None:
    """A sitting animal seen from the front."""
    fur, second = rgb(identity["fur"]), rgb(identity["second"])
    width = 25 if identity["build"] == "fat" else 18
    pen.ellipse(48, 88, width, 28, fur)
    if identity["coat"] == "stripes":
        pen.rect(48 - width + 2, 76, 48 + width - 2, 81, second)
        pen.rect(48 - width, 87, 48 + width, 92, second)
    elif identity["coat"] != "plain":
        pen.ellipse(48, 90, width * 0.55, 20, second)
    _animal_ears(pen, identity, fur, second)
    pen.ellipse(48, 44, 26, 21, fur)
    if identity["coat"] == "mask":
        pen.ellipse(48, 44, 25, 10, second)
    elif identity["coat"] == "patch":
        pen.ellipse(59, 40, 11, 12, second)
    elif identity["coat"] == "stripes":
        for dx in (-10, 0, 10):
            pen.rect(48 + dx - 2.4, 23 + abs(dx) * 0.3, 48 + dx + 2.4, 34, second)
    _animal_face(pen, identity, turn, expression)
    _animal_wear(pen, identity)


def _animal_ears(pen: Pen, identity: Identity, fur: RGB, second: RGB) -> None:
    inner = second if identity["coat"] != "plain" else shade(fur, 0.75)
    for side in (-1, 1):
        if identity["class"] == "cat":
            pen.poly([(48 + side * 7, 26), (48 + side * 24, 6), (48 + side * 26, 40)], fur)
            pen.poly([(48 + side * 13, 26), (48 + side * 22, 13), (48 + side * 23, 32)], inner)
        elif identity["class"] == "dog":
            pen.ellipse(48 + side * 27, 46, 8, 19, inner)
        elif identity["class"] == "rabbit":
            pen.ellipse(48 + side * 11, 12, 7.5, 24, fur)
            pen.ellipse(48 + side * 11, 12, 3.8, 17, inner)
        else:
            pen.ellipse(48 + side * 20, 25, 10, 10, fur)
            pen.ellipse(48 + side * 20, 25, 5.4, 5.4, inner)


def _animal_face(pen: Pen, identity: Identity, turn: float, expression: str) -> None:
    x, y = 48 + turn, 42.0
    fur = rgb(identity["fur"])
    white, iris = (6.8, 4.6) if identity["eye_size"] == "big" else (4.8, 3.6)
    for side in (-1, 1):
        pen.ellipse(x + side * 10.5, y, white, white, (255, 255, 255))
        pen.ellipse(x + side * 10.5, y + 0.3, iris, iris, rgb(identity["eyes"]))
        pen.ellipse(x + side * 10.5, y + 0.3, 1.8, 2.6, (15, 15, 20))
    muzzle = (250, 244, 232) if identity["fur"] not in ("white", "yellow") else (206, 190, 160)
    pen.ellipse(x, y + 13, 11, 7.5, muzzle)
    pen.poly([(x - 5, y + 7.5), (x + 5, y + 7.5), (x, y + 13)], rgb(identity["nose"]))
    if expression == "open":
        pen.ellipse(x, y + 16.5, 4, 3, (150, 30, 40))
    else:
        pen.rect(x - 4, y + 15.5, x + 4, y + 17.5, shade(fur, 0.4))


def _animal_wear(pen: Pen, identity: Identity) -> None:
    hat, collar = rgb(identity["hat_colour"]), rgb(identity["collar_colour"])
    if identity["collar"] == "collar":
        pen.rect(31, 64, 65, 70, collar)
        pen.ellipse(48, 72, 4.4, 4.4, (250, 214, 60))
    elif identity["collar"] == "scarf":
        pen.ellipse(48, 67, 20, 6, collar)
        pen.rect(54, 67, 64, 90, shade(collar, 0.82))
    if identity["hat"] == "crown":
        pen.poly([(36, 27), (33, 9), (42, 17), (48, 6), (54, 17), (63, 9), (60, 27)], hat)
    elif identity["hat"] == "party":
        pen.poly([(37, 27), (48, -1), (59, 27)], hat)
        pen.ellipse(48, 1, 4.5, 4.5, (255, 255, 255))
    elif identity["hat"] == "bow":
        pen.poly([(48, 21), (33, 13), (33, 29)], hat)
        pen.poly([(48, 21), (63, 13), (63, 29)], hat)
        pen.ellipse(48, 21, 4.5, 4.5, shade(hat, 0.75))


def draw_object(pen: Pen, identity: Identity) -> None:
    """A car, house, vase or chair."""
    {"car": _car, "house": _house, "vase": _vase, "chair": _chair}[identity["class"]](pen, identity)


def _car(pen: Pen, identity: Identity) -> None:
    paint, second, third = rgb(identity["paint"]), rgb(identity["second"]), rgb(identity["third"])
    extra = rgb(identity["extra_colour"])
    if identity["shape"] == "a":
        pen.poly([(22, 52), (34, 34), (62, 34), (74, 52)], second)
        pen.poly([(30, 50), (37, 38), (47, 38), (47, 50)], (190, 226, 246))
        pen.poly([(51, 50), (51, 38), (59, 38), (66, 50)], (190, 226, 246))
    elif identity["shape"] == "b":
        pen.rect(10, 28, 66, 54, second)
        for x in (15, 32, 49):
            pen.rect(x, 33, x + 12, 46, (190, 226, 246))
    else:
        pen.ellipse(46, 54, 28, 26, second, 180, 360)
        pen.ellipse(46, 52, 19, 17, (190, 226, 246), 180, 360)
    pen.poly([(6, 52), (84, 50), (92, 58), (92, 74), (6, 74)], paint)
    if identity["pattern"] == "stripes":
        pen.rect(6, 59, 92, 65, third)
    elif identity["pattern"] == "spot":
        pen.ellipse(49, 61, 8, 8, third)
    elif identity["pattern"] == "halves":
        pen.poly([(49, 51), (84, 50), (92, 58), (92, 74), (49, 74)], third)
    for x in (25, 73):
        pen.ellipse(x, 74, 11, 11, (24, 24, 30))
        pen.ellipse(x, 74, 5.6, 5.6, third)
    if identity["extra"] == "one":
        pen.rect(38, 22, 58, 31, extra)
    elif identity["extra"] == "two":
        pen.poly([(2, 40), (18, 40), (20, 46), (8, 46), (8, 54), (2, 54)], extra)


def _house(pen: Pen, identity: Identity) -> None:
    paint, second, third = rgb(identity["paint"]), rgb(identity["second"]), rgb(identity["third"])
    extra = rgb(identity["extra_colour"])
    if identity["extra"] != "none":
        pen.rect(64, 14, 73, 40, extra)
    pen.rect(20, 44, 76, 92, paint)
    if identity["pattern"] == "stripes":
        for y in (54, 68, 82):
            pen.rect(20, y, 76, y + 6, third)
    elif identity["pattern"] == "halves":
        pen.rect(48, 44, 76, 92, third)
    elif identity["pattern"] == "spot":
        pen.ellipse(48, 52, 7, 7, third)
    if identity["shape"] == "a":
        pen.poly([(12, 46), (48, 10), (84, 46)], second)
    elif identity["shape"] == "b":
        pen.poly([(14, 46), (28, 22), (68, 22), (82, 46)], second)
    else:
        pen.ellipse(48, 46, 34, 32, second, 180, 360)
    pen.rect(42, 70, 55, 92, third if identity["pattern"] == "plain" else shade(second, 0.6))
    for x in (26, 60):
        pen.rect(x, 58, x + 11, 69, (252, 240, 170))
    if identity["extra"] == "two":
        pen.ellipse(48, 34, 6, 6, extra)


def _vase(pen: Pen, identity: Identity) -> None:
    paint, second, third = rgb(identity["paint"]), rgb(identity["second"]), rgb(identity["third"])
    extra = rgb(identity["extra_colour"])
    for x, y in ((36, 16), (60, 14), (48, 6)):
        pen.line([(48, 44), (x, y)], 3, (60, 140, 66))
        pen.ellipse(x, y, 8, 8, third)
        pen.ellipse(x, y, 3.4, 3.4, (255, 230, 110))
    if identity["extra"] != "none":
        for x in (-1, 1) if identity["extra"] == "two" else (1,):
            pen.ring(48 + x * 22, 58, 9, 11, 4.5, extra)
    width = {"a": [12, 27, 27, 14], "b": [20, 14, 14, 24], "c": [24, 20, 16, 12]}[identity["shape"]]
    ys = [38, 56, 74, 94]
    right = [(48 + w, y) for w, y in zip(width, ys, strict=True)]
    pen.poly([(96 - x, y) for x, y in right] + right[::-1], paint)
    if identity["pattern"] == "stripes":
        pen.poly([(48 - width[1], 56), (48 + width[1], 56), (48 + width[2], 74), (48 - width[2], 74)], second)
    elif identity["pattern"] == "spot":
        pen.ellipse(48, 66, 9, 9, second)
    elif identity["pattern"] == "halves":
        pen.poly([(48, 38), *right, (48, 94)], second)
    pen.rect(48 - width[0] - 3, 36, 48 + width[0] + 3, 42, second)


def _chair(pen: Pen, identity: Identity) -> None:  # noqa: C901
    paint, second, third = rgb(identity["paint"]), rgb(identity["second"]), rgb(identity["third"])
    extra = rgb(identity["extra_colour"])
    for x in (25, 65):
        pen.rect(x, 66, x + 6, 95, third)
    if identity["shape"] == "a":
        pen.rect(24, 14, 72, 62, paint)
    elif identity["shape"] == "b":
        pen.ellipse(48, 38, 27, 28, paint)
    else:
        for x in (24, 42, 60):
            pen.rect(x, 18, x + 12, 62, paint)
        pen.rect(22, 12, 74, 22, paint)
    if identity["pattern"] == "stripes":
        pen.rect(25, 32, 71, 40, second)
    elif identity["pattern"] == "spot":
        pen.ellipse(48, 37, 9, 9, second)
    elif identity["pattern"] == "halves":
        pen.rect(48, 20, 70, 60, second)
    pen.poly([(20, 60), (76, 60), (80, 72), (16, 72)], second)
    if identity["extra"] == "one":
        pen.ellipse(48, 57, 15, 7, extra)
    elif identity["extra"] == "two":
        for x in (14, 74):
            pen.rect(x, 48, x + 8, 68, extra)
