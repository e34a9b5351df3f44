"""Charts as inline SVG: readable in light and dark, in grey, and by people who see few colours."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

Number = float | None

# A dark-blue-to-yellow ramp of even lightness steps: ordered the same for every kind of colour vision and in print.
RAMP = ((0, 32, 76), (33, 67, 110), (87, 93, 109), (124, 123, 120), (165, 156, 116), (210, 193, 97), (255, 234, 70))
CELL_WIDTH, CELL_HEIGHT, ROW_HEIGHT, LETTER = 54, 26, 34, 7.2


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
) -> str:
    """A table of coloured cells with the number in each; None is an empty cell with a dash."""
    left = _label_width(rows)
    top = _label_width(columns) * 0.72 + 12
    width, height = left + CELL_WIDTH * len(columns) + 60, top + CELL_HEIGHT * len(rows) + 6
    parts = [_open(width, height, title)]
    for j, name in enumerate(columns):
        x = left + CELL_WIDTH * (j + 0.5)
        parts.append(
            f'<text class="axis" transform="translate({x:.1f},{top - 8:.1f}) rotate(-45)">{_label(name)}</text>'
        )
    for i, name in enumerate(rows):
        y = top + CELL_HEIGHT * i
        parts.append(f'<text class="axis end" x="{left - 8:.1f}" y="{y + 17:.1f}">{_label(name)}</text>')
        for j, value in enumerate(values[i]):
            parts.append(_cell(left + CELL_WIDTH * j, y, value, low, high, f"{name}, {columns[j]}"))
    return "".join([*parts, "</svg>"])


def _cell(x: float, y: float, value: Number, low: float, high: float, what: str) -> str:
    box = f'x="{x:.1f}" y="{y:.1f}" width="{CELL_WIDTH - 2}" height="{CELL_HEIGHT - 2}" rx="3"'
    text = f'x="{x + CELL_WIDTH / 2 - 1:.1f}" y="{y + 16.5:.1f}" class="cell"'
    if value is None:
        return f'<rect {box} class="empty"/><text {text}>&ndash;</text>'
    fill, ink = colour((value - low) / (high - low))
    tip = f"<title>{escape(what)}: {value:.3f}</title>"
    return f'<g>{tip}<rect {box} fill="{fill}"/><text {text} fill="{ink}">{round(value, 2) + 0.0:.2f}</text></g>'


MARKS = (
    '<circle r="4.5"/>',
    '<rect x="-4" y="-4" width="8" height="8"/>',
    '<path d="M0-5.5 5 4-5 4z"/>',
    '<path d="M0-5.5 5.5 0 0 5.5-5.5 0z"/>',
    '<path d="M0 5.5 5-4-5-4z"/>',
    '<path d="M-1.8-5h3.6v3.2h3.2v3.6h-3.2v3.2h-3.6v-3.2h-3.2v-3.6h3.2z"/>',
)


def dot_plot(title: str, rows: Sequence[str], series: Sequence[tuple[str, Sequence[Number]]]) -> str:
    """One line per row, one mark per series; shape, place and colour tell the series apart.

    The axis ends at 1 and begins at 0, or lower where values are, at most at -1; what lies below stands at its edge.
    """
    known = [value for _, values in series for value in values if value is not None]
    low = max(-1.0, min([0.0, *known]))
    left, span, top = _label_width(rows), 460.0, 18.0 * len(series) + 16
    bottom = top + ROW_HEIGHT * len(rows)
    parts = [_open(left + span + 30, bottom + 26, title)]
    for index, (name, _) in enumerate(series):
        parts.append(_mark(index, left + 6, 12 + 18 * index))
        parts.append(f'<text class="axis" x="{left + 18:.1f}" y="{16 + 18 * index}">{escape(name)}</text>')
    for tick in (step / 4 for step in range(-4, 5) if step / 4 >= low):
        at = left + span * (tick - low) / (1 - low)
        parts.append(f'<path class="grid" d="M{at:.1f} {top:.1f}V{bottom:.1f}"/>')
        parts.append(f'<text class="axis mid" x="{at:.1f}" y="{bottom + 16:.1f}">{tick:g}</text>')
    for i, name in enumerate(rows):
        y = top + ROW_HEIGHT * (i + 0.5)
        parts.append(f'<text class="axis end" x="{left - 10:.1f}" y="{y + 4:.1f}">{_label(name)}</text>')
        parts.append(f'<path class="grid" d="M{left:.1f} {y:.1f}h{span:.1f}"/>')
        for index, (label, values) in enumerate(series):
            value = values[i]
            if value is not None:
                at = left + span * (min(max(value, low), 1.0) - low) / (1 - low)
                shift = (index - (len(series) - 1) / 2) * 5
                parts.append(_mark(index, at, y + shift, f"{name}, {label}: {value:.3f}"))
    return "".join([*parts, "</svg>"])


def _mark(index: int, x: float, y: float, tip: str = "") -> str:
    title = f"<title>{escape(tip)}</title>" if tip else ""
    shape = MARKS[index % len(MARKS)]
    return f'<g class="mark m{index % len(MARKS)}" transform="translate({x:.1f},{y:.1f})">{title}{shape}</g>'


def line(title: str, values: Sequence[float], *, width: float = 460, height: float = 110) -> str:
    """A falling or rising series over its index, with first and last value written."""
    low, high = min(values), max(values)
    scale = (high - low) or 1.0
    step = width / max(len(values) - 1, 1)
    end = 18 + height * (high - values[-1]) / scale
    points = " ".join(f"{10 + i * step:.1f},{14 + height * (high - v) / scale:.1f}" for i, v in enumerate(values))
    return (
        _open(width + 90, height + 34, title)
        + f'<polyline class="line" points="{points}"/>'
        + f'<text class="axis" x="10" y="{height + 30:.1f}">{values[0]:.4g}</text>'
        + f'<text class="axis" x="{width + 16:.1f}" y="{end:.1f}">{values[-1]:.4g}</text>'
        + "</svg>"
    )


def _open(width: float, height: float, title: str) -> str:
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    return f'<svg role="img" aria-label="{escape(title)}" {size}><title>{escape(title)}</title>'


def _label_width(names: Sequence[str]) -> float:
    return max((LETTER * min(len(name), 26) for name in names), default=0.0) + 20


def _label(name: str) -> str:
    return escape(name if len(name) <= 26 else name[:25] + "…")
