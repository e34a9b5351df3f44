"""The WebUI's own list of LoRAs, and what has to forget a file that was replaced."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from modules import processing, shared

from lib_loraclr.app.application import CatalogueEntry
from lib_loraclr.app.catalogue import FolderCatalogue, thumbnail_of
from lib_loraclr.formats import read_sidecar

_READING = Lock()  # the WebUI empties its list before it reads the folders again


class WebuiCatalogue:
    """The LoRAs that the built-in Lora extension knows; without that extension, the files of the LoRA folder.

    `forget(name)` is the adapter's: it makes the loaded model drop what it has of a LoRA whose file was replaced.
    """

    def __init__(self, forget: Callable[[str], None]) -> None:
        self._forget = forget
        self._files = FolderCatalogue(self.folder())

    def entries(self, *, refresh: bool = False) -> Sequence[CatalogueEntry]:
        """All `.safetensors` files, sorted by name."""
        networks = lora_extension()
        if networks is None:
            return self._files.entries(refresh=refresh)
        with _READING:
            if refresh or not networks.available_networks:
                networks.list_available_networks()
            known = list(networks.available_networks.items())
        entries: list[CatalogueEntry] = []
        for name, network in known:
            path = Path(network.filename)
            if path.suffix.lower() == ".safetensors":
                entries.append(CatalogueEntry(name, path, thumbnail_of(path), read_sidecar(path)))
        return sorted(entries, key=lambda entry: entry.name.lower())

    def folder(self) -> Path:
        """The WebUI's LoRA folder."""
        return Path(shared.cmd_opts.lora_dir)

    def written(self, path: Path) -> None:
        """Read the folders again; drop tensors, weights and prompts that were made with an older file of that name."""
        self._files.written(path)
        networks = lora_extension()
        if networks is not None:
            with _READING:
                networks.list_available_networks()
        self._forget(path.stem)
        for kind in (processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img):
            for cache in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):
                if cache in vars(kind):
                    setattr(kind, cache, [None] * len(getattr(kind, cache)))


def lora_extension() -> Any | None:
    """The module `networks` of the built-in Lora extension; None where the user switched it off."""
    networks = sys.modules.get("networks")
    return networks if hasattr(networks, "available_networks") else None
