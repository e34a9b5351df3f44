"""What the picker says about a file: read from its header when somebody looks at it, once per version of the file."""

from __future__ import annotations

import base64
import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats import LoraFile, describe, read_lora

T = TypeVar("T")
THUMBNAIL = 96  # pixels; twice the size of a row's picture
LARGEST_PICTURE = 32_000_000  # bytes; a preview larger than this is not opened
LOW_RANK = ("lora", "locon")


@dataclass(frozen=True)
class Layout:
    """One layer of a file: canonical name, (out, in) of its update and the rank that the update has at most."""

    name: str
    out_features: int
    in_features: int
    rank: int


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
    """Facts, layouts and thumbnails of files. Nothing is read twice unless the file changed."""

    def __init__(self) -> None:
        self._facts = _ByVersion[Facts](4096)
        self._layouts = _ByVersion[tuple[Layout, ...]](64)
        self._thumbnails = _ByVersion[str](4096)

    def facts(self, path: Path) -> Facts:
        """From the header alone."""
        return self._facts.get(path, _read_facts, Facts(problem="The file does not exist any more."))

    def layout(self, path: Path) -> tuple[Layout, ...]:
        """The layers that the file changes; empty when it cannot be read."""
        return self._layouts.get(path, _read_layout, ())

    def thumbnail(self, path: Path | None) -> str:
        """A small picture as a data address, or nothing."""
        return "" if path is None else self._thumbnails.get(path, _read_thumbnail, "")


class _ByVersion(OrderedDict[tuple[Path, int, int], T]):
    """Values by (path, size, modification time), the oldest dropped beyond `limit`."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.lock = limit, threading.Lock()

    def get(self, path: Path, read: Callable[[Path], T], missing: T) -> T:  # type: ignore[override]
        """The value for the file as it is now; `missing` when there is none."""
        try:
            status = path.stat()
        except OSError:
            return missing
        key = (path, status.st_size, status.st_mtime_ns)
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


def _read_layout(path: Path) -> tuple[Layout, ...]:
    try:
        return tuple(_layouts(read_lora(path, values=False)))
    except InputError:
        return ()


def _layouts(lora: LoraFile) -> list[Layout]:
    found: list[Layout] = []
    for name, update in lora.layers.items():
        out_features, in_features = update.size
        if not out_features or not in_features:
            continue
        full = min(out_features, in_features)
        rank = update.rank or full
        if update.kind == "loha":
            rank *= rank
        elif update.kind not in LOW_RANK:
            rank = full
        found.append(Layout(name, out_features, in_features, min(rank, full)))
    return found


def _read_thumbnail(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_PICTURE:
            return ""
        with Image.open(path) as picture:
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            small = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
