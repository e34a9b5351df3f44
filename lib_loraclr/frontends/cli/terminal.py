"""What the command line prints: plain text tables, and progress on standard error."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Sequence
from typing import TextIO

from lib_loraclr.app.jobs import Job, JobHook, JobProgress
from lib_loraclr.html import time_text


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


REDRAW_SECONDS = 0.1
LINE_SECONDS = 5.0
BAR_WIDTH = 28


class Bar:
    """Shows the progress of one job after another."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.live = self.stream.isatty()
        self._phase, self._told, self._drawn, self._open = 0, 0, 0.0, False

    def show(self, progress: JobProgress) -> None:
        """Draw what is new: a message, a phase, or how far it is."""
        for text in progress.log[self._told :]:
            self.close()
            self._write(text + "\n")
        self._told = len(progress.log)
        now = time.monotonic()
        if progress.number != self._phase:
            self.close()
            self._phase, self._drawn = progress.number, now
            self._draw(progress) if self.live else self._write(f"{progress.name} …\n")
        elif self.live and (now - self._drawn >= REDRAW_SECONDS or progress.done == progress.steps):
            self._drawn = now
            self._draw(progress)
        elif not self.live and now - self._drawn >= LINE_SECONDS and progress.done < progress.steps:
            self._drawn = now
            self._write(f"  {progress.name}: {progress.done / progress.steps:.0%}{_rest(progress)}\n")

    def close(self) -> None:
        """Leave the cursor on a fresh line."""
        if self._open:
            self._write("\n")
        self._open = False

    def _draw(self, progress: JobProgress) -> None:
        share = progress.done / progress.steps if progress.steps else 0.0
        bar = "#" * round(share * BAR_WIDTH)
        rest = _rest(progress) or f" {progress.text[:24]}"
        self._write(f"\r{progress.name[:30]:<30} [{bar:<{BAR_WIDTH}}] {share:4.0%}{rest:<36}")
        self._open = True

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except UnicodeEncodeError:
            self.stream.write(text.encode("ascii", "replace").decode("ascii"))


class BarProgress(JobProgress):
    """A `Progress` with a bar of its own. Cancellation comes as KeyboardInterrupt, so `step` never raises by itself."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.bar = Bar(stream)
        super().__init__(on_change=lambda: self.bar.show(self))

    def close(self) -> None:
        """Leave the cursor on a fresh line."""
        self.bar.close()


class ConsoleHook(JobHook):
    """The bar of a command's job."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.bar = Bar(stream)

    def show(self, job: Job) -> None:
        """Draw it."""
        self.bar.show(job.progress)

    def remove(self, job: Job) -> None:
        """End the line."""
        self.bar.close()

    def defect(self, job: Job, error: BaseException) -> None:
        """The trace, also where nobody set up a log."""
        self.bar.close()
        traceback.print_exception(error, file=sys.stderr)


def _rest(progress: JobProgress) -> str:
    """Share of the whole job and time left, where they are known."""
    whole = f", {progress.fraction():.0%} of the whole" if progress.expected else ""
    left = progress.seconds_left()
    return whole if left is None else f"{whole}, {time_text(left)} left"
