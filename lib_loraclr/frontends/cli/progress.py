"""Progress on standard error: a bar that redraws itself on a terminal, one line per phase elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from lib_loraclr.model import Phase

REDRAW_SECONDS = 0.1
BAR_WIDTH = 28


class BarProgress:
    """Implements `model.Progress`. Cancellation comes as KeyboardInterrupt, so `step` never raises by itself."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.live = self.stream.isatty()
        self.name, self.steps, self.done, self.started, self.drawn = "", 0, 0, 0.0, 0.0

    def phase(self, phase: Phase, steps: int, detail: str = "") -> None:
        """Begin a bar of `steps` steps."""
        self._end_line()
        self.name, self.steps, self.done = phase.words(detail), max(steps, 1), 0
        self.started, self.drawn = time.monotonic(), 0.0
        if self.live:
            self._draw("")
        else:
            self._write(f"{self.name} …\n")

    def step(self, text: str = "") -> None:
        """One step is done."""
        self.done = min(self.done + 1, self.steps)
        now = time.monotonic()
        if self.live and (now - self.drawn >= REDRAW_SECONDS or self.done == self.steps):
            self.drawn = now
            self._draw(text)

    def message(self, text: str) -> None:
        """A line of its own."""
        self._end_line()
        self._write(text + "\n")

    def close(self) -> None:
        """Leave the cursor on a fresh line."""
        self._end_line()

    def _draw(self, text: str) -> None:
        share = self.done / self.steps
        bar = "#" * round(share * BAR_WIDTH)
        elapsed = time.monotonic() - self.started
        left = f"{elapsed / share - elapsed:4.0f} s left" if 0 < share < 1 else f"{elapsed:4.0f} s     "
        self._write(f"\r{self.name[:30]:<30} [{bar:<{BAR_WIDTH}}] {share:4.0%} {left} {text[:24]:<24}")

    def _end_line(self) -> None:
        if self.live and self.name:
            self._write("\n")
        self.name = ""

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except UnicodeEncodeError:
            self.stream.write(text.encode("ascii", "replace").decode("ascii"))
