"""One reader per LoRA family: from the tensors of one layer to an update that yields the true dW.

`FAMILIES` is the order in which they are asked; the first whose tensors are there takes the layer.
"""

from __future__ import annotations

from lib_loraclr.formats.lora_file import LayerUpdate
from lib_loraclr.formats.readers.dora import DoraUpdate
from lib_loraclr.formats.readers.full import FullUpdate
from lib_loraclr.formats.readers.glora import GloraUpdate
from lib_loraclr.formats.readers.ia3 import Ia3Update
from lib_loraclr.formats.readers.loha import LohaUpdate
from lib_loraclr.formats.readers.lokr import LokrUpdate
from lib_loraclr.formats.readers.lora import LoraUpdate
from lib_loraclr.formats.readers.oft import OftUpdate
from lib_loraclr.formats.readers.parts import Parts, Update

FAMILIES: tuple[type[Update], ...] = (
    LoraUpdate,
    LohaUpdate,
    LokrUpdate,
    OftUpdate,
    Ia3Update,
    GloraUpdate,
    FullUpdate,
)


def read_update(parts: Parts) -> LayerUpdate | None:
    """The update of one layer, or None if its tensors are of no known family.

    Raises InputError where tensors are missing or their shapes contradict each other.
    """
    for family in FAMILIES:
        if family.claims(parts):
            parts.require_numbers("alpha", "scale", "on_input")
            update = family(parts)
            return DoraUpdate(update) if DoraUpdate.claims(parts) else update
    return None
