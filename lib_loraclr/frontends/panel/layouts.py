"""Ready-made layouts, and the user's own as one JSON file each."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib_loraclr.core.errors import InputError
from lib_loraclr.regional import dump_spec, parse_spec
from lib_loraclr.regional.grid import grid_boxes

MAX_NAME = 60
MAX_LAYOUTS = 500
MAX_BYTES = 8_000_000
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def _boxes(*boxes: Sequence[float], names: Sequence[str] = (), **spec: Any) -> dict[str, Any]:
    regions: list[dict[str, Any]] = [
        {"id": f"r{k + 1}", "shape": {"t": "box", "r": list(box)}, "order": k} for k, box in enumerate(boxes)
    ]
    for region, name in zip(regions, names, strict=False):
        region["name"] = name
    return {"v": 1, **spec, "regions": regions}


def _grid(ratios: str) -> dict[str, Any]:
    rounded = [[round(edge, 4) for edge in (b.left, b.top, b.right, b.bottom)] for b in grid_boxes(ratios)]
    return _boxes(*rounded)


BUILT_IN: Mapping[str, Mapping[str, Any]] = {
    "Two side by side": _grid("1,1"),
    "Three side by side": _grid("1,1,1"),
    "Two by two": _grid("1,1,1;1,1,1"),
    "Foreground and background": _boxes(
        (0, 0, 1, 1), (0.25, 0.2, 0.75, 1), names=("background", "foreground"), overlap="top"
    ),
    "Portrait in the middle": _boxes((0.28, 0.06, 0.72, 1), names=("portrait",)),
    "Two people, rule of thirds": _boxes((0.08, 0.15, 0.46, 1), (0.54, 0.15, 0.92, 1), names=("left", "right")),
    "Sky, middle, ground": _grid("1,1;1,1;1,1"),
}


class LayoutStore:
    """The user's own layouts: `<folder>/<name>.json`, made on the first save."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def names(self) -> list[str]:
        """Names of the user's layouts, sorted."""
        if not self.folder.is_dir():
            return []
        files = (path for path in self.folder.glob("*.json") if path.is_file() and path.stat().st_size <= MAX_BYTES)
        return sorted((path.stem for path in files), key=str.lower)[:MAX_LAYOUTS]

    def listed(self) -> list[dict[str, Any]]:
        """Built-in layouts, then the user's, as {name, own, spec}; a file that cannot be read is left out."""
        found: list[dict[str, Any]] = [{"name": name, "own": False, "spec": spec} for name, spec in BUILT_IN.items()]
        own = ((name, self._readable(name)) for name in self.names())
        return found + [{"name": name, "own": True, "spec": spec} for name, spec in own if spec is not None]

    def load(self, name: str) -> str:
        """A layout's JSON by name. Raises InputError "no-layout"."""
        if name in BUILT_IN:
            return json.dumps(BUILT_IN[name])
        try:
            return self._read(name)
        except OSError:
            raise InputError("no-layout", f"There is no layout '{name[:MAX_NAME]}'.", key="layout") from None

    def save(self, name: str, text: str) -> None:
        """Keep a layout under a name, replacing an own one of that name. Raises InputError for a bad name or spec."""
        path = self._path(name)
        if name in BUILT_IN:
            raise InputError("bad-name", f"'{name}' is a built-in layout; choose another name.", key="name")
        content = dump_spec(parse_spec(text))
        if len(self.names()) >= MAX_LAYOUTS and not path.exists():
            raise InputError("too-many-layouts", f"There are {MAX_LAYOUTS} layouts already; delete one.", key="name")
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=".layout-", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def delete(self, name: str) -> None:
        """Remove an own layout. Raises InputError when there is none of that name."""
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise InputError("no-layout", f"There is no layout '{name}' of your own.", key="name") from None

    def _readable(self, name: str) -> dict[str, Any] | None:
        try:
            return json.loads(self._read(name))
        except (OSError, ValueError, InputError):
            return None

    def _read(self, name: str) -> str:
        return dump_spec(parse_spec(self._path(name).read_text(encoding="utf-8")))

    def _path(self, name: str) -> Path:
        """The file of a name that is one plain file name on every system. Raises InputError "bad-name"."""
        plain = name.strip()
        good = re.fullmatch(r"[\w][\w ,+()'-]*", plain) and len(plain) <= MAX_NAME and plain.lower() not in _RESERVED
        if not good:
            raise InputError(
                "bad-name", f"A layout's name is up to {MAX_NAME} letters, digits, spaces and - , + ( ) '.", key="name"
            )
        return self.folder / f"{plain}.json"
