"""Several LoRAs merged into one that keeps each of them: for the Stable Diffusion WebUI, the command line and programs.

    import lib_loraclr

    lib_loraclr.merge(["anna.safetensors", "ben.safetensors"], "both.safetensors", checkpoint="model.safetensors")

Importing this package loads nothing; the first use of a name below loads what it needs (docs/python.md).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lib_loraclr.version import __version__

if TYPE_CHECKING:
    from lib_loraclr.core.errors import Cancelled, InputError, LoraclrError
    from lib_loraclr.formats.inspect import Inspection
    from lib_loraclr.frontends.library import inspect, merge
    from lib_loraclr.merging.options import LoraChoice
    from lib_loraclr.merging.outcome import MergeOutcome

__all__ = [
    "Cancelled",
    "InputError",
    "Inspection",
    "LoraChoice",
    "LoraclrError",
    "MergeOutcome",
    "__version__",
    "inspect",
    "merge",
]

_MODULES = {
    "Cancelled": "core.errors",
    "InputError": "core.errors",
    "Inspection": "formats.inspect",
    "LoraChoice": "merging.options",
    "LoraclrError": "core.errors",
    "MergeOutcome": "merging.outcome",
    "inspect": "frontends.library",
    "merge": "frontends.library",
}


def __getattr__(name: str) -> Any:
    """Load a public name at its first use, so that a WebUI's start and `--version` wait for no torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*globals(), *__all__})
