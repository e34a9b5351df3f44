"""Opening the model a job runs on: which device, and who loads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from lib_loraclr.core.errors import InputError
from lib_loraclr.model import DiffusionHost

HostOpener = Callable[[Path | None, str], DiffusionHost]
"""(checkpoint, device) -> loaded model. A WebUI's opener ignores both and hands out the model that is loaded."""


def resolve_device(text: str) -> torch.device:
    """`auto` is a CUDA GPU when there is one, else the CPU. Raises InputError for a device that is not there."""
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            "bad-device", f"The device '{text}' does not exist or cannot be used here.", key="device"
        ) from error
    return device
