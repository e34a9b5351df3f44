"""How much the chosen LoRAs interfere, kept by pair so that only new files are read."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from lib_loraclr.charts import heat_map
from lib_loraclr.core.errors import Cancelled, LoraclrError
from lib_loraclr.frontends.words import note, tag
from lib_loraclr.merging.overlap import overlap

Version = tuple[Path, int, int]
SOME, MUCH = 0.05, 0.25  # cosines of the weight changes
MEANING = (
    "0: unrelated changes of the weights. 1: the same change. Negative: opposite changes. How much concepts bleed "
    "depends on the model too, which only the presets Best, Full and Text look at."
)
VERDICTS = (
    "These LoRAs change the weights in different directions.",
    "These LoRAs change some weights in the same direction.",
    "These LoRAs change many weights in the same direction: a plain sum of them would bleed. Choose the preset Best.",
)
NEEDS_MODEL = "DoRA and OFT files are defined together with the base model; their interference is not shown."


@dataclass(frozen=True)
class Interference:
    """`matrix` is empty where it could not be computed; `problem` then says why."""

    names: tuple[str, ...] = ()
    matrix: tuple[tuple[float, ...], ...] = ()
    problem: str = ""

    @property
    def highest(self) -> tuple[int, int] | None:
        """The pair that interferes most."""
        pairs = [(i, j) for i in range(len(self.names)) for j in range(i)]
        return max(pairs, key=lambda pair: self.matrix[pair[0]][pair[1]]) if self.matrix and pairs else None


class Interferences:
    """Computes matrices; a newer request ends an older one that still reads files."""

    def __init__(self) -> None:
        self._known: dict[tuple[Version, Version], float] = {}
        self._lock = threading.Lock()
        self._latest = 0

    def of(self, files: Sequence[tuple[str, Path]]) -> Interference:
        """The matrix of (name, path) pairs; raises Cancelled when a newer request came."""
        with self._lock:
            self._latest += 1
            number = self._latest
        names = tuple(name for name, _ in files)
        if len(files) < 2:
            return Interference(names)
        try:
            versions = [_version(path) for _, path in files]
            if not all((a, b) in self._known for a in versions for b in versions):
                found = overlap([path for _, path in files], progress=_Newest(self, number)).matrix
                for i, a in enumerate(versions):
                    for j, b in enumerate(versions):
                        self._known[a, b] = found[i][j]
        except Cancelled:
            raise
        except (LoraclrError, OSError) as error:
            code = getattr(error, "code", "")
            return Interference(names, (), NEEDS_MODEL if code == "needs-checkpoint" else str(error))
        return Interference(names, tuple(tuple(self._known[a, b] for b in versions) for a in versions))

    def is_latest(self, number: int) -> bool:
        """Whether no newer request came."""
        return number == self._latest


class _Newest:
    """A progress that ends a computation nobody waits for any more."""

    def __init__(self, owner: Interferences, number: int) -> None:
        self.owner, self.number = owner, number

    def phase(self, name: str, steps: int) -> None:
        """Look whether it still matters."""
        self.step()

    def step(self, text: str = "") -> None:
        """Raise Cancelled when a newer request came."""
        if not self.owner.is_latest(self.number):
            raise Cancelled

    def message(self, text: str) -> None:
        """Nothing to log."""


def interference_html(found: Interference) -> str:
    """The matrix as a picture with names, and what it means for the merge."""
    if len(found.names) < 2:
        hint = "With two LoRAs or more, their interference is shown here."
        return f'<div class="lct-empty">{tag("p", hint)}</div>'
    if not found.matrix:
        return note(found.problem, "warning")
    chart = heat_map("Interference of every pair of LoRAs", found.names, found.names, found.matrix, low=-0.2, high=1)
    text = f"{_verdict(found)}{tag('p', MEANING, 'lct-soft')}"
    return f'<div class="lct-beside"><div class="lct-chart">{chart}</div><div>{text}</div></div>'


def _verdict(found: Interference) -> str:
    pair = found.highest
    if pair is None:
        return ""
    value = found.matrix[pair[0]][pair[1]]
    text = VERDICTS[(value >= SOME) + (value >= MUCH)]
    names = " + ".join(found.names[i] for i in sorted(pair))
    return (
        f'<p class="lct-verdict">{tag("span", text)} <span class="lct-soft"><span>Highest pair:</span> '
        f"{escape(names)} ({value:.2f})</span></p>"
    )


def _version(path: Path) -> Version:
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns
