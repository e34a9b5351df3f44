"""Charts as inline SVG: readable in light and dark, in grey, and by people who see few colours.

Here is computed where everything stands; the shapes are in templates/charts.html. Lengths are pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from lib_loraclr.html import fragment

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = "charts.html"
Number = float | None

# A dark-blue-to-yellow ramp of even lightness steps: ordered the same for every kind of colour vision and in print.
RAMP = ((0, 32, 76), (33, 67, 110), (87, 93, 109), (124, 123, 120), (165, 156, 116), (210, 193, 97), (255, 234, 70))
CELL_WIDTH, CELL_HEIGHT = 54, 26  # with the gap between two cells
ROW_HEIGHT, SPAN = 34, 460.0  # of a dot plot: a row, and the length of its axis
LETTER, LONGEST = 7.2, 26  # width of a letter; letters of a name


class _Label(NamedTuple):
    x: float
    y: float
    text: str


class _Cell(NamedTuple):
    x: float
    y: float
    text: str = ""
    fill: str = ""  # empty: there is no number
    ink: str = ""
    tip: str = ""


class _Tick(NamedTuple):
    x: float
    top: float
    bottom: float
    text: str


class _Mark(NamedTuple):
    series: int
    x: float
    y: float
    tip: str


def colour(share: float) -> tuple[str, str]:
    """(background, text) for 0 … 1; values outside are clipped."""
    position = min(max(share, 0.0), 1.0) * (len(RAMP) - 1)
    low = min(int(position), len(RAMP) - 2)
    mix = position - low
    red, green, blue = (round(a + (b - a) * mix) for a, b in zip(RAMP[low], RAMP[low + 1], strict=True))
    luminance = (0.299 * red + 0.587 * green + 0.114 * blue) / 255
    return f"#{red:02x}{green:02x}{blue:02x}", "#111111" if luminance > 0.5 else "#ffffff"


def heat_map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[Number]],
    *,
    low: float,
    high: float,
) -> Markup:
    """A table of coloured cells with the number in each; None is an empty cell with a dash.

    `values[row][column]`; `low` has the darkest colour, `high` the lightest.
    """
    left, top = _label_width(rows), _label_width(columns) * 0.72 + 12
    column_labels = [
        _Label(round(left + CELL_WIDTH * (j + 0.5), 1), round(top - 8, 1), _short(name))
        for j, name in enumerate(columns)
    ]
    row_labels = [
        _Label(round(left - 8, 1), round(top + CELL_HEIGHT * i + 17, 1), _short(name)) for i, name in enumerate(rows)
    ]
    cells: list[_Cell] = []
    for i, name in enumerate(rows):
        for j, value in enumerate(values[i]):
            cell = _Cell(round(left + CELL_WIDTH * j, 1), round(top + CELL_HEIGHT * i, 1))
            if value is not None:
                fill, ink = colour((value - low) / (high - low))
                text, tip = f"{round(value, 2) + 0.0:.2f}", f"{name}, {columns[j]}: {value:.3f}"
                cell = cell._replace(text=text, fill=fill, ink=ink, tip=tip)
            cells.append(cell)
    width, height = round(left + CELL_WIDTH * len(columns) + 60), round(top + CELL_HEIGHT * len(rows) + 6)
    return fragment(TEMPLATE, "heat_map", title, width, height, column_labels, row_labels, cells)


def dot_plot(title: str, rows: Sequence[str], series: Sequence[tuple[str, Sequence[Number]]]) -> Markup:
    """One line per row, one mark per series; shape, place and colour tell the series apart.

    The axis ends at 1 and begins at 0, or lower where values are, at most at -1; what lies below stands at its edge.
    """
    known = [value for _, values in series for value in values if value is not None]
    low = max(-1.0, min([0.0, *known]))
    left, top = _label_width(rows), 18.0 * len(series) + 16
    bottom = top + ROW_HEIGHT * len(rows)

    def place(value: float) -> float:
        return round(left + SPAN * (min(max(value, low), 1.0) - low) / (1 - low), 1)

    legend = [_Label(round(left + 18, 1), 16 + 18 * index, name) for index, (name, _) in enumerate(series)]
    ticks = [_Tick(place(k / 4), top, bottom, f"{k / 4:g}") for k in range(-4, 5) if k / 4 >= low]
    middles = [top + ROW_HEIGHT * (i + 0.5) for i in range(len(rows))]
    names = [_Label(round(left - 10, 1), y + 4, _short(name)) for name, y in zip(rows, middles, strict=True)]
    marks = [
        _Mark(index, place(value), y + (index - (len(series) - 1) / 2) * 5, f"{name}, {label}: {value:.3f}")
        for i, (name, y) in enumerate(zip(rows, middles, strict=True))
        for index, (label, values) in enumerate(series)
        if (value := values[i]) is not None
    ]
    size = round(left + SPAN + 30), round(bottom + 26)
    return fragment(TEMPLATE, "dot_plot", title, *size, legend, ticks, names, marks)


def line(title: str, values: Sequence[float], *, width: float = 460, height: float = 110) -> Markup:
    """A falling or rising series over its index, with first and last value written."""
    low, high = min(values), max(values)
    scale = (high - low) or 1.0
    step = width / max(len(values) - 1, 1)
    points = " ".join(f"{10 + i * step:.1f},{14 + height * (high - v) / scale:.1f}" for i, v in enumerate(values))
    first = _Label(10, height + 30, f"{values[0]:.4g}")
    last = _Label(width + 16, round(18 + height * (high - values[-1]) / scale, 1), f"{values[-1]:.4g}")
    return fragment(TEMPLATE, "line", title, round(width + 90), round(height + 34), points, first, last)


def _label_width(names: Sequence[str]) -> float:
    return max((LETTER * min(len(name), LONGEST) for name in names), default=0.0) + 20


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
