"""Names that a user or a request gives to new files: names only, never paths."""

from __future__ import annotations

import re
from pathlib import Path

from lib_loraclr.core.errors import InputError

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
