"""Line charts laid out once and drawn twice: as SVG that follows light and dark, and as PNG on its own ground."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import Any

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 460, 64, 250, 46, 54
LABEL_STEP = 16.0
# Told apart by colour, dash and mark; dark enough on white, and the second row light enough on black.
COLOURS = ("#0b5fa5", "#b35900", "#00796b", "#8b3a8f", "#b3203c", "#5d7a00", "#6d4c41", "#3f5263")
DARK = ("#6db3f2", "#f0a35e", "#57c7b6", "#d793db", "#ff8fa3", "#b5d44c", "#c9a695", "#a9bccc")
DASHES = ((), (7, 4), (2, 3))
SCALE = 2  # pixels of the PNG per unit


@dataclass(frozen=True)
class Series:
    """One line: `points` (x, y), and `spread`, the half height of each point's bar."""

    label: str
    points: Sequence[tuple[float, float]]
    spread: Sequence[float] = ()
    strong: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart with direct labels; `level` is a horizontal line to compare with; `ticks` are the x positions shown."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    ticks: Sequence[tuple[float, str]]
    level: tuple[str, float] | None = None


@dataclass(frozen=True)
class _Path:
    points: Sequence[tuple[float, float]]
    kind: str  # "grid", "level", "bar" or "line"
    colour: int = -1
    dash: Sequence[int] = ()
    width: float = 1.0


@dataclass(frozen=True)
class _Text:
    x: float
    y: float
    text: str
    anchor: str = "start"  # start, middle, end
    colour: int = -1
    soft: bool = False
    turned: bool = False
    size: int = 12


@dataclass(frozen=True)
class _Mark:
    x: float
    y: float
    shape: int
    colour: int
    tip: str


@dataclass
class _Layout:
    paths: list[_Path] = field(default_factory=list[_Path])
    texts: list[_Text] = field(default_factory=list[_Text])
    marks: list[_Mark] = field(default_factory=list[_Mark])


def nice_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers that span low … high."""
    span = max(high - low, 1e-9)
    raw = span / count
    size = 10 ** math.floor(math.log10(raw))
    step = next(step * size for step in (1, 2, 2.5, 5, 10) if step * size >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]


def _lay_out(chart: Chart) -> _Layout:
    values = [y for s in chart.series for _, y in s.points] + ([chart.level[1]] if chart.level else [])
    spreads = [e for s in chart.series for e in s.spread] or [0.0]
    pad = max(spreads)
    ys = nice_ticks(min(values, default=0.0) - pad, max(values, default=1.0) + pad)
    ys = ys if len(ys) > 1 else [ys[0], ys[0] + 1]
    xs = [x for x, _ in chart.ticks] or [0.0]
    low, span = min(xs), max(max(xs) - min(xs), 1e-9)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        share = (x - low) / span if len(xs) > 1 else 0.5
        return LEFT + share * (right - LEFT), bottom - (y - ys[0]) / (ys[-1] - ys[0]) * (bottom - TOP)

    made = _Layout()
    made.texts.append(_Text(LEFT, 24, chart.title, size=15))
    for y in ys:
        made.paths.append(_Path([at(low, y), (right, at(low, y)[1])], "grid"))
        made.texts.append(_Text(LEFT - 8, at(low, y)[1] + 4, f"{y:g}", "end", soft=True))
    for x, label in chart.ticks:
        made.texts.append(_Text(at(x, ys[0])[0], bottom + 18, label, "middle", soft=True))
    made.texts.append(_Text((LEFT + right) / 2, HEIGHT - 12, chart.x_label, "middle", soft=True))
    made.texts.append(_Text(16, (TOP + bottom) / 2, chart.y_label, "middle", soft=True, turned=True))
    wanted: list[tuple[float, str, int]] = []
    if chart.level is not None:
        y = at(low, chart.level[1])[1]
        made.paths.append(_Path([(LEFT, y), (right, y)], "level", dash=(10, 5), width=1.5))
        wanted.append((y, chart.level[0], -1))
    for number, series in enumerate(chart.series):
        colour, dash = number % len(COLOURS), DASHES[number // len(COLOURS) % len(DASHES)]
        points = [at(x, y) for x, y in series.points]
        width = 3.0 if series.strong else 1.6
        made.paths.append(_Path(points, "line", colour, dash, width))
        for (x, y), place, half in zip(
            series.points, points, [*series.spread, *[0.0] * (len(points) - len(series.spread))], strict=True
        ):
            made.marks.append(_Mark(*place, number % 4, colour, f"{series.label}: {y:.3f} at {x:g}"))
            if half > 0:
                made.paths.append(_Path([at(x, y - half), at(x, y + half)], "bar", colour))
        if points:
            wanted.append((points[-1][1], series.label, colour))
    made.texts += _labels(wanted, right + 14)
    return made


def _labels(wanted: Sequence[tuple[float, str, int]], x: float) -> list[_Text]:
    """At the ends of their lines, pushed apart where they would overlap."""
    ordered = sorted(wanted)
    places = [y for y, _, _ in ordered]
    for _ in range(60):
        for k in range(1, len(places)):
            overlap = LABEL_STEP - (places[k] - places[k - 1])
            if overlap > 0:
                places[k - 1] -= overlap / 2
                places[k] += overlap / 2
    lowest = max([*places, 0.0]) - (HEIGHT - 8)
    if lowest > 0:
        places = [place - lowest for place in places]
    return [_Text(x, y + 4, text, colour=colour) for y, (_, text, colour) in zip(places, ordered, strict=True)]


STYLE = (
    "".join(f"svg .c{k}{{stroke:{c}}}svg .t{k}{{fill:{c}}}" for k, c in enumerate(COLOURS))
    + "svg .level{stroke:var(--soft)}svg .curve{fill:none}@media(prefers-color-scheme:dark){"
    + "".join(f"svg .c{k}{{stroke:{c}}}svg .t{k}{{fill:{c}}}" for k, c in enumerate(DARK))
    + "}"
)
"""CSS that the SVG needs besides the report's own."""


