"""Layouts written for other programs, as regional specs: Regional Prompter, Forge Couple, Mix-of-Show."""

from __future__ import annotations

from lib_loraclr.regional.importers.forge_couple import import_forge_couple
from lib_loraclr.regional.importers.imported import Imported
from lib_loraclr.regional.importers.mix_of_show import import_mix_of_show
from lib_loraclr.regional.importers.regional_prompter import import_regional_prompter

__all__ = [
    "Imported", "import_forge_couple", "import_mix_of_show", "import_regional_prompter", "import_text",
]  # fmt: skip


def import_text(text: str, negative: str = "", *, size: tuple[int, int] = (512, 512)) -> Imported:
    """A layout by its notation: `-*-` is Mix-of-Show's, capital keywords Regional Prompter's, else a line a region.

    `size` (width, height) is what Mix-of-Show's pixel positions refer to. Raises InputError "bad-import".
    """
    if "-*-" in text:
        return import_mix_of_show(text, size=size, negative=negative)
    if any(word in text for word in ("BREAK", "ADDCOL", "ADDROW", "ADDBASE", "ADDCOMM")):
        return import_regional_prompter(text, negative)
    return import_forge_couple(text, negative)
