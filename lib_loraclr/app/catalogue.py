"""The LoRAs that a program knows, one of them by its name, and names for new ones: names only, never paths."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lib_loraclr.app.application import Catalogue, CatalogueEntry
from lib_loraclr.core.errors import InputError
from lib_loraclr.formats import read_sidecar

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")  # the WebUI's order: <stem>.png, then <stem>.preview.png


class FolderCatalogue:
    """Every `.safetensors` file in a folder and below it; links are followed, hidden folders are not entered.

    A name is the file's stem, as in a prompt. Where two files share a stem, the later one in the order of their paths
    goes by its path inside the folder without the ending, which `formats.weighted.find_lora` understands too.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)
        self._entries: list[CatalogueEntry] | None = None

    def entries(self, *, refresh: bool = False) -> Sequence[CatalogueEntry]:
        """All entries, sorted by name; the folder is read the first time and with `refresh`."""
        if refresh or self._entries is None:
            self._entries = self._read()
        return self._entries

    def folder(self) -> Path:
        """The folder itself."""
        return self._folder

    def written(self, path: Path) -> None:
        """The next `entries` reads the folder again."""
        self._entries = None

    def _read(self) -> list[CatalogueEntry]:
        found: dict[str, CatalogueEntry] = {}
        for path in sorted(lora_files(self._folder)):
            name = path.stem
            if name in found:
                name = path.relative_to(self._folder).with_suffix("").as_posix()
            found[name] = CatalogueEntry(name, path, thumbnail_of(path), read_sidecar(path))
        return sorted(found.values(), key=lambda entry: entry.name.lower())


def entry_of(catalogue: Catalogue, name: object) -> CatalogueEntry:
    """The LoRA of that name; the folder is read again once for a new file. Raises InputError "unknown-lora".

    The only look-up for names from requests, layouts and pictures: they are compared, and never become paths.
    """
    if isinstance(name, str):
        for refresh in (False, True):
            for entry in catalogue.entries(refresh=refresh):
                if entry.name == name:
                    return entry
    raise InputError("unknown-lora", f"There is no LoRA named {str(name)[:80]!r}.", key="loras")


def lora_files(folder: Path) -> Iterator[Path]:
    """Every visible `.safetensors` file below `folder`; a folder that is reached twice through links is read once."""
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.lower().endswith(".safetensors") and not name.startswith("."):
                yield Path(root) / name


def thumbnail_of(path: Path) -> Path | None:
    """The preview picture beside a LoRA file."""
    for ending in (*PICTURES, *(f".preview{suffix}" for suffix in PICTURES)):
        picture = path.with_name(path.stem + ending)
        if picture.is_file():
            return picture
    return None


ENDING = ".safetensors"
LONGEST = 120  # characters, so that the name with its endings fits into every file system's 255 bytes
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')


def lora_path(folder: Path, name: str) -> Path:
    """Where the LoRA `name` (with or without its ending) is written in `folder`.

    Raises InputError "bad-output-name" for a name that is a path, that a prompt's tag cannot hold, or that some system
    does not allow.
    """
    stem = name.strip().removesuffix(ENDING).strip()
    reason = ""
    if not stem:
        reason = "The new LoRA needs a name."
    elif _FORBIDDEN.search(stem) or stem.startswith("."):
        reason = 'A name may not begin with a dot or hold any of < > : " / \\ | ? *'
    elif _RESERVED.fullmatch(stem) or stem.endswith((".", " ")) or len(stem) > LONGEST:
        reason = f"'{stem[:40]}' cannot be a file's name on every system; choose another."
    if reason:
        raise InputError("bad-output-name", reason, key="out")
    return folder / (stem + ENDING)


def free_name(folder: Path, name: str) -> str:
    """`name`, or `name-2` and so on when the folder has a LoRA of that name (in any case of its letters)."""
    stem = name.strip().removesuffix(ENDING).strip()
    try:
        taken = {path.stem.lower() for path in folder.iterdir() if path.suffix.lower() == ENDING}
    except OSError:
        return stem
    if stem.lower() not in taken:
        return stem
    base = re.sub(r"-\d+$", "", stem)
    number = 2
    while f"{base}-{number}".lower() in taken:
        number += 1
    return f"{base}-{number}"
