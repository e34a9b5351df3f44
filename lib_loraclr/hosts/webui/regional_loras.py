"""LoRAs that act in one region only, in a WebUI: found by name, read once a generation, hooked by the runtime.

The WebUI itself never learns of them: its own LoRAs are in the weights, these are added by hooks with each region's
weight (UNet), and while that region's text is encoded (text encoder).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from lib_loraclr.capture import inject
from lib_loraclr.core.deltas import Delta, LayerShape, add
from lib_loraclr.core.errors import InputError
from lib_loraclr.formats import read_lora
from lib_loraclr.formats.weighted import check_families, host_shapes, weighted_deltas
from lib_loraclr.hosts.webui.catalogue import WebuiCatalogue
from lib_loraclr.model import DiffusionHost
from lib_loraclr.regional import RegionalSpec, RegionLora
from lib_loraclr.regional.lora import RegionDeltas

Deltas = Mapping[str, Delta]
TextScope = Callable[[DiffusionHost], AbstractContextManager[None]]


class RegionLoras:
    """The `loras` of a spec's active regions on one loaded model.

    A LoRA that is missing or does not fit is left out, and `note` gets a sentence about it.
    """

    def __init__(self, spec: RegionalSpec, host: DiffusionHost, scope: TextScope, note: Callable[[str], None]) -> None:
        self._host, self._scope, self._note = host, scope, note
        files = {entry.name: entry.path for entry in WebuiCatalogue(lambda name: None).entries()}
        shapes = host_shapes(host)
        self._deltas = [
            _stacked([self._read(files, lora, shapes) for lora in region.loras]) for region in spec.active()
        ]

    def unet(self) -> RegionDeltas | None:
        """What the runtime hooks; None where no region has a LoRA for the UNet."""
        parts = [_part(deltas, text=False) for deltas in self._deltas]
        return RegionDeltas(parts, self._host.layers()) if any(parts) else None

    def acts(self, region: int) -> bool:
        """Whether any LoRA of a region could be used."""
        return bool(self._deltas[region])

    def changes_text(self, region: int) -> bool:
        """Whether a region's text is encoded with LoRAs of its own."""
        return any(name.startswith("text_encoder") for name in self._deltas[region])

    @contextmanager
    def encoding(self, region: int) -> Iterator[None]:
        """Scope in which the text encoder has the LoRAs of one region."""
        with self._scope(self._host), inject(self._host.layers(), _part(self._deltas[region], text=True)):
            yield

    def _read(self, files: Mapping[str, Path], wanted: RegionLora, shapes: Mapping[str, LayerShape]) -> Deltas:
        """Names only, never paths: a layout may come from a picture or over the network."""
        try:
            if wanted.name not in files:
                raise InputError("file-not-found", f"There is no LoRA '{wanted.name[:60]}'.", key="loras")
            lora = read_lora(files[wanted.name])
            check_families([lora], self._host.info.family)
            return weighted_deltas(lora, wanted.unet, wanted.te, self._host.base_weight, shapes)[0]
        except InputError as error:
            self._note(f"A region's LoRA is left out: {error.message}")
            return {}


def _stacked(parts: Sequence[Deltas]) -> Deltas:
    """Several LoRAs of one region as one update of every layer."""
    found: dict[str, list[Delta]] = {}
    for part in parts:
        for name, delta in part.items():
            found.setdefault(name, []).append(delta)
    return {name: deltas[0] if len(deltas) == 1 else add(deltas) for name, deltas in found.items()}


def _part(deltas: Deltas, *, text: bool) -> dict[str, Delta]:
    return {name: delta for name, delta in deltas.items() if name.startswith("text_encoder") == text}
