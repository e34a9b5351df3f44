"""ED-LoRA concept files of Mix-of-Show (`.pth`): layer-wise embeddings plus LoRA factors, no alpha.

Layout: {"params": {"new_concept_embedding": {token: (16, width)}, "text_encoder": {key: tensor}, "unet": {...}}}, keys
`….to_q.lora_down.weight` (main branch) or `….to_q_lora.down.weight` (research branch). The scale is whatever alpha the
user gives at merge time.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.safetensors_io import read_error

EDLORA_SUFFIXES = (".pth",)


def read_edlora(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(LoRA tensors by `component.key`, embeddings by token). Only tensors are unpickled (`weights_only`).

    Raises InputError if the file is not an ED-LoRA or holds anything but plain data.
    """
    file = str(path)
    try:
        if path.stat().st_size == 0:
            raise InputError("empty-file", f"{path.name} is empty (0 bytes).", file=file)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise read_error(path, error) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        message = f"{path.name} is not an ED-LoRA file of plain tensors and was not opened."
        raise InputError("pickle", message, file=file) from error
    params = loaded.get("params", loaded) if isinstance(loaded, dict) else None
    if not isinstance(params, dict) or not ({"unet", "text_encoder", "new_concept_embedding"} & set(params)):
        raise InputError("not-edlora", f"{path.name} is not an ED-LoRA concept file.", file=file)
    tensors = {
        f"{component}.{key}": tensor
        for component in ("unet", "text_encoder")
        for key, tensor in _tensors(params.get(component)).items()
    }
    return tensors, _tensors(params.get("new_concept_embedding"))


def _tensors(part: Any) -> dict[str, Tensor]:
    if not isinstance(part, Mapping):
        return {}
    return {str(key): value for key, value in part.items() if isinstance(value, Tensor)}
