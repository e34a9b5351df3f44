"""The registry of merge methods: every `MergeMethod` of a module in this folder, in the order of their `place`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from lib_loraclr.core.errors import InputError
from lib_loraclr.core.methods.base import MergeMethod
from lib_loraclr.options import complete


def _methods() -> list[MergeMethod]:
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return sorted((kind() for kind in MergeMethod.__subclasses__()), key=lambda method: method.place)


METHODS: dict[str, MergeMethod] = {method.name: method for method in _methods()}


def get_method(name: str) -> MergeMethod:
    """The method called `name`; InputError "unknown-method" otherwise."""
    if name not in METHODS:
        raise InputError("unknown-method", f"There is no merge method '{name}'; choose one of {', '.join(METHODS)}.")
    return METHODS[name]


def complete_options(method: str | MergeMethod, values: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of the method, from `values` (typed, or their text) or its default.

    Raises InputError "bad-option" with the option's name as key for an unknown name, a wrong type or range.
    """
    chosen = get_method(method) if isinstance(method, str) else method
    return chosen.settle(complete(chosen.options, values, retired=chosen.retired))
