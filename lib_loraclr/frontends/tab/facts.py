"""What files say: each from its header, read once per version when somebody looks at it; and how pairs interfere."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from lib_loraclr.app.cost import LoraLayer, layers_of
from lib_loraclr.core.errors import Cancelled, InputError, LoraclrError
from lib_loraclr.formats import describe, read_lora
from lib_loraclr.html import picture_address
from lib_loraclr.merging.inputs import overlap
from lib_loraclr.model import Phase

T = TypeVar("T")
THUMBNAIL = 96  # pixels; twice the size of a row's picture
LARGEST_PICTURE = 32_000_000  # bytes; a preview larger than this is not opened
NEEDS_MODEL = "DoRA and OFT files are defined together with the base model; their interference is not shown."
Version = tuple[Path, int, int]  # path, size, modification time


@dataclass(frozen=True)
class Facts:
    """`problem` is the reason why a file cannot be used, empty for a good one; the rest then says nothing."""

    family: str = "unknown"
    types: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    bytes: int = 0
    triggers: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    needs_checkpoint: bool = False
    recipe: dict[str, Any] | None = None
    problem: str = ""

    @property
    def rank_text(self) -> str:
        """One rank, or from lowest to highest."""
        if not self.ranks:
            return ""
        low, high = min(self.ranks), max(self.ranks)
        return str(low) if low == high else f"{low} to {high}"


class FileFacts:
    """Facts, layers and thumbnails of files. Nothing is read twice unless the file changed."""

    def __init__(self) -> None:
        self._facts = _ByVersion[Facts](4096)
        self._layers = _ByVersion[tuple[LoraLayer, ...]](64)
        self._thumbnails = _ByVersion[str](4096)

    def facts(self, path: Path) -> Facts:
        """From the header alone."""
        return self._facts.get(path, _read_facts, Facts(problem="The file does not exist any more."))

    def layers(self, path: Path) -> tuple[LoraLayer, ...]:
        """The layers that the file changes; empty when it cannot be read."""
        return self._layers.get(path, _read_layers, ())

    def thumbnail(self, path: Path | None) -> str:
        """A small picture as a data address, or nothing."""
        return "" if path is None else self._thumbnails.get(path, _read_thumbnail, "")


class _ByVersion(OrderedDict[Version, T]):
    """Values by (path, size, modification time), the oldest dropped beyond `limit`."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.lock = limit, threading.Lock()

    def get(self, path: Path, read: Callable[[Path], T], missing: T) -> T:  # type: ignore[override]
        """The value for the file as it is now; `missing` when there is none."""
        try:
            key = _version(path)
        except OSError:
            return missing
        with self.lock:
            if key in self:
                self.move_to_end(key)
                return self[key]
        value = read(path)
        with self.lock:
            self[key] = value
            while len(self) > self.limit:
                self.popitem(last=False)
        return value


def _read_facts(path: Path) -> Facts:
    try:
        about = describe(read_lora(path, values=False))
    except InputError as error:
        return Facts(problem=error.message, bytes=path.stat().st_size)
    return Facts(
        family=about["family"],
        types=tuple(about["types"]),
        ranks=tuple(int(rank) for rank in about["ranks"]),
        bytes=about["bytes"],
        triggers=tuple(about["triggers"]),
        tags=tuple(about["frequent_tags"]),
        needs_checkpoint=about["needs_checkpoint"],
        recipe=about["recipe"],
    )


def _read_layers(path: Path) -> tuple[LoraLayer, ...]:
    try:
        return tuple(layers_of(read_lora(path, values=False)))
    except InputError:
        return ()


def _read_thumbnail(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_PICTURE:
            return ""
        with Image.open(path) as picture:
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            small = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    return picture_address(small, quality=80)


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
                matrix = overlap([path for _, path in files], progress=_Newest(self, number)).matrix
                for i, a in enumerate(versions):
                    for j, b in enumerate(versions):
                        self._known[a, b] = matrix[i][j]
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

    def phase(self, phase: Phase, steps: int, detail: str = "") -> None:
        """Look whether it still matters."""
        self.step()

    def step(self, text: str = "") -> None:
        """Raise Cancelled when a newer request came."""
        if not self.owner.is_latest(self.number):
            raise Cancelled

    def message(self, text: str) -> None:
        """Nothing to log."""


def _version(path: Path) -> Version:
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns
