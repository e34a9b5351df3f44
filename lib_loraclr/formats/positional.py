"""cloneofsimo's safetensors: `unet:3:up`, numbered in the order in which layers were injected, no names."""

from __future__ import annotations

from collections.abc import Iterable

from lib_loraclr.formats.safetensors_io import SafetensorsFile


def is_positional(keys: Iterable[str]) -> bool:
    """Whether the file numbers its layers."""
    return any(key.startswith(("unet:", "text_encoder:")) for key in keys)


def named_keys(file: SafetensorsFile) -> tuple[dict[str, str], list[str]]:
    """(name that the readers know -> key in the file, keys of embeddings)."""
    raise NotImplementedError
