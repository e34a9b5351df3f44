"""The checkpoint that is chosen but not loaded yet: Forge loads it for the next picture, or for our next job."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from backend import memory_management
from modules import sd_models

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.keys.family import family_of_checkpoint
from lib_loraclr.formats.safetensors_io import SafetensorsFile
from lib_loraclr.hosts.webui.native import native_size
from lib_loraclr.model import ModelInfo


def selected_checkpoint() -> Any | None:
    """Forge's entry of the checkpoint that the user chose; None before there is one."""
    return sd_models.model_data.forge_loading_parameters.get("checkpoint_info")


def describe_selected() -> ModelInfo | None:
    """What the chosen file's header says, without loading it; None where it does not say enough."""
    chosen = selected_checkpoint()
    if chosen is None:
        return None
    path = Path(chosen.filename)
    try:
        family = _family(path, path.stat().st_mtime_ns)
    except OSError:
        return None
    if family == "unknown":
        return None
    device = torch.device(memory_management.get_torch_device())
    native = native_size(path, family, v_prediction=False)
    return ModelInfo(str(chosen.name_for_extra), family, chosen.sha256 or "", native, device, torch.float32)


@lru_cache(maxsize=16)
def _family(path: Path, changed: int) -> str:
    try:
        return family_of_checkpoint(SafetensorsFile.open(path).tensors)
    except (InputError, OSError, ValueError):
        return "unknown"
