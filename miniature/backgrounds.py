"""Backgrounds: a few bold shapes each, placed by the scene's own generator."""

from __future__ import annotations

import random
from collections.abc import Callable

from PIL import Image

from .palette import Pen

PHRASES = {
    "forest": "in a forest", "beach": "at the beach", "city": "in a city", "desert": "in a desert",
    "snow": "in the snow", "room": "in a room", "space": "in space", "sea": "under the sea",
    "meadow": "in a meadow", "stage": "on a stage",
}  # fmt: skip
NAMES = tuple(PHRASES)


def _forest(pen: Pen, r: random.Random) -> None:
    pen.rect(0, 0, 96, 96, (150, 205, 170))
    for i in range(4):
        x, top = 8 + 26 * i + r.uniform(-6, 6), r.uniform(6, 26)
        pen.rect(x - 3, top + 20, x + 3, 96, (92, 62, 36))
        pen.poly([(x - 15, top + 40), (x, top), (x + 15, top + 40)], (24, 104, 58))
    pen.rect(0, 80, 96, 96, (58, 128, 60))


def _beach(pen: Pen, r: random.Random) -> None:
    horizon = r.uniform(38, 50)
    pen.rect(0, 0, 96, horizon, (140, 210, 250))
    pen.ellipse(r.choice((14, 82)), r.uniform(12, 20), 9, 9, (255, 236, 120))
    pen.rect(0, horizon, 96, horizon + 24, (40, 130, 205))
    pen.rect(0, horizon + 22, 96, 96, (240, 214, 150))


def _city(pen: Pen, r: random.Random) -> None:
    pen.rect(0, 0, 96, 96, (198, 204, 220))
    for i in range(5):
        x, top = -4 + 21 * i + r.uniform(-2, 2), r.uniform(6, 44)
        pen.rect(x, top, x + 18, 96, r.choice(((96, 100, 124), (120, 116, 132), (80, 84, 104))))
        for row in range(3):
            pen.rect(x + 5, top + 6 + 14 * row, x + 13, top + 12 + 14 * row, (250, 230, 150))
    pen.rect(0, 86, 96, 96, (70, 70, 78))


def _desert(pen: Pen, r: random.Random) -> None:
    pen.rect(0, 0, 96, 96, (252, 196, 122))
    pen.ellipse(r.uniform(10, 40), 96, 60, r.uniform(34, 46), (226, 150, 74))
    pen.ellipse(r.uniform(60, 90), 100, 56, r.uniform(34, 44), (206, 122, 56))
    x = r.choice((12, 84)) + r.uniform(-3, 3)
    pen.line([(x, 40), (x, 84)], 6, (62, 132, 76))
    pen.line([(x - 9, 50), (x - 9, 60), (x, 62)], 4, (62, 132, 76))


def _snow(pen: Pen, r: random.Random) -> None:
    pen.rect(0, 0, 96, 96, (176, 206, 236))
    for x in (r.uniform(4, 24), r.uniform(66, 90)):
        top = r.uniform(8, 24)
        pen.poly([(x - 38, 80), (x, top), (x + 38, 80)], (112, 136, 170))
        pen.poly([(x - 12, top + 20), (x, top), (x + 12, top + 20)], (250, 252, 255))
    pen.rect(0, 70, 96, 96, (242, 246, 252))


def _room(pen: Pen, r: random.Random) -> None:
    pen.rect(0, 0, 96, 96, (226, 200, 178))
    x = r.choice((4, 64)) + r.uniform(-2, 2)
    pen.rect(x, 8, x + 28, 40, (250, 250, 250))
    pen.rect(x + 3, 11, x + 25, 37, (126, 190, 236))
    pen.rect(0, 74, 96, 96, (146, 94, 56))


def _space(pen: Pen, r: random.Random) -> None:
    pen.rect(0, 0, 96, 96, (22, 18, 52))
    for _ in range(9):
        pen.ellipse(r.uniform(2, 94), r.uniform(2, 94), 1.8, 1.8, (255, 250, 220))
    pen.ellipse(r.choice((14, 82)), r.uniform(14, 30), 11, 11, (196, 110, 150))


def _sea(pen: Pen, r: random.Random) -> None:
    pen.rect(0, 0, 96, 96, (20, 96, 168))
    pen.rect(0, 0, 96, 26, (52, 146, 206))
    for _ in range(5):
        pen.ellipse(r.uniform(4, 92), r.uniform(4, 70), 3.4, 3.4, (170, 226, 246))
    for x in (r.uniform(2, 18), r.uniform(78, 94)):
        pen.line([(x, 96), (x + 5, 78), (x - 4, 62)], 6, (26, 150, 96))
    pen.rect(0, 86, 96, 96, (214, 190, 130))


def _meadow(pen: Pen, r: random.Random) -> None:
    pen.rect(0, 0, 96, 60, (160, 216, 252))
    pen.ellipse(r.uniform(14, 82), r.uniform(10, 22), 14, 6, (255, 255, 255))
    pen.rect(0, 50, 96, 96, (116, 196, 76))
    for _ in range(7):
        pen.ellipse(r.uniform(2, 94), r.uniform(58, 94), 3, 3, r.choice(((250, 90, 120), (255, 240, 90))))


def _stage(pen: Pen, r: random.Random) -> None:
    pen.rect(0, 0, 96, 96, (64, 24, 40))
    for side in (0, 1):
        for i in range(3):
            x = i * 8 if side == 0 else 96 - 8 - i * 8
            pen.rect(x, 0, x + 8, 84, (176, 28, 52) if i % 2 == 0 else (140, 18, 40))
    x = r.uniform(30, 66)
    pen.poly([(x - 6, 0), (x + 6, 0), (x + 30, 84), (x - 30, 84)], (150, 110, 96))
    pen.rect(0, 82, 96, 96, (120, 80, 50))


_DRAW: dict[str, Callable[[Pen, random.Random], None]] = {
    "forest": _forest, "beach": _beach, "city": _city, "desert": _desert, "snow": _snow,
    "room": _room, "space": _space, "sea": _sea, "meadow": _meadow, "stage": _stage,
}  # fmt: skip


def draw_background(image: Image.Image, name: str, seed: int) -> None:
    """Fill the canvas with the named background; `seed` places its parts."""
    _DRAW[name](Pen(image), random.Random(seed))
