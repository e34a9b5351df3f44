"""The registry of merge methods and the one place that validates their options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lib_loraclr.core.errors import InputError
from lib_loraclr.core.methods.average import Average
from lib_loraclr.core.methods.base import MergeMethod, Option
from lib_loraclr.core.methods.contrastive import Contrastive
from lib_loraclr.core.methods.dare import Dare
from lib_loraclr.core.methods.gradient_fusion import GradientFusion
from lib_loraclr.core.methods.knots import Knots
from lib_loraclr.core.methods.sum import Sum
from lib_loraclr.core.methods.svd import Svd
from lib_loraclr.core.methods.ties import Ties

_ALL: tuple[MergeMethod, ...] = (
    Sum(),
    Average(),
    Svd(),
    Ties(),
    Dare(),
    Knots(),
    GradientFusion(),
    Contrastive(),
)
METHODS: dict[str, MergeMethod] = {method.name: method for method in _ALL}


RETIRED = {"negatives": "swap", "metric": "output"}  # recipes of 0.1.0 have these, and no merge does anything else
_KINDS: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def get_method(name: str) -> MergeMethod:
    """The method called `name`; InputError "unknown-method" otherwise."""
    if name not in METHODS:
        raise InputError("unknown-method", f"There is no merge method '{name}'; choose one of {', '.join(METHODS)}.")
    return METHODS[name]


def complete_options(method: str | MergeMethod, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of the method, from `given` (values or their text) or its default.

    Raises InputError "bad-option" with the option's name as key for an unknown name, a wrong type or range.
    """
    chosen = get_method(method) if isinstance(method, str) else method
    known = {option.name: option for option in chosen.options}
    given = {name: value for name, value in given.items() if name in known or RETIRED.get(name) != value}
    for name in given:
        if name not in known:
            raise _bad(
                name, f"The method '{chosen.name}' has no option '{name}' ({', '.join(known) or 'none at all'})."
            )
    complete = {name: _value(option, given.get(name, option.default)) for name, option in known.items()}
    return chosen.settle(complete)


def _bad(name: str, message: str) -> InputError:
    return InputError("bad-option", message, key=name)


def _value(option: Option, given: Any) -> float | int | str | bool:
    """`given` as the option's type, within its range."""
    try:
        value = _converted(given, type(option.default))
    except (TypeError, ValueError):
        kind = _KINDS[type(option.default)]
        raise _bad(option.name, f"The option '{option.name}' must be {kind}, not '{given}'.") from None
    if option.choices and value not in option.choices:
        raise _bad(
            option.name, f"The option '{option.name}' must be one of {', '.join(option.choices)}, not '{value}'."
        )
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = option.low, option.high
        if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
            bounds = (
                f"at least {low:g}" if high is None else f"at most {high:g}" if low is None else f"{low:g} to {high:g}"
            )
            raise _bad(option.name, f"The option '{option.name}' must be {bounds}, not {value:g}.")
    return value


def _converted(given: Any, kind: type) -> float | int | str | bool:
    if kind is bool:
        text = str(given).strip().lower()
        if text not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
            raise ValueError(text)
        return text in ("true", "1", "yes", "on")
    if kind is str:
        return str(given)
    if isinstance(given, bool):
        raise ValueError(given)
    if kind is int:
        number = float(given)
        if not number.is_integer():
            raise ValueError(given)
        return int(number)
    return float(given)
