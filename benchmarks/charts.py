"""Line charts of the studies: PNG by matplotlib, on a white ground that reads on light and dark pages."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

WIDTH, HEIGHT, DPI = 10.75, 5.75, 160  # inches, and pixels of an inch: 1720 x 920 pixels
AXES = (0.07, 0.11, 0.67, 0.8)  # left, bottom, width and height as shares of the picture
LABEL_STEP = 0.037  # of the height, between the labels of two lines
# Told apart by colour, dash and mark: dark enough on white, and for every kind of colour vision by the last two.
COLOURS = ("#0b5fa5", "#b35900", "#00796b", "#8b3a8f", "#b3203c", "#5d7a00", "#6d4c41", "#3f5263")
DASHES = ("-", "--", ":")
MARKS = ("o", "s", "^", "D")
INK, SOFT, GRID = "#1c2128", "#5b6572", "#d5dae1"


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


def save(chart: Chart, path: Path) -> None:
    """Draw a chart as PNG, 1720 x 920 pixels. Raises SystemExit with a sentence where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        message = "Figures need matplotlib: pip install -r requirements/bench.txt, then python benchmarks/figures.py."
        raise SystemExit(message) from error
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor="white")
    axes = figure.add_axes(AXES)
    axes.set_title(chart.title, loc="left", fontsize=13, color=INK, pad=10)
    axes.set_xlabel(chart.x_label, color=SOFT)
    axes.set_ylabel(chart.y_label, color=SOFT)
    axes.set_xticks([x for x, _ in chart.ticks], [text for _, text in chart.ticks])
    axes.tick_params(length=0, labelcolor=SOFT)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.spines[:].set_visible(False)
    ends = [_line(axes, number, series) for number, series in enumerate(chart.series) if series.points]
    if chart.level is not None:
        text, value = chart.level
        axes.axhline(value, color=SOFT, linestyle=(0, (8, 4)), linewidth=1)
        ends.append((value, text, SOFT))
    _label(figure, axes, ends)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    Image.open(stream).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def _line(axes: Any, number: int, series: Series) -> tuple[float, str, str]:
    """Draw one line; (height of its end, label, colour)."""
    colour = COLOURS[number % len(COLOURS)]
    xs, ys = [x for x, _ in series.points], [y for _, y in series.points]
    axes.errorbar(
        xs, ys, list(series.spread) or None, color=colour, linestyle=DASHES[number // len(COLOURS) % len(DASHES)],
        linewidth=2.6 if series.strong else 1.4, elinewidth=1, marker=MARKS[number % len(MARKS)], markersize=6,
        markeredgecolor="white", markeredgewidth=0.6, clip_on=False, zorder=3 if series.strong else 2,
    )  # fmt: skip
    return ys[-1], series.label, colour


def _label(figure: Any, axes: Any, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names beside the ends of the lines."""
    ordered = sorted(ends)
    height = HEIGHT * DPI
    places = pushed_apart([float(axes.transData.transform((0, y))[1]) / height for y, _, _ in ordered], LABEL_STEP)
    for place, (_, text, colour) in zip(places, ordered, strict=True):
        figure.text(AXES[0] + AXES[2] + 0.012, place, text, color=colour, fontsize=10, va="center")


def pushed_apart(places: Sequence[float], step: float) -> list[float]:
    """Ascending places, moved as little as is needed so that two neighbours are at least about `step` apart."""
    moved = list(places)
    for _ in range(100):
        for k in range(1, len(moved)):
            overlap = step - (moved[k] - moved[k - 1])
            if overlap > 0:
                moved[k - 1] -= overlap / 2
                moved[k] += overlap / 2
    return moved