def to_svg(chart: Chart) -> str:
    """The chart as inline SVG for a page with `STYLE`."""
    made = _lay_out(chart)
    head = f'<svg role="img" aria-label="{escape(chart.title)}" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
    parts = [head + f'height="{HEIGHT}">']
    for path in made.paths:
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in path.points)
        names = {"grid": "grid", "level": "level curve"}.get(path.kind, f"c{path.colour} curve")
        dash = f' stroke-dasharray="{" ".join(map(str, path.dash))}"' if path.dash else ""
        parts.append(f'<polyline class="{names}" points="{line}" stroke-width="{path.width:g}"{dash}/>')
    for mark in made.marks:
        shape = _shape(mark.shape)
        parts.append(
            f'<g class="t{mark.colour}" transform="translate({mark.x:.1f},{mark.y:.1f})">'
            f"<title>{escape(mark.tip)}</title>{shape}</g>"
        )
    for text in made.texts:
        look = f"font-size:{text.size}px;text-anchor:{text.anchor}"
        names = f"t{text.colour}" if text.colour >= 0 else "axis" if text.soft else ""
        place = f'x="{text.x:.1f}" y="{text.y:.1f}"'
        if text.turned:
            place = f'transform="translate({text.x:.1f},{text.y:.1f}) rotate(-90)"'
        parts.append(f'<text class="{names}" style="{look}" {place}>{escape(text.text)}</text>')
    return "".join([*parts, "</svg>"])


def _shape(number: int) -> str:
    return (
        '<circle r="4"/>',
        '<rect x="-3.5" y="-3.5" width="7" height="7"/>',
        '<path d="M0-5 4.5 3.5-4.5 3.5z"/>',
        '<path d="M0-5 5 0 0 5-5 0z"/>',
    )[number % 4]


def to_image(chart: Chart) -> Image.Image:
    """The chart as a picture with a white ground, which is readable on light and dark pages."""
    made = _lay_out(chart)
    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "#ffffff")
    draw = ImageDraw.Draw(image)
    for path in made.paths:
        points = [(x * SCALE, y * SCALE) for x, y in path.points]
        ink = {"grid": "#d5dae1", "level": "#5b6572"}.get(path.kind, COLOURS[path.colour])
        _polyline(draw, points, ink, path.dash, round(path.width * SCALE))
    for mark in made.marks:
        _draw_mark(draw, mark.x * SCALE, mark.y * SCALE, mark.shape, COLOURS[mark.colour])
    for text in made.texts:
        ink = COLOURS[text.colour] if text.colour >= 0 else "#5b6572" if text.soft else "#1c2128"
        _draw_text(image, draw, text, ink)
    return image


def _polyline(
    draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], ink: str, dash: Sequence[int], width: int
) -> None:
    if not dash:
        draw.line(list(points), ink, width, joint="curve")
        return
    on, off = dash[0] * SCALE, dash[1] * SCALE
    for (x0, y0), (x1, y1) in pairwise(points):
        length = math.hypot(x1 - x0, y1 - y0)
        at = 0.0
        while at < length:
            end = min(at + on, length)
            first, last = at / length, end / length
            draw.line(
                [(x0 + (x1 - x0) * first, y0 + (y1 - y0) * first), (x0 + (x1 - x0) * last, y0 + (y1 - y0) * last)],
                ink,
                width,
            )
            at += on + off


def _draw_mark(draw: ImageDraw.ImageDraw, x: float, y: float, shape: int, ink: str) -> None:
    r = 4.5 * SCALE
    if shape % 4 == 0:
        draw.ellipse((x - r, y - r, x + r, y + r), ink, "#ffffff")
    elif shape % 4 == 1:
        draw.rectangle((x - r * 0.85, y - r * 0.85, x + r * 0.85, y + r * 0.85), ink, "#ffffff")
    elif shape % 4 == 2:
        draw.polygon([(x, y - r * 1.1), (x + r, y + r * 0.8), (x - r, y + r * 0.8)], ink, "#ffffff")
    else:
        draw.polygon([(x, y - r * 1.1), (x + r * 1.1, y), (x, y + r * 1.1), (x - r * 1.1, y)], ink, "#ffffff")


def font(size: int) -> Any:
    """PIL's own font: the same on every machine."""
    return ImageFont.load_default(size * SCALE)


def _draw_text(image: Image.Image, draw: ImageDraw.ImageDraw, text: _Text, ink: str) -> None:
    letters = font(text.size)
    anchor = {"start": "ls", "middle": "ms", "end": "rs"}[text.anchor]
    if not text.turned:
        draw.text((text.x * SCALE, text.y * SCALE), text.text, ink, letters, anchor=anchor)
        return
    box = draw.textbbox((0, 0), text.text, letters, anchor="lt")
    label = Image.new("RGB", (int(box[2]) + 4, int(box[3]) + 6), "#ffffff")
    ImageDraw.Draw(label).text((2, 2), text.text, ink, letters, anchor="lt")
    turned = label.rotate(90, expand=True)
    image.paste(turned, (round(text.x * SCALE - turned.width / 2 - 4), round(text.y * SCALE - turned.height / 2)))
