"""The folder of an evaluation: every picture, what it shows, and the numbers. Report and rating page read it.

evaluation.json                  settings, concepts, variants, rows
references/CONCEPT-1.png         the references, copied
pictures/VARIANT/CONCEPT-1.png   picture k of a concept in one variant; neutral prompts as `neutral-1.png`
report.html                      the page
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.output import write_bytes, write_text

FORMAT = 2
FILE = "evaluation.json"
PICTURE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
Pictures = NDArray[np.uint8]
"""(n, height, width, 3), red green blue, 0 to 255."""


# Format 1, of version 0.1.0, had other names for these: in the object itself, in `settings`, and in its `brush`.
RENAMED = {"ways": "variants", "brush": "sampling", "meters": "metrics",
           "cfg": "cfg_scale", "negative": "negative_prompt", "batch": "batch_size"}  # fmt: skip


def _upgraded(data: Any) -> Any:
    """The content of evaluation.json with today's names. Raises ValueError for a format that is not known."""
    if data["format"] == 1:
        data = {**_renamed(data), "format": FORMAT, "settings": _renamed(data.get("settings", {}))}
        if "sampling" in data["settings"]:
            data["settings"]["sampling"] = _renamed(data["settings"]["sampling"])
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']} is not {FORMAT}")
    return data


def _renamed(data: Mapping[str, Any]) -> dict[str, Any]:
    return {RENAMED.get(name, name): value for name, value in data.items()}


def slug(name: str) -> str:
    """A name as part of a file name; different names stay different."""
    plain = re.sub(r"[^A-Za-z0-9._()+-]+", "-", name).strip("-.")
    if plain and plain == name:
        return plain
    return f"{plain}-{hashlib.sha256(name.encode('utf-8')).hexdigest()[:6]}".lstrip("-")


@dataclass
class EvaluationFolder:
    """`data` is the content of evaluation.json; `save` writes it."""

    path: Path
    data: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def start(cls, path: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> EvaluationFolder:
        """Begin, or go on where an evaluation with the same settings stopped.

        Raises InputError "output-exists" for a folder that holds another evaluation, unless `overwrite`: its pictures
        are then painted anew. Files that are not an evaluation's are never touched.
        """
        wanted = json.loads(json.dumps(settings))
        if (path / FILE).is_file():
            existing = cls.open(path)
            if existing.data.get("settings") == wanted and not overwrite:
                return existing
            if not overwrite:
                message = "The folder holds an evaluation with other settings; choose another one, or overwrite it."
                raise InputError("output-exists", message, file=str(path), key="out")
            for old in (path / "pictures").glob("*/*.png"):
                old.unlink()
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path, {"format": FORMAT, "settings": wanted, "concepts": [], "variants": [], "rows": []})
        folder.save()
        return folder

    @classmethod
    def open(cls, path: Path) -> EvaluationFolder:
        """Read a finished or stopped evaluation. Raises InputError."""
        file = path / FILE
        if not file.is_file():
            raise InputError("file-not-found", "This folder holds no evaluation.", file=str(file))
        try:
            data = _upgraded(json.loads(file.read_text(encoding="utf-8")))
            for name in ("concepts", "variants", "rows"):
                if not isinstance(data[name], list):
                    raise ValueError(f"{name} is not a list")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError("bad-evaluation", f"The evaluation cannot be read: {error}.", file=str(file)) from error
        return cls(path, data)

    def save(self) -> None:
        """Write evaluation.json in one step."""
        write_text(self.path / FILE, json.dumps(self.data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    def picture_path(self, variant: str, concept: str, number: int) -> Path:
        """Where picture `number` (from 1) of a concept in one variant is."""
        return self.path / "pictures" / slug(variant) / f"{slug(concept)}-{number}.png"

    def put_concept(self, name: str, about: Mapping[str, Any], references: Pictures | Sequence[Image.Image]) -> None:
        """Copy the reference pictures and note the concept."""
        files: list[str] = []
        for number, picture in enumerate(references, 1):
            path = self.path / "references" / f"{slug(name)}-{number}.png"
            write_picture(path, picture)
            files.append(path.relative_to(self.path).as_posix())
        self._replace("concepts", {"name": name, **about, "references": files})

    def begin_variant(self, name: str, source: str) -> None:
        """Pictures of this variant that were made from another `source` go."""
        sources: dict[str, str] = self.data.setdefault("sources", {})
        if sources.get(name, source) != source:
            for old in self.picture_path(name, "x", 1).parent.glob("*.png"):
                old.unlink()
        if sources.get(name) != source:
            sources[name] = source
            self.save()

    def put_variant(self, name: str, label: str, pictures: Mapping[str, int]) -> None:
        """Note a finished variant: concept -> number of its pictures, which lie in their places."""
        files = {
            concept: [
                self.picture_path(name, concept, k).relative_to(self.path).as_posix() for k in range(1, count + 1)
            ]
            for concept, count in pictures.items()
        }
        self._replace("variants", {"name": name, "label": label, "pictures": files})

    def put_scores(self, row: dict[str, Any], scores: list[dict[str, Any]], order: Sequence[str]) -> None:
        """Note a variant's numbers: its row of the table, its concepts' scores; `order` names the first rows."""
        method = row["method"]
        rows = [*(old for old in self.data["rows"] if old["method"] != method), row]
        names = list(dict.fromkeys([*order, *(one["method"] for one in rows)]))
        self.data["rows"] = sorted(rows, key=lambda one: names.index(one["method"]))
        self.data.setdefault("scores", {})[method] = scores

    def _replace(self, where: str, entry: dict[str, Any]) -> None:
        entries: list[dict[str, Any]] = self.data[where]
        for k, old in enumerate(entries):
            if old["name"] == entry["name"]:
                entries[k] = entry
                return
        entries.append(entry)


def write_picture(path: Path, picture: Image.Image | np.ndarray[Any, Any]) -> None:
    """A PNG, written in one step; its folder is made."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, stream.getvalue())


def pictures_in(path: Path) -> tuple[Path, ...]:
    """A picture, or all pictures of a folder by name. Raises InputError where there is none."""
    if path.is_file():
        return (path,)
    paths = sorted(p for p in path.glob("*") if p.suffix.lower() in PICTURE_FILES) if path.is_dir() else []
    if not paths:
        raise InputError("file-not-paths", "There is no picture here.", file=str(path), key="references")
    return tuple(paths)


def read_picture(path: Path) -> Image.Image:
    """A picture in RGB. Raises InputError for what is none."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError("bad-picture", "The picture cannot be read.", file=str(path), key="references") from error


def read_pictures(paths: Sequence[Path], side: int = 512) -> Pictures:
    """Pictures of one shape (n, side, side, 3): each fitted into a square, the rest black where it is not square."""
    return np.stack([_squared(read_picture(path), side) for path in paths])


def _squared(image: Image.Image, side: int) -> Pictures:
    if image.size == (side, side):
        return np.asarray(image)
    scale = side / max(image.size)
    fitted = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BICUBIC
    )
    square = Image.new("RGB", (side, side))
    square.paste(fitted, ((side - fitted.width) // 2, (side - fitted.height) // 2))
    return np.asarray(square)
