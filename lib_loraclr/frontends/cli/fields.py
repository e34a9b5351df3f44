"""Options of a command from their fields: flags with help, and what was typed as values."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lib_loraclr.options import Field, FieldReader, Fields


def add_fields(add: Callable[..., object], fields: Fields, names: Sequence[str]) -> None:
    """A flag for each of the named fields, under its old names, too."""
    for field in (fields[name] for name in names):
        flags = [flag_of(field), *(flag_of(field, alias) for alias in field.aliases)]
        if field.type == "flag":
            add(*flags, action="store_true", default=None, dest=field.name, help=help_of(field))
        else:
            metavar = "{" + ",".join(field.choices) + "}" if field.choices else field.metavar
            add(*flags, metavar=metavar, dest=field.name, help=help_of(field))


def typed(parsed: argparse.Namespace, fields: Fields, names: Sequence[str]) -> dict[str, Any]:
    """The values that were typed of the named fields. Raises InputError "bad-arguments"."""
    reader, texts = FieldReader(code="bad-arguments", texts=True), vars(parsed)
    return {
        name: reader.value(fields[name], texts[fields[name].name], flag_of(fields[name]))
        for name in names
        if texts[fields[name].name] is not None
    }


def from_here(path: str, folder: Path | None) -> Path:
    """A path that was typed, for a reader that takes relative ones from `folder`."""
    return Path(path) if folder is None else Path.cwd() / Path(path).expanduser()


def flag_of(field: Field, name: str = "") -> str:
    """`--class-word` for `class_word`."""
    return "--" + (name or field.name).replace("_", "-")


def help_of(field: Field) -> str:
    """The field's sentence with its default, and with what argparse would take for a format escaped."""
    plain = field.type not in ("flag", "path", "table", "list") and not field.required and field.default is not None
    default = f" Default: {field.default}." if plain and field.default != "" else ""
    return (field.help + default).replace("%", "%%")
