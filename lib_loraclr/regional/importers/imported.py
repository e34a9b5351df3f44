"""What every importer returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lib_loraclr.core.errors import InputError
from lib_loraclr.regional.spec import MAX_REGIONS, Region, RegionalSpec


@dataclass(frozen=True)
class Imported:
    """The spec, the picture's own prompt and negative that go with it, and what could not be taken over."""

    spec: RegionalSpec
    prompt: str
    negative: str = ""
    notes: tuple[str, ...] = ()


def bad(message: str) -> InputError:
    """The error of an importer."""
    return InputError("bad-import", message, key="text")


def checked(regions: Sequence[Region]) -> tuple[Region, ...]:
    """The regions. Raises InputError "bad-import" for none or too many."""
    if not regions:
        raise bad("There are no regions in this text.")
    if len(regions) > MAX_REGIONS:
        raise bad(f"There are {len(regions)} regions in this text; at most {MAX_REGIONS} are possible.")
    return tuple(regions)


def trimmed(text: str) -> str:
    """A piece of a prompt without the separators' commas and blanks around it."""
    return text.strip().strip(",").strip()
