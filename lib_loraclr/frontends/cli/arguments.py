"""Arguments out of the options: flags from fields, and which trigger belongs to which `--lora`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lib_loraclr.core.errors import InputError
from lib_loraclr.options import Field, FieldReader, Fields

Event = tuple[str, str]


class InOrder(argparse.Action):
    """Appends (option, value) to one list, so that the order across options survives."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Record one use of the option."""
        events: list[Event] = [*(getattr(namespace, self.dest, None) or [])]
        events.append((str(option_string).lstrip("-").replace("-", "_"), values))
        setattr(namespace, self.dest, events)


def pair(events: Sequence[Event], belonging: Sequence[str] = ("trigger", "class_word", "kind")) -> list[dict[str, str]]:
    """Events to one mapping per LoRA: {"lora": …, "trigger": …, "class_word": …, "kind": …}.

    As many triggers as LoRAs are paired in order; fewer belong to the LoRA that stands before each of them. Raises
    InputError for a trigger that has no LoRA and for two at one LoRA.
    """
    loras = [{"lora": value} for name, value in events if name == "lora"]
    for name in belonging:
        values = [value for event, value in events if event == name]
        if len(values) == len(loras):
            for entry, value in zip(loras, values, strict=True):
                entry[name] = value
            continue
        flag = "--" + name.replace("_", "-")
        index = -1
        for event, value in events:
            index += event == "lora"
            if event != name:
                continue
            if index < 0:
                raise InputError("bad-arguments", f"{flag} '{value}' stands before the first --lora.", key=name)
            if name in loras[index]:
                raise InputError("bad-arguments", f"Two {flag} belong to --lora '{loras[index]['lora']}'.", key=name)
            loras[index][name] = value
    return loras


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
