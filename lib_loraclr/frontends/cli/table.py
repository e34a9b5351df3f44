"""Plain text tables for people."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Left-aligned text, right-aligned numbers, two spaces between columns; None shows as a dash."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(name), *(len(row[i]) for row in cells), 1) for i, name in enumerate(head)]
    numeric = [all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(head))]
    lines = [[name.rjust(w) if n else name.ljust(w) for name, w, n in zip(head, widths, numeric, strict=True)]]
    lines += [[c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)] for row in cells]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def warnings_text(warnings: Sequence[object]) -> list[str]:
    """One line per warning, the same sentence many times only once."""
    seen: dict[str, int] = {}
    for warning in warnings:
        message = str(getattr(warning, "message", warning))
        where = getattr(warning, "file", None)
        line = f"Note: {message}" + (f" [{where}]" if where and str(where) not in message else "")
        seen[line] = seen.get(line, 0) + 1
    return [line + (f" ({count} times)" if count > 1 else "") for line, count in seen.items()]
