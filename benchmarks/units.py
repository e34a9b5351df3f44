"""What has been measured, in one file with the results: a line a unit, named by all that it depends on.

A study that was stopped goes on from it, on any machine; a larger one finds what a smaller one has done; and nothing
stale is ever found. Several studies may write to one file at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Units:
    """The lines of `path`, which need not exist yet; of several with one key the last one counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        self._known: dict[str, dict[str, Any]] = {}

    def find(self, key: str) -> dict[str, Any] | None:
        """A unit that was measured, by whomever."""
        if key not in self._known:
            self._refresh()
        return self._known.get(key)

    def put(self, key: str, data: Mapping[str, Any]) -> None:
        """Keep a unit; one write of a whole line, so that lines of two studies do not mix."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, **data}, ensure_ascii=False, allow_nan=False) + "\n"
        with self.path.open("a+b") as file:
            file.seek(max(0, file.tell() - 1))
            broken = file.read() not in (b"", b"\n")  # a study was stopped while it wrote
            file.write((b"\n" if broken else b"") + line.encode())
        self._refresh()

    def _refresh(self) -> None:
        """Read what has come since; a last line that is not whole waits."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            try:
                unit = json.loads(line)
            except ValueError:  # what a stop left of a line
                continue
            self._known[unit.pop("key")] = unit
