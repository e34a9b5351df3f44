"""LoRA files to core types and back: one reader per family, key names, the writer, metadata, sidecar."""

from lib_loraclr.formats.inspect import describe
from lib_loraclr.formats.keys.family import FAMILIES
from lib_loraclr.formats.keys.keymap import KeyMap
from lib_loraclr.formats.lora_file import FileWarning, LayerUpdate, LoraFile
from lib_loraclr.formats.metadata import merged_metadata, recipe_of
from lib_loraclr.formats.read import read_lora
from lib_loraclr.formats.safetensors_io import atomic_path, check_output
from lib_loraclr.formats.sidecar import read_sidecar, write_sidecar
from lib_loraclr.formats.writer import WrittenFile, write_lora

__all__ = [
    "FAMILIES",
    "FileWarning",
    "KeyMap",
    "LayerUpdate",
    "LoraFile",
    "WrittenFile",
    "atomic_path",
    "check_output",
    "describe",
    "merged_metadata",
    "read_lora",
    "read_sidecar",
    "recipe_of",
    "write_lora",
    "write_sidecar",
]
