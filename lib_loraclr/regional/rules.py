"""One rule per field of the regional spec: its JSON key, its range and one sentence about it.

The dataclasses of `spec.py` carry the rules as field metadata; the parser, the writer and the JSON schema read them, so
that a field is described in one place.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Rule:
    """`kind` is "number", "whole", "flag", "text", "span" (two numbers, the first not above the second) or "part".

    `optional` allows null. `part` is the dataclass of a nested object.
    """

    key: str
    kind: str
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False
    part: type[Any] | None = None


def number(
    key: str, default: float | None, help: str, low: float = 0.0, high: float = 1.0, *, optional: bool = False  # noqa: A002
) -> Any:  # fmt: skip
    """A finite number from `low` to `high`; with `optional` also null."""
    return field(default=default, metadata={"rule": Rule(key, "number", help, low, high, optional=optional)})


def whole(key: str, default: int, help: str, low: int, high: int) -> Any:  # noqa: A002
    """A whole number from `low` to `high`."""
    return field(default=default, metadata={"rule": Rule(key, "whole", help, low, high)})


def flag(key: str, default: bool, help: str) -> Any:  # noqa: A002
    """True or false."""
    return field(default=default, metadata={"rule": Rule(key, "flag", help)})


def text(key: str, default: str, help: str, choices: tuple[str, ...] = ()) -> Any:  # noqa: A002
    """Text, or one of `choices`."""
    return field(default=default, metadata={"rule": Rule(key, "text", help, choices=choices)})


def span(key: str, help: str) -> Any:  # noqa: A002
    """Two shares of the sampling run, first and last."""
    return field(default=(0.0, 1.0), metadata={"rule": Rule(key, "span", help, 0.0, 1.0)})


def part(key: str, kind: type[Any], help: str) -> dict[str, Rule]:  # noqa: A002
    """Metadata of a nested object of dataclass `kind`."""
    return {"rule": Rule(key, "part", help, part=kind)}


def ruled(kind: type[Any]) -> list[tuple[Field[Any], Rule]]:
    """The fields of a dataclass that have a rule, in order."""
    return [(item, item.metadata["rule"]) for item in fields(kind) if "rule" in item.metadata]
