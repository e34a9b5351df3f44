"""Typed values out of untyped data (JSON, forms, arguments), with errors that name the key.

A check returns the typed value, or raises ValueError with the words for what would be right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lib_loraclr.core.errors import InputError

T = TypeVar("T")


def text(value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def integer(value: Any) -> int:
    """A whole number (true and false are none)."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("a whole number")
    return value


def number(value: Any) -> float:
    """A finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError("a finite number")
    return float(value)


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def array(value: Any) -> list[Any]:
    """A list."""
    if not isinstance(value, list | tuple):
        raise ValueError("a list")
    return list(value)


def object_(value: Any) -> dict[str, Any]:
    """An object with text keys."""
    if not isinstance(value, Mapping):
        raise ValueError("an object")
    return {str(name): item for name, item in value.items()}


def one_of(allowed: Sequence[str]) -> Callable[[Any], str]:
    """One of the allowed texts."""

    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError("one of " + ", ".join(allowed))
        return str(value)

    return check


def templates(value: Any) -> tuple[str, ...]:
    """Prompts in which {c} and {other} may stand, and no other field."""
    prompts = array(value)
    try:
        for prompt in prompts:
            text(prompt).format(c="", other="")
    except (KeyError, IndexError, ValueError, AttributeError):
        raise ValueError("prompts with no other braces than {c} and {other}") from None
    return tuple(prompts)


def resolve(path: str, folder: Path | None) -> Path:
    """A path as the user wrote it, `~` expanded, against `folder` when relative."""
    return Path(path).expanduser() if folder is None else folder / Path(path).expanduser()


class Reader:
    """Takes named values out of a mapping, remembers which were asked for, and words the errors."""

    def __init__(self, raw: Mapping[str, Any], prefix: str, source: str | None, folder: Path | None) -> None:
        self.raw, self.prefix, self.source, self.folder = raw, prefix, source, folder
        self.known: list[str] = []

    def get(self, name: str, check: Callable[[Any], T], default: Any) -> Any:
        """The checked value of `name`; absent and null mean the default."""
        self.known.append(name)
        value = self.raw.get(name)
        if value is None:
            return default
        try:
            return check(value)
        except ValueError as right:
            raise self.wrong(self.prefix + name, str(right), value) from None

    def path(self, name: str, *, required: bool = False) -> Path | None:
        """The value of `name` as a path, relative ones against the recipe's folder."""
        value: str | None = self.get(name, lambda given: text(str(given) if isinstance(given, Path) else given), None)
        if not value:
            if required:
                key = self.prefix + name
                raise InputError("missing-option", f"'{key}' is missing.", file=self.source, key=key)
            return None
        return resolve(value, self.folder)

    def wrong(self, key: str, right: str, value: Any) -> InputError:
        """The error for a value of the wrong type or range."""
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
        return InputError("bad-option", f"'{key}' must be {right}, not {shown}.", file=self.source, key=key)

    def finish(self) -> None:
        """Raise InputError for the first name that nobody asked for."""
        for name in self.raw:
            if name not in self.known:
                key = f"{self.prefix}{name}"
                hint = ", ".join(self.known)
                raise InputError(
                    "unknown-option", f"'{key}' is not an option; known are {hint}.", file=self.source, key=key
                )
