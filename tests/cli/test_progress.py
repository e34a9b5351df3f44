"""What the command line says while it works, on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest

from lib_loraclr.frontends.cli import terminal as cli
from lib_loraclr.model import Phase


def test_a_file_gets_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = cli.BarProgress(stream)
    progress.phase(Phase.WATCH, 20)
    for _ in range(20):
        now[0] += 1.0
        progress.step()
    progress.message("Half of it was known.")
    progress.phase(Phase.SOLVE, 1, "round 1 of 2")
    progress.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "Watching the model …"
    assert lines[1] == "  Watching the model: 25%, 15 s left"
    assert [line.split(": ")[1][:3] for line in lines[1:4]] == ["25%", "50%", "75%"]
    assert lines[4:] == ["Half of it was known.", "Solving: round 1 of 2 …"]


def test_a_terminal_gets_a_bar_that_ends_with_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = cli.BarProgress(stream)
    progress.phase(Phase.LOAD, 2)
    progress.step()
    progress.step()
    progress.close()
    assert stream.getvalue().startswith("\rLoading the model")
    assert "100%" in stream.getvalue()
    assert stream.getvalue().endswith("\n")
