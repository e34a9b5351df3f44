"""Named colours and a pen that draws in a rotated, scaled and mirrored coordinate frame."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

SIZE = 96
SUPERSAMPLE = 2

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 44, 44), "orange": (242, 138, 36), "yellow": (250, 216, 56), "green": (52, 156, 66),
    "teal": (24, 168, 166), "blue": (44, 84, 214), "purple": (134, 58, 184), "pink": (248, 142, 192),
    "white": (246, 246, 242), "black": (28, 28, 34), "grey": (142, 142, 148), "brown": (120, 72, 36),
}  # fmt: skip
COLOUR_NAMES = tuple(COLOURS)

Point = tuple[float, float]
RGB = tuple[int, int, int]


def rgb(name: str) -> RGB:
    """The RGB value of a named colour."""
    return COLOURS[name]


def shade(colour: RGB, factor: float) -> RGB:
    """Darken (factor < 1) or lighten (factor > 1) a colour."""
    return tuple(max(0, min(255, round(c * factor))) for c in colour)  # type: ignore[return-value]


def ellipse_points(cx: float, cy: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0) -> list[Point]:
    """Points of an elliptic arc, degrees, clockwise from three o'clock (PIL's convention)."""
    steps = max(8, int(abs(end - start) / 12))
    angles = (math.radians(start + (end - start) * i / steps) for i in range(steps + 1))
    return [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles]


class Pen:
    """Draws shapes given in 96-unit picture coordinates onto a supersampled canvas, through an affine frame."""

    def __init__(
        self,
        image: Image.Image,
        scale: float = 1.0,
        angle: float = 0.0,
        shift: Point = (0.0, 0.0),
        mirror: bool = False,
        centre: Point = (48.0, 48.0),
    ) -> None:
        self.draw = ImageDraw.Draw(image)
        self.zoom = image.width / SIZE
        self.scale, self.mirror, self.shift, self.centre = scale, mirror, shift, centre
        self.cos, self.sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))

    def place(self, point: Point) -> Point:
        """Map a point of the drawing to canvas pixels."""
        x, y = point[0] - self.centre[0], point[1] - self.centre[1]
        if self.mirror:
            x = -x
        x, y = x * self.scale, y * self.scale
        x, y = x * self.cos - y * self.sin, x * self.sin + y * self.cos
        return (x + self.centre[0] + self.shift[0]) * self.zoom, (y + self.centre[1] + self.shift[1]) * self.zoom

    def poly(self, points: Sequence[Point], fill: RGB) -> None:
        """A filled polygon."""
        self.draw.polygon([self.place(p) for p in points], fill=fill)

    def rect(self, x0: float, y0: float, x1: float, y1: float, fill: RGB) -> None:
        """A filled rectangle."""
        self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill)

    def ellipse(
        self, cx: float, cy: float, rx: float, ry: float, fill: RGB, start: float = 0.0, end: float = 360.0
    ) -> None:
        """A filled ellipse, or the chord-closed part of it between two angles."""
        self.poly(ellipse_points(cx, cy, rx, ry, start, end), fill)

    def line(self, points: Sequence[Point], width: float, fill: RGB) -> None:
        """A thick polyline with round joints."""
        pixels = max(1, round(width * self.scale * self.zoom))
        self.draw.line([self.place(p) for p in points], fill=fill, width=pixels, joint="curve")

    def ring(self, cx: float, cy: float, rx: float, ry: float, width: float, fill: RGB) -> None:
        """An ellipse outline."""
        self.line(ellipse_points(cx, cy, rx, ry), width, fill)
